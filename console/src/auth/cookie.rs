//! The browser's cookie that contains a session.

use actix_web::cookie::{Cookie, SameSite};

/// The cookie name under which a session is signed; the browser's cookie also has the port in its name.
pub(super) const COOKIE: &str = "outbox_session";

/// The name and scope of a browser's session cookie.
#[derive(Debug, Clone, Default)]
pub(crate) struct CookieScope {
    pub(crate) name: String,
    /// The console's path.
    path: String,
    is_secure: bool,
}

impl CookieScope {
    /// `host`: the name to which the request was sent. Browsers share cookies among the ports of a host, which may serve two
    /// consoles, so the port is part of the cookie's name.
    pub(crate) fn new(host: &str, path: &str, is_secure: bool) -> Self {
        let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| port.parse::<u16>().is_ok());
        let name = port.map_or_else(|| COOKIE.to_owned(), |port| format!("{COOKIE}_{port}"));
        let path = if path.is_empty() { "/" } else { path };
        Self { name, path: path.to_owned(), is_secure }
    }

    /// A cookie with this value, which no script can read. Links from other sites send it, so that they lead to the
    /// page; forms and scripts of other sites do not.
    pub(super) fn cookie(&self, value: String) -> Cookie<'static> {
        let mut cookie = Cookie::new(self.name.clone(), value);
        cookie.set_path(self.path.clone());
        cookie.set_http_only(true);
        cookie.set_same_site(SameSite::Lax);
        cookie.set_secure(self.is_secure);
        cookie
    }

    /// A cookie that ends the session in the browser that gets it.
    pub(crate) fn removal(&self) -> Cookie<'static> {
        let mut cookie = self.cookie(String::new());
        cookie.make_removal();
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_for_this_console_and_no_script() {
        let scope = CookieScope::new("outbox.example.com:8443", "/outbox", true);
        let text = scope.cookie("value".to_owned()).to_string();
        for word in ["outbox_session_8443=value", "HttpOnly", "SameSite=Lax", "Secure", "Path=/outbox"] {
            assert!(text.contains(word), "{word} in {text}");
        }
        for host in ["outbox.example.com", "[::1]", "localhost:", "localhost:http", ""] {
            assert_eq!(CookieScope::new(host, "", false).name, COOKIE, "{host}");
        }
    }
}
