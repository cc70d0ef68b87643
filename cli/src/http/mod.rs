//! The HTTP server: the console, a worker's health probes for an orchestrator, and its metrics for Prometheus.
//!
//! The probes are the library's: `actix_outbox::actix_web::Probes`.

mod server;
mod write_limit;

use std::io::Write;
use std::net::SocketAddr;

pub(crate) use self::server::serve;
use actix_outbox::{Builder, Settings};
use actix_outbox_console::{Access, Console, WebError};
use uuid::Uuid;

/// The path that the settings give the console, as actix-web mounts it.
pub(crate) fn path(settings: &Settings) -> &str {
    settings.web.path.trim_end_matches('/')
}

/// The console, for its path, or else for all paths that no probe has. Without a secret in the settings it gets one for this
/// run, which is printed once; on an address other than loopback that is an error.
///
/// # Errors
/// If the secret is missing or the settings are invalid.
pub(crate) fn console(
    builder: &Builder,
    settings: &Settings,
    address: SocketAddr,
    insecure: bool,
) -> anyhow::Result<Console> {
    let is_local = address.ip().to_canonical().is_loopback();
    let access = match Access::from_settings(&settings.web) {
        Err(WebError::NoSecret) if is_local && insecure => with_names(Access::insecure(), settings)?,
        Err(WebError::NoSecret) if is_local => with_drawn_secret(settings, address)?,
        Err(WebError::NoSecret) => anyhow::bail!("on {address}, {}", WebError::NoSecret),
        access => access?,
    };
    if !is_local {
        tracing::warn!(
            %address,
            "the console is served without TLS on an address that other machines reach; put a proxy with TLS before it, or \
             serve it on a loopback address"
        );
    }
    Ok(Console::for_builder(builder, settings, access)?)
}

fn with_names(access: Access, settings: &Settings) -> Result<Access, WebError> {
    access.hosts(&settings.web.hosts)?.proxies(&settings.web.proxies)
}

fn with_drawn_secret(settings: &Settings, address: SocketAddr) -> anyhow::Result<Access> {
    let secret = [Uuid::new_v4(), Uuid::new_v4()].map(|part| part.simple().to_string()).concat();
    let access = with_names(Access::secrets(&secret.as_str().into(), None)?, settings)?;
    let (path, link) = (path(settings), access.sign_in_link());
    // Not to the log, which others may read.
    writeln!(
        std::io::stderr(),
        "The console has no secret in its settings, so it drew one for this run:\n\n  {secret}\n\n\
         This link signs you in once: http://{address}{path}{link}\n\
         `operator_secret_file` under [web] gives it a lasting one.\n"
    )?;
    Ok(access)
}
