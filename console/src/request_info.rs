//! What the checks and the responses know of a request: where the console is mounted, and what was asked for below that path.

use actix_web::dev::ServiceRequest;
use actix_web::http::Method;

use super::auth::{self, Access, CookieScope};

/// Paths below the console's path that have rules of their own.
pub(crate) const SIGN_IN: &str = "/sign-in";
pub(super) const SIGN_OUT: &str = "/sign-out";
pub(super) const ASSETS: &str = "/assets/";
pub(super) const API: &str = "/api/";

/// The path that the console is mounted at, and what its responses need with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Base {
    pub(super) path: String,
    /// Clients have to sign in.
    pub(super) signs_in: bool,
    pub(super) cookie: CookieScope,
}

/// What the checks and a refusal need to know of the request.
pub(super) struct RequestInfo {
    /// Below the console's path.
    pub(super) path: String,
    /// With its question mark; empty if there is none.
    query: String,
    pub(super) base: Base,
    /// A page refreshes itself.
    pub(super) is_refresh: bool,
    pub(super) is_change: bool,
}

impl RequestInfo {
    pub(super) fn new(request: &ServiceRequest, access: &Access) -> Self {
        let path = request.match_info().unprocessed().to_owned();
        let before = request.path().strip_suffix(path.as_str()).unwrap_or_default().trim_end_matches('/').to_owned();
        let cookie = CookieScope::new(&auth::host(request), &before, auth::is_secure(request));
        Self {
            path,
            query: request.uri().query().map_or_else(String::new, |query| format!("?{query}")),
            base: Base { path: before, signs_in: !access.is_loopback(), cookie },
            is_refresh: request.headers().contains_key("hx-request"),
            is_change: ![Method::GET, Method::HEAD].contains(request.method()),
        }
    }

    /// The path with the query.
    pub(super) fn address(&self) -> String {
        format!("{}{}", self.path, self.query)
    }
}
