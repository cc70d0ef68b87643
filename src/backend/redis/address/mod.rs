//! The address of the Redis that has the stream: given by the settings, or looked up again by each session.

use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use rustls::crypto::CryptoProvider;

use super::errors;
use crate::backend::BackendError;
use crate::settings::name_template::NameTemplate;
use crate::settings::{PublisherSettings, Secret};

mod certificates;
mod cluster;
mod sentinel;

/// How long a node has before the next one is asked as well.
const HEAD_START: Duration = Duration::from_millis(250);

pub(super) struct Address {
    settings: PublisherSettings,
    place: Place,
    config: AsyncConnectionConfig,
    /// The node that is asked first: another one each time, since one may know less than the others.
    first: usize,
}

enum Place {
    Given(ConnectionInfo),
    /// The stream, or a name with the hash tag that all streams have.
    Cluster {
        nodes: Vec<ConnectionInfo>,
        stream: String,
    },
    Sentinel {
        nodes: Vec<ConnectionInfo>,
        master: String,
        login: RedisConnectionInfo,
    },
}

/// A server as another one names it; without a host it is where the server was asked.
struct Endpoint {
    host: Option<String>,
    port: u16,
}

impl Address {
    /// Reads the settings; nothing is connected.
    pub(super) fn new(settings: &PublisherSettings) -> Result<Self, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(settings.socket_timeout));
        Ok(Self { place: place(settings)?, settings: settings.clone(), config, first: 0 })
    }

    /// Connects to the one server that accepts writes to the stream.
    pub(super) async fn connect(&mut self) -> Result<MultiplexedConnection, BackendError> {
        self.read_again().await.map_err(BackendError::Unavailable)?;
        let connected = match &self.place {
            Place::Given(server) => self.dial(server).await,
            Place::Cluster { nodes, stream } => self.connect_in_cluster(nodes, stream).await,
            Place::Sentinel { nodes, master, login } => self.connect_to_master(nodes, master, login).await,
        };
        self.first = self.first.wrapping_add(1);
        connected.map_err(BackendError::Unavailable)
    }

    /// Reads secrets that may have changed.
    async fn read_again(&mut self) -> Result<(), String> {
        let settings = &self.settings;
        let mut secrets = settings.url.iter().chain(&settings.password);
        if secrets.all(|secret| secret.as_text().is_some()) {
            return Ok(());
        }
        let settings = settings.clone();
        let read = tokio::task::spawn_blocking(move || place(&settings)).await;
        self.place = read.map_err(|error| format!("its secret cannot be read: {error}"))??;
        Ok(())
    }

    async fn connect_in_cluster(
        &self,
        nodes: &[ConnectionInfo],
        stream: &str,
    ) -> Result<MultiplexedConnection, String> {
        let serving = self.ask(nodes, |node| cluster::master_of_slot(node, stream)).await;
        let (asked, endpoint) = serving
            .map_err(|reason| format!("no node of the Redis Cluster knows which server has the stream: {reason}"))?;
        self.dial(&endpoint.seen_from(asked)).await
    }

    async fn connect_to_master(
        &self,
        nodes: &[ConnectionInfo],
        master: &str,
        login: &RedisConnectionInfo,
    ) -> Result<MultiplexedConnection, String> {
        let known = self.ask(nodes, |node| sentinel::address_of(node, master)).await;
        let (asked, endpoint) =
            known.map_err(|reason| format!("no Redis Sentinel knows where the master is: {reason}"))?;
        let mut connection = self.dial(&endpoint.seen_from(asked).set_redis_settings(login.clone())).await?;
        sentinel::require_master(&mut connection, master).await?;
        Ok(connection)
    }

    /// Asks one node after the other, also while earlier ones are silent, and uses the first answer.
    async fn ask<'a, F>(
        &self,
        nodes: &'a [ConnectionInfo],
        question: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<(&'a ConnectionInfo, Endpoint), String>
    where
        F: Future<Output = Result<Endpoint, String>>,
    {
        let first = self.first.checked_rem(nodes.len()).ok_or("the settings name none")?;
        let (earlier, later) = nodes.split_at(first);
        let answers = later.iter().chain(earlier).zip(0..).map(|(node, place)| {
            let question = &question;
            Box::pin(async move {
                tokio::time::sleep(HEAD_START * place).await;
                question(self.dial(node).await?).await.map(|endpoint| (node, endpoint))
            })
        });
        select_ok(answers).await.map(|(answer, _)| answer)
    }

    async fn dial(&self, server: &ConnectionInfo) -> Result<MultiplexedConnection, String> {
        let client = if matches!(server.addr(), ConnectionAddr::TcpTls { .. }) {
            provide_cryptography();
            Client::build_with_tls(server.clone(), certificates::read(self.settings.tls.as_ref())?)
        } else {
            Client::open(server.clone())
        };
        let client = client.map_err(|error| errors::reason(&error))?;
        let connected = client.get_multiplexed_async_connection_with_config(&self.config).await;
        connected.map_err(|error| format!("Redis at {}: {error}", server.addr()))
    }
}

impl Endpoint {
    /// The connection to it: like the server that named it, by TLS or not, with its login.
    fn seen_from(self, asked: &ConnectionInfo) -> ConnectionInfo {
        let Self { host, port } = self;
        let address = match asked.addr().clone() {
            ConnectionAddr::Tcp(own, _) => ConnectionAddr::Tcp(host.unwrap_or(own), port),
            ConnectionAddr::TcpTls { host: own, insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host: host.unwrap_or(own), port, insecure, tls_params }
            }
            // Only the machine of the server that was asked has its socket.
            ConnectionAddr::Unix(_) => ConnectionAddr::Tcp(host.unwrap_or_else(|| "localhost".to_owned()), port),
            other => other,
        };
        asked.clone().set_addr(address)
    }
}

/// Chooses the process' provider for the driver: rustls panics if two are linked and the application has chosen none.
fn provide_cryptography() {
    if CryptoProvider::get_default().is_none() {
        // If another thread chooses at the same moment, its choice is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

fn place(settings: &PublisherSettings) -> Result<Place, String> {
    if let Some(url) = &settings.url {
        return Ok(Place::Given(server(url)?));
    }
    if !settings.nodes.is_empty() {
        let stream = NameTemplate::new(&settings.stream_name).pattern();
        return Ok(Place::Cluster { nodes: servers(&settings.nodes)?, stream });
    }
    let mut login = RedisConnectionInfo::default().set_db(settings.db.unwrap_or(0));
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.read().map_err(|error| error.to_string())?);
    }
    if let Some(sentinel) = &settings.sentinel {
        let nodes = servers(&sentinel.nodes)?;
        return Ok(Place::Sentinel { nodes, master: sentinel.master.clone(), login });
    }
    let host = settings.host.clone().unwrap_or_else(|| "localhost".to_owned());
    let info = (host, settings.port.unwrap_or(6379)).into_connection_info();
    let info = without_delay(info.map_err(|error| format!("is not a valid Redis address: {error}"))?);
    Ok(Place::Given(info.set_redis_settings(login)))
}

fn servers(urls: &[Secret]) -> Result<Vec<ConnectionInfo>, String> {
    urls.iter().map(server).collect()
}

fn server(url: &Secret) -> Result<ConnectionInfo, String> {
    let url = url.read().map_err(|error| error.to_string())?;
    let info = url.as_ref().into_connection_info().map_err(|error| format!("is not a valid Redis address: {error}"))?;
    Ok(without_delay(info))
}

fn without_delay(info: ConnectionInfo) -> ConnectionInfo {
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    info.set_tcp_settings(tcp)
}

#[cfg(test)]
mod tests;
