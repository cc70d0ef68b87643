//! For applications on actix-web (feature `actix-web`): the [`Outbox`](crate::Outbox) as an argument of a request's handler,
//! the library's errors as responses, and health and metrics as ready-made services.
//!
//! ```no_run
//! use actix_outbox::actix_web::Probes;
//! use actix_outbox::{NewEvent, Outbox, PublishError};
//! use actix_web::{App, HttpResponse, HttpServer, web};
//!
//! async fn create_user(outbox: Outbox, name: String) -> Result<HttpResponse, PublishError> {
//!     let event = outbox.send(NewEvent::new("user.created", "user-service").partition_key(name)).await?;
//!     Ok(HttpResponse::Created().json(event))
//! }
//!
//! # async fn serve(outbox: Outbox) -> std::io::Result<()> {
//! let probes = Probes::new(&outbox);
//! HttpServer::new(move || {
//!     App::new()
//!         .app_data(web::Data::new(outbox.clone()))
//!         .configure(|config| probes.configure(config))
//!         .route("/users", web::post().to(create_user))
//! })
//! .bind("127.0.0.1:8080")?
//! .run()
//! .await
//! # }
//! ```
//!
//! # Responses for errors
//!
//! | status | for |
//! |---|---|
//! | 400 | an event that breaks a rule, which usually is the request's |
//! | 404 | an event, a backend or a handler that does not exist |
//! | 409 | an id that another event has |
//! | 503, with `Retry-After` | a database that is unavailable, a pool without a connection, an outbox that was shut down |
//! | 500 | everything else |
//!
//! The body is `{"error": "…"}`. For 4xx it says what is wrong, without the value. For 5xx it names no server and no reason:
//! that is logged. A [`TransactionError`](crate::TransactionError) has the status of the library's error that it holds.

#[cfg(feature = "consumer")]
mod consumer_probes;
mod errors;
mod extract;
mod gauges;
mod probes;

#[cfg(feature = "consumer")]
pub use consumer_probes::ConsumerProbes;
pub use extract::NoOutbox;
pub use probes::Probes;
