//! Sign-in with a secret, and sign-out.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use maud::html;
use serde::Deserialize;

use super::layout::PageLayout;
use crate::auth::{Access, SignIn, User};
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

#[derive(Deserialize)]
pub(super) struct Link {
    token: Option<String>,
}

pub(super) async fn show(
    layout: PageLayout,
    access: web::Data<Access>,
    link: web::Query<Link>,
    then: web::Query<Then>,
) -> HttpResponse {
    if !layout.base().signs_in {
        return nothing_to_sign_in(&layout);
    }
    match link.into_inner().token {
        None => form(&layout, &then, ""),
        Some(token) if access.redeem(&token) => let_in(&layout, &access, User::operator("operator"), then.page()),
        Some(_) => {
            let mut response = form(&layout, &then, "The link was used already, or is of an earlier run.");
            *response.status_mut() = StatusCode::FORBIDDEN;
            response
        }
    }
}

fn nothing_to_sign_in(layout: &PageLayout) -> HttpResponse {
    layout.error_page(StatusCode::NOT_FOUND, "This console has no sign-in of its own.")
}

fn form(layout: &PageLayout, then: &Then, problem: &str) -> HttpResponse {
    let content = html! {
        div class="narrow" {
            h1 { "Sign in" }
            @if !problem.is_empty() {
                p class="notice bad" role="alert" { (problem) }
            }
            form method="post" action=(layout.link(SIGN_IN)) {
                input type="hidden" name="then" value=(then.page());
                label { "Secret" input type="password" name="secret" required autocomplete="current-password" autofocus; }
                p { button class="main" { "Sign in" } }
            }
        }
    };
    layout.page("Sign in", "", &content)
}

#[derive(Deserialize)]
pub(super) struct Given {
    secret: String,
    #[serde(default)]
    then: String,
}

pub(super) async fn sign_in(layout: PageLayout, access: web::Data<Access>, given: web::Form<Given>) -> HttpResponse {
    if !layout.base().signs_in {
        return nothing_to_sign_in(&layout);
    }
    let Given { secret, then } = given.into_inner();
    let then = Then { then };
    let Some(user) = access.user_of(&secret) else {
        let mut response = form(&layout, &then, "The secret is wrong.");
        *response.status_mut() = StatusCode::FORBIDDEN;
        return response;
    };
    let_in(&layout, &access, user, then.page())
}

fn let_in(layout: &PageLayout, access: &Access, user: User, page: &str) -> HttpResponse {
    tracing::info!(user = user.name(), role = ?user.role(), "user signed in to the console");
    let cookie = access.cookie(&SignIn::new(user), &layout.base().cookie);
    let mut response = layout.see_other(page);
    // The cookie contains only characters that a header allows.
    let _ = response.add_cookie(&cookie);
    response
}

pub(super) async fn sign_out(layout: PageLayout, access: web::Data<Access>) -> HttpResponse {
    if let Some(session) = layout.session() {
        access.end(session);
    }
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
