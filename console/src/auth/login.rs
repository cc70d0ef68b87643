//! The login of the application in which the console is embedded.

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::dev::ServiceRequest;

use super::user::User;

type Find = dyn Fn(&HttpRequest) -> Option<User> + Send + Sync;

/// Finds the application's user of a request.
#[derive(Clone)]
pub(super) struct ApplicationLogin(Arc<Find>);

impl ApplicationLogin {
    pub(super) fn new(find: impl Fn(&HttpRequest) -> Option<User> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    pub(super) fn user_of(&self, request: &ServiceRequest) -> Option<User> {
        (self.0)(request.request())
    }
}
