//! Connects to the first of an address' servers that accepts writes, with TLS as the address says.

use std::borrow::Cow;
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
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
use super::schema::Schema;
use super::schema_client::SchemaClient;
use super::tls::{Connector, Tls};
use crate::error::StoreError;
use crate::settings::{COMMAND_LIMIT, DatabaseSettings, Secret};

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

/// How to reach a database.
pub(crate) struct Target {
    url: Secret,
    password: Option<Secret>,
    /// What they said last.
    place: RwLock<Arc<Place>>,
    /// Held while they are read again.
    reading: tokio::sync::Mutex<()>,
    pub(super) index_plans: IndexPlans,
    pub(super) pulse: Pulse,
    /// The server that was reached last, which is tried first.
    reached: AtomicUsize,
    /// Whether the last connection was encrypted.
    encrypted: AtomicBool,
    /// When the last connected server started, in microseconds; identifies the server.
    server: AtomicI64,
    /// The outbox's schema, once it is known.
    pub(super) schema: OnceLock<Arc<Schema>>,
    pub(super) has_warned_of_isolation: AtomicBool,
}

/// An address with its password, read.
struct Place {
    url: String,
    password: Option<String>,
    /// What all servers have in common.
    config: Config,
    address: Address,
    tls: Option<Tls>,
}

/// How to speak to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Encrypted,
}

impl Place {
    fn read(url: &Secret, password: Option<&Secret>, environment: Environment<'_>) -> Result<Self, String> {
        let text = |secret: &Secret| secret.read().map(Cow::into_owned).map_err(|error| error.to_string());
        let (url, password) = (text(url)?, password.map(text).transpose()?);
        let address = Address::read(&url, environment)?;
        let tls = (address.tls.mode != SslMode::Disable).then(|| Tls::new(&address.tls)).transpose()?;
        let mut config = address.config.clone();
        if let Some(password) = &password {
            config.password(password);
        }
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        notice_silence(&mut config);
        Ok(Self { url, password, config, address, tls })
    }

    /// The time limit for one server.
    fn limit_for_each(&self) -> Duration {
        let usual = if self.address.servers.len() == 1 { CONNECT_LIMIT } else { LIMIT_FOR_EACH };
        self.config.get_connect_timeout().copied().unwrap_or(usual)
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

    /// Connects in one way; in `prefer` perhaps in the other.
    async fn open(&self, way: Way, server: &Server, options: &str) -> Result<(Client, Messages), DriverError> {
        let mut config = self.config.clone();
        if !options.is_empty() {
            let all = [self.config.get_options().unwrap_or_default(), options].join(" ");
            config.options(all.trim_start());
        }
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
                // Where an unencrypted connection need not be watched, the driver goes on with it after a refusal of TLS.
                let may_go_on =
                    self.address.tls.mode == SslMode::Prefer && self.connector(Way::Plain, server).is_none();
                config.ssl_mode(if may_go_on { Negotiation::Prefer } else { Negotiation::Require });
                if way == Way::Plain {
                    // The connector is called without a request to the server before, and only watches.
                    config.ssl_negotiation(SslNegotiation::Direct);
                }
                let (client, mut driver) = config.connect(connector).await?;
                Ok((client, poll_fn(move |cx| driver.poll_message(cx)).boxed()))
            }
        }
    }
}

impl Target {
    /// Reads an address as libpq does; the environment's `PGSSLMODE` and the like count where it leaves TLS open. Waits for a
    /// command that prints the address.
    pub(crate) fn from_settings(settings: &DatabaseSettings) -> Result<Self, String> {
        Self::at(&settings.url, settings)
    }

    /// Where notifications are received, if the settings name another address for it.
    pub(crate) fn of_listener(settings: &DatabaseSettings) -> Result<Option<Self>, String> {
        settings.listen_url.as_ref().map(|url| Self::at(url, settings)).transpose()
    }

    fn at(url: &Secret, DatabaseSettings { password, schema, .. }: &DatabaseSettings) -> Result<Self, String> {
        let target = Self::in_environment(url.clone(), password.clone(), &environment)?;
        Ok(match schema {
            Some(schema) => target.in_schema(schema),
            None => target,
        })
    }

    /// Whether address and password were given as texts, which stay as they are.
    pub(super) fn has_fixed_login(&self) -> bool {
        self.url.is_fixed() && self.password.as_ref().is_none_or(Secret::is_fixed)
    }

    pub(crate) fn in_schema(mut self, name: &str) -> Self {
        self.schema = OnceLock::from(Arc::new(Schema::new(name)));
        self
    }

    /// Reads an address that has its password.
    #[cfg(any(test, feature = "bench-api"))]
    pub(crate) fn from_url(text: &str) -> Result<Self, String> {
        Self::in_environment(text.into(), None, &environment)
    }

    pub(super) fn in_environment(
        url: Secret,
        password: Option<Secret>,
        environment: Environment<'_>,
    ) -> Result<Self, String> {
        let place = Place::read(&url, password.as_ref(), environment)?;
        Ok(Self {
            url,
            password,
            place: RwLock::new(Arc::new(place)),
            reading: tokio::sync::Mutex::default(),
            index_plans: IndexPlans::default(),
            pulse: Pulse::default(),
            reached: AtomicUsize::new(0),
            encrypted: AtomicBool::new(false),
            server: AtomicI64::new(0),
            schema: OnceLock::new(),
            has_warned_of_isolation: AtomicBool::new(false),
        })
    }

    fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The address with its secrets as they are now.
    async fn place_now(&self) -> Result<Arc<Place>, String> {
        if self.is_fixed() {
            return Ok(self.place());
        }
        // One command after the other.
        let _turn = self.reading.lock().await;
        let (url, password) = (self.url.clone(), self.password.clone());
        let read = tokio::task::spawn_blocking(move || Place::read(&url, password.as_ref(), &environment)).await;
        let read = read.map_err(|error| format!("its address cannot be read: {error}"))??;
        let mut place = self.place.write().unwrap_or_else(PoisonError::into_inner);
        if (&read.url, &read.password) != (&place.url, &place.password) {
            *place = Arc::new(read);
        }
        Ok(Arc::clone(&place))
    }

    fn is_fixed(&self) -> bool {
        [Some(&self.url), self.password.as_ref()].into_iter().flatten().all(|secret| secret.as_text().is_some())
    }

    /// Servers and database for messages, without the password.
    pub(crate) fn shown(&self) -> String {
        self.place().address.to_string()
    }

    /// The servers, of those that others could pretend to be, that are not verified.
    pub(crate) fn unverified(&self) -> Option<String> {
        self.place().address.unverified()
    }

    /// The time limit for connecting, whichever server it is.
    pub(super) fn connect_limit(&self) -> Duration {
        let place = self.place();
        let servers = u32::try_from(place.address.servers.len()).unwrap_or(u32::MAX);
        let reading = if self.is_fixed() { Duration::ZERO } else { COMMAND_LIMIT };
        place.limit_for_each().saturating_mul(servers).max(CONNECT_LIMIT) + reading
    }

    /// A connection whose driver runs as a task of the current runtime, for short use and not counted; see `connections`.
    pub(crate) async fn connect(&self) -> Result<SchemaClient, StoreError> {
        let limit = self.connect_limit();
        let opened = tokio::time::timeout(limit, self.open_session(None)).await;
        let session = opened.unwrap_or_else(|_| Err(self.unreachable(format!("no answer within {limit:?}"))))?;
        tokio::spawn(session.messages.try_for_each(|_| ready(Ok(()))));
        Ok(SchemaClient::new(session.client, session.schema))
    }

    /// The outbox's schema; none before the first connection found it.
    pub(super) fn schema(&self) -> Option<&Schema> {
        self.schema.get().map(Arc::as_ref)
    }

    /// Connects with further options for the session. The connection works only while the server's unasked messages are
    /// read. Waits for an only server that does not answer.
    pub(super) async fn open_with(&self, options: &str) -> Result<(Client, Messages), ConnectError> {
        self.open_within(None, options).await
    }

    /// Connects, with a time limit for each server.
    pub(super) async fn open_within(
        &self,
        limit: Option<Duration>,
        options: &str,
    ) -> Result<(Client, Messages), ConnectError> {
        let place = self.place_now().await.map_err(ConnectError::unread)?;
        let limit = limit.or((place.address.servers.len() > 1).then(|| place.limit_for_each()));
        let (began, mut failed) = (Instant::now(), ConnectError::default());
        for number in self.order(&place) {
            let server = &place.address.servers[number];
            let attempt = self.open_on(&place, server, options);
            let opened = match limit {
                None => attempt.await,
                Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or(Err(AttemptError::Silent(limit))),
            };
            match opened {
                Ok(opened) => {
                    self.reached.store(number, Ordering::Relaxed);
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

    /// The servers' numbers in the order in which they are tried.
    fn order(&self, place: &Place) -> Vec<usize> {
        let servers = place.address.servers.len();
        let mut order: Vec<usize> = (0..servers).collect();
        match place.config.get_load_balance_hosts() {
            LoadBalanceHosts::Random => order.shuffle(&mut rand::rng()),
            _ => order.rotate_left(self.reached.load(Ordering::Relaxed) % servers.max(1)),
        }
        order
    }

    async fn open_on(&self, place: &Place, server: &Server, options: &str) -> Result<(Client, Messages), AttemptError> {
        let mut ways = place.ways(server).iter().peekable();
        while let Some(way) = ways.next() {
            match place.open(*way, server, options).await {
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

    /// Asks the server to end the statement that runs on another connection. The request may be lost.
    pub(super) async fn cancel(&self, token: &CancelToken) {
        let way = if self.encrypted.load(Ordering::Relaxed) { Way::Encrypted } else { Way::Plain };
        let place = self.place();
        let Some(reached) = place.address.servers.get(self.reached.load(Ordering::Relaxed)) else { return };
        let cancelling = async {
            match place.connector(way, reached) {
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

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
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
