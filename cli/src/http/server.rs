//! The server: how long and how many clients may keep it busy.

use std::future::ready;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_http::HttpService;
use actix_http::error::DispatchError;
use actix_rt::net::TcpStream;
use actix_server::Server;
use actix_service::{ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, web};

use super::write_limit::WriteLimit;

/// How long a client may take to send its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// How long a client may take nothing of the response.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Connections at the same time. Further ones wait until one of these ends.
const MOST_CONNECTIONS: usize = 256;

/// Serves inside the running actix system until the process ends.
///
/// # Errors
/// If the address cannot be bound.
pub(crate) fn serve(
    address: SocketAddr,
    routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let connection = move || {
        let app = map_config(App::new().configure(routes.clone()), |_| AppConfig::default());
        let http = HttpService::build().client_request_timeout(REQUEST_LIMIT).local_addr(address).h1(app);
        let limited = |stream: TcpStream| {
            let peer = stream.peer_addr().map_err(DispatchError::Io);
            ready(peer.map(|peer| (WriteLimit::new(stream, WRITE_LIMIT), Some(peer))))
        };
        fn_service(limited).and_then(http)
    };
    let server = Server::build().workers(1).max_concurrent_connections(MOST_CONNECTIONS).disable_signals();
    actix_rt::spawn(server.listen("http", listener, connection)?.run());
    tracing::info!(%address, "HTTP server listening");
    Ok(())
}
