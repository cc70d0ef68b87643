//! The console: the outbox in a browser, and the same as a JSON API.
//!
//! It shows due events, workers, outcomes, each event with the reason for its state, and what endangers the outbox, and has
//! buttons to retry, fail, replay, move and delete events and to pause backends. [`scope`] mounts it in an application's own actix-web server; `outbox worker --http` and `outbox web` serve it
//! themselves.
//!
//! ```no_run
//! use actix_outbox_console::{Access, Console, scope};
//! use actix_outbox::{Secret, Settings};
//! use actix_web::{App, HttpServer};
//!
//! # async fn serve(settings: Settings, secret: Secret) -> Result<(), Box<dyn std::error::Error>> {
//! let console = Console::new(&settings, Access::secrets(&secret, None)?)?;
//! HttpServer::new(move || App::new().service(scope("/outbox", &console))).bind("0.0.0.0:8080")?.run().await?;
//! # Ok(()) }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic that it failed"))]

mod api;
mod assets;
mod auth;
mod data;
mod error;
#[cfg(feature = "consumer")]
mod letters;
mod limits;
mod methods;
mod middleware;
mod pages;
mod probes;
mod queries;
mod request_info;
mod requests;
mod responses;
mod single_flight;
mod timeline;

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::dev::HttpServiceFactory;
use actix_web::middleware::from_fn;

use self::auth::AccessError;
pub use self::auth::{Access, User};
pub use self::error::WebError;
use self::limits::Limits;
use self::middleware::Checks;
use self::pages::TraceUrl;
pub use self::probes::ConsoleProbes;
use self::queries::{DoctorCache, OverviewCache};
use self::request_info::{API, RequestInfo};
use self::timeline::TimelineCache;
use actix_outbox::{Builder, OutboxAdmin, Settings};

/// The console's own connections, at most: pages do not wait for a worker's connections, nor the worker for theirs.
const CONNECTIONS: usize = 4;

/// Larger requests are refused.
const MOST_BYTES: usize = 64 * 1024;

/// The console of one outbox. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Console {
    admin: OutboxAdmin,
    overview: Arc<OverviewCache>,
    doctor: Arc<DoctorCache>,
    timelines: Arc<TimelineCache>,
    access: Arc<Access>,
    traces: Arc<TraceUrl>,
    limits: Arc<Limits>,
    #[cfg(feature = "consumer")]
    settings: Arc<Settings>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl Console {
    /// Creates the console of the outbox in this database. It connects on the first request, and shows an outage only on the
    /// page.
    ///
    /// # Errors
    /// If `database.url` names no database that this program was built for.
    pub fn new(settings: &Settings, access: Access) -> Result<Self, WebError> {
        Self::for_builder(&Builder::default(), settings, access)
    }

    /// The same in a program with backends of its own: the doctor knows those of the builder. The builder's settings do not
    /// matter.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_builder(builder: &Builder, settings: &Settings, access: Access) -> Result<Self, WebError> {
        let mut settings = settings.clone();
        let connections = settings.database.connections.map_or(CONNECTIONS, |connections| connections.min(CONNECTIONS));
        settings.database.connections = Some(connections);
        let admin = builder.admin_with(&settings)?;
        let (overview, doctor) = (Arc::default(), Arc::default());
        Ok(Self {
            admin,
            overview,
            doctor,
            timelines: Arc::default(),
            access: Arc::new(access),
            traces: Arc::new(TraceUrl(settings.web.trace_url.clone())),
            limits: Arc::default(),
            #[cfg(feature = "consumer")]
            settings: Arc::new(settings),
        })
    }
}

/// The console's pages under `path` and its API under `path/api/v1`. With an empty path it handles every request that no
/// earlier registered service handles.
pub fn scope(path: &str, console: &Console) -> impl HttpServiceFactory + use<> {
    let checks = Checks { access: Arc::clone(&console.access), limits: Arc::clone(&console.limits), refused };
    let scope = actix_web::web::scope(path);
    #[cfg(feature = "consumer")]
    let scope = scope.app_data(actix_web::web::Data::from(Arc::clone(&console.settings)));
    scope
        .app_data(actix_web::web::Data::new(console.admin.clone()))
        .app_data(actix_web::web::Data::from(Arc::clone(&console.overview)))
        .app_data(actix_web::web::Data::from(Arc::clone(&console.doctor)))
        .app_data(actix_web::web::Data::from(Arc::clone(&console.timelines)))
        .app_data(actix_web::web::Data::from(Arc::clone(&console.access)))
        .app_data(actix_web::web::Data::from(Arc::clone(&console.traces)))
        .app_data(actix_web::web::PayloadConfig::new(MOST_BYTES))
        .app_data(actix_web::web::FormConfig::default().limit(MOST_BYTES))
        .app_data(api::json_config(MOST_BYTES))
        .app_data(api::query_config())
        .configure(assets::routes)
        .configure(api::routes)
        .configure(pages::routes)
        .wrap(from_fn(move |request, next| middleware::guard(checks.clone(), request, next)))
}

/// A refused request gets its response in the form of what it asked for, whether or not its path exists.
fn refused(refusal: AccessError, request: &RequestInfo) -> HttpResponse {
    if request.path.starts_with(API) { api::refused(&refusal) } else { pages::refused(&refusal, request) }
}
