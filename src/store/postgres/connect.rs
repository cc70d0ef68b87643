//! Connects to the first of an address' servers that accepts writes, with TLS as the address says.

use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{BoxStream, poll_fn};
use futures_util::{StreamExt, TryStreamExt};
use rand::seq::SliceRandom;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode as Negotiation, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, NoTls};

use super::address::{Address, Environment, Server, SslMode};
use super::auth_guard::AuthMethod;
use super::errors::{AttemptError, ConnectError, chain};
use super::index_plans::IndexPlans;
use super::pulse::Pulse;
use super::tls::{Connector, Tls};
use crate::error::StoreError;

/// The time limit for connecting to the only server of an address, and for getting a connection from a pool.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The time limit for each server if there are several: the shortest that libpq takes.
const LIMIT_FOR_EACH: Duration = Duration::from_secs(2);

/// A connection that has been silent for this long probes its peer; data that has not been acknowledged for this long ends
/// the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Messages that a server sends unasked on a connection.
pub(super) type Messages = BoxStream<'static, Result<AsyncMessage, DriverError>>;

pub(super) type DriverError = tokio_postgres::Error;

/// A database's address and how to reach it.
pub(crate) struct Target {
    /// What all servers have in common.
    pub(super) config: Config,
    pub(super) index_plans: IndexPlans,
    pub(super) pulse: Pulse,
    address: Address,
    tls: Option<Tls>,
    /// The server that was reached last, which is tried first.
    reached: AtomicUsize,
    /// Whether the last connection was encrypted.
    encrypted: AtomicBool,
    /// When the last connected server started, in microseconds; identifies the server.
    server: AtomicI64,
    /// Host and database for messages, without the password.
    pub(super) shown: String,
}

/// How to speak to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Encrypted,
}

impl Target {
    /// Reads an address as libpq does; the environment's `PGSSLMODE` and the like count where it leaves TLS open.
    pub(crate) fn from_url(text: &str) -> Result<Self, String> {
        Self::in_environment(text, &|name| std::env::var(name).ok())
    }

    pub(super) fn in_environment(text: &str, environment: Environment<'_>) -> Result<Self, String> {
        let address = Address::read(text, environment)?;
        let tls = (address.tls.mode != SslMode::Disable).then(|| Tls::new(&address.tls)).transpose()?;
        let mut config = address.config.clone();
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        notice_silence(&mut config);
        let shown = address.to_string();
        Ok(Self {
            config,
            index_plans: IndexPlans::default(),
            pulse: Pulse::default(),
            address,
            tls,
            reached: AtomicUsize::new(0),
            encrypted: false.into(),
            server: AtomicI64::new(0),
            shown,
        })
    }

    /// The servers, of those that others could pretend to be, that are not verified.
    pub(crate) fn unverified(&self) -> Option<String> {
        self.address.unverified()
    }

    /// The time limit for one server.
    fn limit_for_each(&self) -> Duration {
        let usual = if self.address.servers.len() == 1 { CONNECT_LIMIT } else { LIMIT_FOR_EACH };
        self.config.get_connect_timeout().copied().unwrap_or(usual)
    }

    /// The time limit for connecting, whichever server it is.
    pub(super) fn connect_limit(&self) -> Duration {
        let servers = u32::try_from(self.address.servers.len()).unwrap_or(u32::MAX);
        self.limit_for_each().saturating_mul(servers).max(CONNECT_LIMIT)
    }

    /// A connection whose driver runs as a task of the current runtime, for short use and not counted; see `connections`.
    pub(crate) async fn connect(&self) -> Result<Client, StoreError> {
        let limit = self.connect_limit();
        let opened = tokio::time::timeout(limit, self.open()).await;
        let (client, messages) =
            opened.unwrap_or_else(|_| Err(self.unreachable(format!("no answer within {limit:?}"))))?;
        tokio::spawn(messages.try_for_each(|_| ready(Ok(()))));
        Ok(client)
    }

    /// A connection and the server's unasked messages. It works only while the messages are read.
    pub(super) async fn open(&self) -> Result<(Client, Messages), StoreError> {
        self.open_with(&self.config).await.map_err(|error| self.not_connected(&error))
    }

    /// Connects with other parameters. Waits for an only server that does not answer.
    pub(super) async fn open_with(&self, config: &Config) -> Result<(Client, Messages), ConnectError> {
        let limit = (self.address.servers.len() > 1).then(|| self.limit_for_each());
        self.open_within(config, limit).await
    }

    /// Connects, with a time limit for each server.
    pub(super) async fn open_within(
        &self,
        config: &Config,
        limit: Option<Duration>,
    ) -> Result<(Client, Messages), ConnectError> {
        let (began, mut failed) = (Instant::now(), ConnectError::default());
        for place in self.order() {
            let server = &self.address.servers[place];
            let attempt = self.open_on(server, config);
            let opened = match limit {
                None => attempt.await,
                Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or(Err(AttemptError::Silent(limit))),
            };
            match opened {
                Ok(opened) => {
                    self.reached.store(place, Ordering::Relaxed);
                    self.pulse.note_connection(began);
                    return Ok(opened);
                }
                Err(error) => failed.add(server, error),
            }
        }
        if failed.was_answered() {
            self.pulse.note_connection(began);
        }
        Err(failed)
    }

    /// The servers' places in the order in which they are tried.
    fn order(&self) -> Vec<usize> {
        let servers = self.address.servers.len();
        let mut order: Vec<usize> = (0..servers).collect();
        match self.config.get_load_balance_hosts() {
            LoadBalanceHosts::Random => order.shuffle(&mut rand::rng()),
            _ => order.rotate_left(self.reached.load(Ordering::Relaxed) % servers.max(1)),
        }
        order
    }

    async fn open_on(&self, server: &Server, config: &Config) -> Result<(Client, Messages), AttemptError> {
        let mut ways = self.ways(server).iter().peekable();
        while let Some(way) = ways.next() {
            match self.open_in(*way, server, config).await {
                Err(error) if ways.peek().is_some() && another_way_may_help(&error) => {
                    tracing::debug!(server = %server, error = chain(&error), "not connected by {way:?}; trying the other way");
                }
                opened => {
                    self.encrypted.store(*way == Way::Encrypted, Ordering::Relaxed);
                    return opened.map_err(AttemptError::Driver);
                }
            }
        }
        Err(AttemptError::Silent(Duration::ZERO))
    }

    /// A socket of this machine is never encrypted.
    fn ways(&self, server: &Server) -> &'static [Way] {
        match self.address.tls.mode {
            SslMode::Disable => &[Way::Plain],
            _ if server.is_socket() => &[Way::Plain],
            SslMode::Allow => &[Way::Plain, Way::Encrypted],
            SslMode::Prefer => &[Way::Encrypted, Way::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Way::Encrypted],
        }
    }

    async fn open_in(&self, way: Way, server: &Server, config: &Config) -> Result<(Client, Messages), DriverError> {
        let mut config = config.clone();
        match &server.host {
            Host::Unix(folder) => config.host_path(folder),
            Host::Tcp(name) => config.host(name),
        };
        if let Some(address) = server.hostaddr {
            config.hostaddr(address);
        }
        config.port(server.port);
        match self.connector(way, server) {
            None => {
                let (client, mut driver) = config.ssl_mode(Negotiation::Disable).connect(NoTls).await?;
                Ok((client, poll_fn(move |cx| driver.poll_message(cx)).boxed()))
            }
            Some(connector) => {
                config.ssl_mode(Negotiation::Require);
                if way == Way::Plain {
                    // The connector is called without a request to the server before, and only watches.
                    config.ssl_negotiation(SslNegotiation::Direct);
                }
                let (client, mut driver) = config.connect(connector).await?;
                Ok((client, poll_fn(move |cx| driver.poll_message(cx)).boxed()))
            }
        }
    }

    /// What encrypts or watches the connection, if anything does.
    fn connector(&self, way: Way, server: &Server) -> Option<Connector> {
        let is_safe = self.address.may_send_password_in_clear(server);
        let methods = self.address.methods;
        let methods = if is_safe { methods } else { methods.without(AuthMethod::Password) };
        match way {
            Way::Plain if methods.is_any() || server.is_socket() => None,
            Way::Plain => Some(Connector::plain(methods)),
            Way::Encrypted => self.tls.as_ref().map(|tls| tls.connector(methods)),
        }
    }

    /// Asks the server to end the statement that runs on another connection. The request may be lost.
    pub(super) async fn cancel(&self, token: &CancelToken) {
        let way = if self.encrypted.load(Ordering::Relaxed) { Way::Encrypted } else { Way::Plain };
        let reached = &self.address.servers[self.reached.load(Ordering::Relaxed)];
        let cancelling = async {
            match self.connector(way, reached) {
                None => token.cancel_query(NoTls).await,
                Some(connector) => token.cancel_query(connector).await,
            }
        };
        let _ = tokio::time::timeout(CONNECT_LIMIT, cancelling).await;
    }

    /// Identifies the server of this connection, and remembers it as the current server of the address.
    pub(super) async fn identify(&self, client: &Client) -> Result<i64, StoreError> {
        const STARTED_AT: &str = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";
        let answer = tokio::time::timeout(CONNECT_LIMIT, client.query_typed_one(STARTED_AT, &[])).await;
        let answer = answer.map_err(|_| self.unreachable(format!("no answer within {CONNECT_LIMIT:?}")))?;
        let row = answer.map_err(|error| self.connect_error(&error))?;
        let server = row.try_get(0).map_err(|error| self.connect_error(&error))?;
        self.server.store(server, Ordering::Release);
        Ok(server)
    }

    /// Whether the address has led to a different server since.
    pub(super) fn has_moved_from(&self, server: i64) -> bool {
        self.server.load(Ordering::Acquire) != server
    }
}

/// Whether the server may accept the client in the other way: it has no TLS, or its rules differ for the two.
fn another_way_may_help(error: &DriverError) -> bool {
    error.code().is_none_or(|state| *state == SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// Awaits a result on a connection whose messages no other task reads.
pub(super) async fn while_reading<T>(
    messages: &mut Messages,
    answer: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, DriverError> {
    tokio::select! {
        answer = answer => answer,
        Err(error) = read_to_the_end(messages) => Err(error),
    }
}

/// Reads until the connection ends.
async fn read_to_the_end(messages: &mut Messages) -> Result<(), DriverError> {
    while messages.try_next().await?.is_some() {}
    Ok(())
}

/// Lets the driver notice a peer that is gone within a minute, unless the address sets other limits.
fn notice_silence(config: &mut Config) {
    if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(KEEPALIVE_IDLE);
    }
}

#[cfg(test)]
mod tests {
    use crate::error::StoreError;
    use crate::event::Status;
    use crate::store::conformance::Fixture;
    use crate::store::postgres::fixture::PostgresFixture;
    use crate::store::postgres::{PostgresStore, Target};
    use crate::store::{Action, SchemaStore};
    use crate::test_support::{PATIENCE, eventually};

    #[tokio::test]
    async fn options_with_a_space_reach_the_server() {
        let fixture = PostgresFixture::fresh().await;
        let mut url = url::Url::parse(&fixture.database.url).unwrap();
        url.query_pairs_mut().append_pair("options", "-c work_mem=3MB -c search_path=a+b");
        let client = Target::from_url(url.as_str()).unwrap().connect().await.unwrap();
        let row = client.query_one("SELECT current_setting('work_mem'), current_setting('search_path')", &[]).await;
        let row = row.unwrap();
        assert_eq!((row.get(0), row.get(1)), ("3MB", "a+b"));
    }

    #[tokio::test]
    async fn a_statement_that_is_given_up_ends_in_the_server_and_changes_nothing() {
        let fixture = PostgresFixture::fresh().await;
        let store = fixture.store();
        let id = uuid::Uuid::now_v7();
        fixture.execute(&format!("INSERT INTO outbox_events (id, event_type, source) VALUES ('{id}', 't', 's')")).await;
        let mut other = fixture.begin().await;
        other.execute("SELECT FROM outbox_events FOR UPDATE").await;
        let fail = Action::Fail { reason: "given up".to_owned() };
        let late = store.change(&fail, &[id]).await.unwrap_err();
        assert!(matches!(late, StoreError::Timeout { .. }), "{late}");
        // It no longer waits for the lock.
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("it is cancelled", PATIENCE, async || fixture.number(waiting).await == 0).await;
        other.commit().await;
        assert_eq!(store.find(id).await.unwrap().unwrap().status, Status::Pending);
    }

    #[tokio::test]
    async fn waiting_does_not_mend_a_missing_privilege() {
        let fixture = PostgresFixture::fresh().await;
        let role = format!("outbox_nobody_{}", uuid::Uuid::new_v4().simple());
        fixture.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'")).await;
        let mut url = url::Url::parse(&fixture.database.url).unwrap();
        url.set_username(&role).unwrap();
        url.set_password(Some("secret")).unwrap();
        let store = PostgresStore::new(Target::from_url(url.as_str()).unwrap(), None).unwrap();
        fixture.execute("DROP TABLE outbox_migrations CASCADE").await;
        let refused = [store.outbox_id().await.unwrap_err(), store.migrate(&|_| ()).await.unwrap_err()];
        drop(store);
        fixture.execute(&format!("DROP ROLE {role}")).await;
        for error in refused {
            assert!(!error.is_transient(), "{error}");
        }
    }
}
