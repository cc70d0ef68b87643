//! The console: the outbox in a browser, and the same as a JSON API, with the feature `web`.
//!
//! What is due and since when, who works, what became of events, every event with the answer to why it is where it is, and
//! buttons to retry, fail and replay. [`scope`] mounts it in an application's own actix-web server; `outbox worker --http`
//! and `outbox web` serve it by themselves.
//!
//! ```no_run
//! use actix_outbox::web::{Access, Console, scope};
//! use actix_outbox::{Secret, Settings};
//! use actix_web::{App, HttpServer};
//!
//! # async fn serve(settings: Settings, secret: Secret) -> Result<(), Box<dyn std::error::Error>> {
//! let console = Console::new(&settings, Access::secrets(&secret, None)?)?;
//! HttpServer::new(move || App::new().service(scope("/outbox", &console))).bind("0.0.0.0:8080")?.run().await?;
//! # Ok(()) }
//! ```

mod access;
mod api;
mod assets;
mod desk;
mod event_scan;
mod limits;
mod methods;
mod middleware;
mod pages;
mod requests;
mod responses;
mod single_flight;

use std::sync::Arc;

use actix_web::dev::HttpServiceFactory;
use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;

pub use self::access::Access;
use self::desk::Desk;
use self::limits::Limits;
use crate::error::{StoreError, SystemError};
use crate::settings::Settings;

/// Connections of the console's own, at most: pages do not wait for a worker's, nor the worker for theirs.
const CONNECTIONS: usize = 4;

/// Requests with more are refused.
const MOST_BYTES: usize = 64 * 1024;

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// Somebody would guess it.
    #[error("a secret of the console needs at least {shortest} bytes; `openssl rand -hex 32` makes a good one")]
    ShortSecret {
        /// In bytes.
        shortest: usize,
    },
    /// A file that was to hold one cannot be read.
    #[error("the console's secret cannot be read from {path}: {reason}")]
    SecretFile {
        /// The file.
        path: String,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Nobody could change anything, which is not what a reader's secret is for.
    #[error("web.reader_secret needs web.operator_secret beside it")]
    ReadersAlone,
    /// No browser calls a server so.
    #[error("web.hosts: {name:?} is no name without a port, such as outbox.example.com")]
    HostName {
        /// As it was given.
        name: String,
    },
    /// Nothing comes from there.
    #[error("web.proxies: {address:?} is neither an address nor a network, such as 10.0.0.7 or 10.0.0.0/24")]
    Proxy {
        /// As it was given.
        address: String,
    },
    /// The settings name no database that could be used.
    #[error(transparent)]
    System(#[from] SystemError),
}

/// The console of one outbox. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Console {
    desk: Arc<Desk>,
    access: Arc<Access>,
    limits: Arc<Limits>,
}

impl Console {
    /// A console of the outbox in this database. Nothing is connected before somebody looks, and an outage shows on the
    /// page alone.
    ///
    /// # Errors
    /// Where `database.url` names no database that this program was built for.
    pub fn new(settings: &Settings, access: Access) -> Result<Self, WebError> {
        let mut database = settings.database.clone();
        database.connections =
            Some(database.connections.map_or(CONNECTIONS, |connections| connections.min(CONNECTIONS)));
        let store = crate::store::connect(&database)?;
        let desk = Arc::new(Desk::new(store, settings.clone()));
        Ok(Self { desk, access: Arc::new(access), limits: Arc::default() })
    }
}

/// How HTTP calls what the store says.
fn status_of(error: &StoreError) -> StatusCode {
    match error {
        StoreError::NotFound(_) => StatusCode::NOT_FOUND,
        error if error.is_transient() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The console's pages under `path` and its API under `path/api/v1`. An empty path takes every request that no service
/// registered before it does.
pub fn scope(path: &str, console: &Console) -> impl HttpServiceFactory + use<> {
    let guarded = console.clone();
    actix_web::web::scope(path)
        .app_data(actix_web::web::Data::from(Arc::clone(&console.desk)))
        .app_data(actix_web::web::Data::from(Arc::clone(&console.access)))
        .app_data(actix_web::web::PayloadConfig::new(MOST_BYTES))
        .app_data(actix_web::web::FormConfig::default().limit(MOST_BYTES))
        .app_data(api::json_config(MOST_BYTES))
        .app_data(api::query_config())
        .configure(assets::routes)
        .configure(api::routes)
        .configure(pages::routes)
        .wrap(from_fn(move |request, next| middleware::guard(guarded.clone(), request, next)))
}
