//! The HTTP client: connects to allowed addresses only, and follows no redirect.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use super::guard::{AddressGuard, ForbiddenAddress};
use super::request::Message;
use crate::backend::tls;
use crate::settings::TlsSettings;

/// How long an unused connection is kept.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// How long a response's body is waited for.
const BODY_LIMIT: Duration = Duration::from_secs(1);

/// What of a response's body is read, so that its connection can be used again; the rest is not waited for.
const MOST_OF_BODY: usize = 64 << 10;

#[derive(Clone)]
pub(super) struct Client(
    hyper_util::client::legacy::Client<HttpsConnector<HttpConnector<GuardedResolver>>, Full<Bytes>>,
);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("{0}")]
    Forbidden(#[from] ForbiddenAddress),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("{0}")]
    Failed(String),
}

impl Client {
    /// # Errors
    /// What is wrong with the files of `tls`.
    pub(super) fn new(
        guard: &AddressGuard,
        tls: Option<&TlsSettings>,
        connect_limit: Duration,
    ) -> Result<Self, String> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client_config(tls)?)
            .https_or_http()
            .enable_all_versions();
        let connector = connector.wrap_connector(http_connector(guard, connect_limit));
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector);
        Ok(Self(client))
    }

    /// Posts a message and returns status and headers of the answer.
    pub(super) async fn post(
        &self,
        uri: Uri,
        message: Message,
        limit: Duration,
    ) -> Result<(StatusCode, HeaderMap), NoAnswer> {
        let mut request = Request::new(Full::new(message.body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (Method::POST, uri, message.headers);
        let answer = tokio::time::timeout(limit, self.0.request(request)).await;
        let (head, body) = answer.map_err(|_| NoAnswer::Late(limit))?.map_err(|error| no_answer(&error))?.into_parts();
        // The status is the answer, whatever happens to the body.
        let _ = tokio::time::timeout(BODY_LIMIT, Limited::new(body, MOST_OF_BODY).collect()).await;
        Ok((head.status, head.headers))
    }
}

fn http_connector(guard: &AddressGuard, connect_limit: Duration) -> HttpConnector<GuardedResolver> {
    let mut connector = HttpConnector::new_with_resolver(GuardedResolver(Arc::new(guard.clone())));
    // The other scheme is for the connector around it.
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(connect_limit));
    connector.set_nodelay(true);
    connector
}

/// The cause that says most; the client's own texts only say at which step it failed.
fn no_answer(error: &(dyn Error + 'static)) -> NoAnswer {
    let mut last = error;
    loop {
        let inner = last.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(forbidden) = inner.and_then(|inner| inner.downcast_ref::<ForbiddenAddress>()) {
            return NoAnswer::Forbidden(forbidden.clone());
        }
        match last.source() {
            Some(cause) => last = cause,
            None => return NoAnswer::Failed(last.to_string()),
        }
    }
}

/// Resolves a name to its allowed addresses. The connection goes to one of these, so a name that changes meanwhile gains
/// nothing.
#[derive(Debug, Clone)]
struct GuardedResolver(Arc<AddressGuard>);

impl Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let mut forbidden = None;
            let mut allowed = Vec::with_capacity(found.len());
            for address in found {
                match guard.check(address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(error) => forbidden = Some(error),
                }
            }
            match forbidden {
                Some(error) if allowed.is_empty() => Err(io::Error::other(error)),
                _ => Ok(allowed.into_iter()),
            }
        })
    }
}
