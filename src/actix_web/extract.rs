//! `Outbox` as an argument of a request's handler.

use std::future::{Ready, ready};

use ::actix_web::dev::Payload;
use ::actix_web::{FromRequest, HttpRequest, web};

use crate::system::Outbox;

/// The application has no outbox to give to its handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this application has no outbox: give it one with `App::app_data(web::Data::new(outbox))`")]
pub struct NoOutbox;

/// Takes the outbox from `App::app_data(web::Data::new(outbox))`.
impl FromRequest for Outbox {
    type Error = NoOutbox;
    type Future = Ready<Result<Self, NoOutbox>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(request.app_data::<web::Data<Self>>().map(|outbox| Self::clone(outbox)).ok_or(NoOutbox))
    }
}

#[cfg(test)]
mod tests {
    use ::actix_web::http::StatusCode;
    use ::actix_web::test::{TestRequest, call_service, init_service, read_body};
    use ::actix_web::{App, HttpResponse};

    use super::*;

    #[::actix_web::test]
    async fn an_application_without_an_outbox_is_told_how_to_give_it_one() {
        let handler = async |_: Outbox| HttpResponse::Ok();
        let app = init_service(App::new().route("/", web::get().to(handler))).await;
        let response = call_service(&app, TestRequest::get().uri("/").to_request()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = String::from_utf8(read_body(response).await.to_vec()).unwrap();
        assert!(body.contains("App::app_data(web::Data::new(outbox))"), "{body}");
    }
}
