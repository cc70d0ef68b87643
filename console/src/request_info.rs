//! What the checks and the responses know of a request: where the console is mounted, what was asked for below that path, and
//! who asks.

use std::net::IpAddr;

use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;

use super::auth::{self, Access, CookieScope, User};

/// Paths below the console's path that have rules of their own.
pub(crate) const SIGN_IN: &str = "/sign-in";
pub(super) const SIGN_OUT: &str = "/sign-out";
pub(super) const ASSETS: &str = "/assets/";
pub(super) const API: &str = "/api/";

/// Whether an open page refreshes itself.
pub(super) fn is_refresh(headers: &HeaderMap) -> bool {
    headers.contains_key("hx-request")
}

/// The id of the part of an open page that refreshes itself.
pub(super) fn refreshed_part(headers: &HeaderMap) -> Option<&str> {
    headers.get("hx-target").filter(|_| is_refresh(headers)).and_then(|id| id.to_str().ok())
}

/// The path that the console is mounted at, and what its responses need with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Base {
    pub(super) path: String,
    /// Users sign in with a secret.
    pub(super) signs_in: bool,
    pub(super) cookie: CookieScope,
}

/// Who asks for a change, and from where.
#[derive(Debug, Clone)]
pub(super) struct Author {
    pub(super) actor: String,
    pub(super) from: String,
}

impl Author {
    pub(super) fn new(user: &User, from: IpAddr) -> Self {
        Self { actor: format!("{} in the console", user.name()), from: from.to_canonical().to_string() }
    }
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
        let before = access.base_path(request);
        let cookie = CookieScope::new(&auth::host(request), &before, auth::is_secure(request));
        Self {
            path,
            query: request.uri().query().map_or_else(String::new, |query| format!("?{query}")),
            base: Base { path: before, signs_in: access.has_secrets(), cookie },
            is_refresh: is_refresh(request.headers()),
            is_change: ![Method::GET, Method::HEAD].contains(request.method()),
        }
    }

    /// The path with the query.
    pub(super) fn address(&self) -> String {
        format!("{}{}", self.path, self.query)
    }
}
