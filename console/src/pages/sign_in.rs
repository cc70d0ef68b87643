//! Sign-in with a secret, and sign-out.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use maud::html;
use serde::Deserialize;

use super::layout::PageLayout;
use crate::auth::{Access, SignIn};
use crate::request_info::SIGN_IN;

#[derive(Deserialize)]
pub(super) struct Then {
    /// The requested page, below the console's path.
    #[serde(default)]
    then: String,
}

impl Then {
    /// The page, if it is one of the console (a path that begins with exactly one slash), else the overview.
    fn page(&self) -> &str {
        // Browsers drop tabs and line ends, and treat a backslash as a slash.
        let is_odd = |c: char| c.is_control() || c == '\\';
        let is_ours = self.then.starts_with('/') && !self.then.starts_with("//") && !self.then.contains(is_odd);
        if is_ours { &self.then } else { "/" }
    }
}

pub(super) async fn show(layout: PageLayout, then: web::Query<Then>) -> HttpResponse {
    form(&layout, &then, StatusCode::OK)
}

fn form(layout: &PageLayout, then: &Then, status: StatusCode) -> HttpResponse {
    let content = html! {
        div class="narrow" {
            h1 { "Sign in" }
            @if status != StatusCode::OK {
                p class="notice bad" role="alert" { "The secret is wrong." }
            }
            form method="post" action=(layout.link(SIGN_IN)) {
                input type="hidden" name="then" value=(then.page());
                label { "Secret" input type="password" name="secret" required autocomplete="current-password" autofocus; }
                p { button class="main" { "Sign in" } }
            }
        }
    };
    let mut response = layout.page("Sign in", "", &content);
    *response.status_mut() = status;
    response
}

#[derive(Deserialize)]
pub(super) struct Given {
    secret: String,
    #[serde(default)]
    then: String,
}

pub(super) async fn sign_in(layout: PageLayout, access: web::Data<Access>, given: web::Form<Given>) -> HttpResponse {
    let Given { secret, then } = given.into_inner();
    let then = Then { then };
    let Some(role) = access.role_of(&secret) else {
        tracing::warn!("sign-in to the console refused: the secret is wrong");
        return form(&layout, &then, StatusCode::FORBIDDEN);
    };
    tracing::info!(?role, "user signed in to the console");
    let cookie = access.cookie(&SignIn::new(role), &layout.base().cookie);
    let mut response = layout.see_other(then.page());
    // The cookie contains only characters that a header allows.
    let _ = response.add_cookie(&cookie);
    response
}

pub(super) async fn sign_out(layout: PageLayout) -> HttpResponse {
    let mut response = layout.see_other(SIGN_IN);
    let _ = response.add_cookie(&layout.base().cookie.removal());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_signing_in_one_stays_on_the_site() {
        let page = |then: &str| Then { then: then.to_owned() }.page().to_owned();
        assert_eq!(page("/events?status=failed"), "/events?status=failed");
        for elsewhere in
            ["", "//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "/\r\nx: y"]
        {
            assert_eq!(page(elsewhere), "/", "{elsewhere:?}");
        }
    }
}
