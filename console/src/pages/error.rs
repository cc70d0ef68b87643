//! Error pages.

use std::borrow::Borrow;

use actix_outbox::StoreError;
#[cfg(feature = "consumer")]
use actix_outbox::SystemError;
use actix_outbox::admin::AdminError;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};

use super::layout::PageLayout;

/// An error page in place of the requested one.
#[derive(Debug)]
pub(super) struct PageError {
    layout: PageLayout,
    status: StatusCode,
    message: String,
}

impl PageError {
    pub(super) fn bad_request(layout: &PageLayout, message: impl Into<String>) -> Self {
        Self { layout: layout.clone(), status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    pub(super) fn from_store<E: Borrow<StoreError>>(layout: &PageLayout) -> impl FnOnce(E) -> Self {
        let layout = layout.clone();
        move |error| {
            let error = error.borrow();
            Self { layout, status: error.status_code(), message: error.to_string() }
        }
    }

    #[cfg(feature = "consumer")]
    pub(super) fn from_system(layout: &PageLayout) -> impl FnOnce(SystemError) -> Self {
        let layout = layout.clone();
        move |error| {
            let status = match &error {
                SystemError::Settings(_) => StatusCode::NOT_FOUND,
                SystemError::Store(error) => error.status_code(),
                SystemError::Source(_) => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Self { layout, status, message: error.to_string() }
        }
    }

    pub(super) fn refused(layout: &PageLayout) -> impl FnOnce(AdminError) -> Self {
        let layout = layout.clone();
        move |error| Self { layout, status: error.status_code(), message: error.to_string() }
    }
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl ResponseError for PageError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.layout.error_page(self.status, &self.message)
    }
}

pub(super) type PageResult = Result<HttpResponse, PageError>;
