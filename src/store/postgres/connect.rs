//! Connects with TLS by `sslmode`, and interprets the driver's errors.

use std::future::ready;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::stream::{BoxStream, poll_fn};
use futures_util::{StreamExt, TryStreamExt};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

use super::errors::chain;
use super::index_plans::IndexPlans;
use super::pulse::Pulse;
use super::tls::{encrypted, verified};
use crate::error::StoreError;

/// The time limit for connecting, and for getting a connection from a pool.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection that has been silent for this long probes its peer; data that has not been acknowledged for this long ends
/// the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Messages that a server sends unasked on a connection.
pub(super) type Messages = BoxStream<'static, Result<AsyncMessage, DriverError>>;

pub(super) type DriverError = tokio_postgres::Error;

/// A database's address and how to reach it.
pub(crate) struct Target {
    pub(super) config: Config,
    pub(super) index_plans: IndexPlans,
    pub(super) pulse: Pulse,
    /// When the last connected server started, in microseconds; identifies the server.
    server: AtomicI64,
    tls: Option<MakeRustlsConnect>,
    /// Host and database for messages, without the password.
    pub(super) shown: String,
}

impl Target {
    /// Reads a `postgres://` URL. `sslmode`: `disable` (default), `require` (encrypted, the server not
    /// verified, as libpq does) or `verify-full` (the system's certificates, the host's name checked).
    pub(crate) fn from_url(text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        let mode = url.query_pairs().find(|(name, _)| name == "sslmode").map(|(_, mode)| mode.into_owned());
        let rest: Vec<(String, String)> = url
            .query_pairs()
            .filter(|(name, _)| name != "sslmode")
            .map(|(n, v)| (n.into_owned(), v.into_owned()))
            .collect();
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        // The driver reads a plus as itself, not as the space that it means in a form.
        let query = url.query().map(|query| query.replace('+', "%20"));
        url.set_query(query.as_deref());
        let mut config: Config =
            url.as_str().parse().map_err(|error| format!("is not a valid PostgreSQL URL: {}", chain(&error)))?;
        let tls = match mode.as_deref() {
            None | Some("disable") => None,
            Some("require") => Some(encrypted()?),
            Some("verify-full") => Some(verified()?),
            Some(_) => return Err("has an unknown sslmode; use disable, require or verify-full".to_owned()),
        };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        config.connect_timeout(CONNECT_LIMIT);
        // Of several hosts, and of a name's several addresses, the one that accepts writes.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        notice_silence(&mut config);
        if config.get_application_name().is_none() {
            config.application_name("actix-outbox");
        }
        let shown = format!(
            "postgres://{}{}{}",
            url.host_str().unwrap_or("localhost"),
            url.port().map(|port| format!(":{port}")).unwrap_or_default(),
            url.path()
        );
        let server = AtomicI64::new(0);
        Ok(Self { config, index_plans: IndexPlans::default(), pulse: Pulse::default(), server, tls, shown })
    }

    /// A connection whose driver runs as a task of the current runtime, for short use and not counted; see `connections`.
    pub(crate) async fn connect(&self) -> Result<Client, StoreError> {
        let opened = tokio::time::timeout(CONNECT_LIMIT, self.open()).await;
        let (client, messages) =
            opened.unwrap_or_else(|_| Err(self.unreachable(format!("no answer within {CONNECT_LIMIT:?}"))))?;
        tokio::spawn(messages.try_for_each(|_| ready(Ok(()))));
        Ok(client)
    }

    /// A connection and the server's unasked messages. It works only while the messages are read.
    pub(super) async fn open(&self) -> Result<(Client, Messages), StoreError> {
        self.open_with(&self.config).await.map_err(|error| self.connect_error(&error))
    }

    /// Connects with other parameters. Waits for a server that does not answer.
    pub(super) async fn open_with(&self, config: &Config) -> Result<(Client, Messages), DriverError> {
        Ok(match &self.tls {
            None => {
                let (client, mut driver) = config.connect(NoTls).await?;
                (client, poll_fn(move |cx| driver.poll_message(cx)).boxed())
            }
            Some(tls) => {
                let (client, mut driver) = config.connect(tls.clone()).await?;
                (client, poll_fn(move |cx| driver.poll_message(cx)).boxed())
            }
        })
    }

    /// Asks the server to end the statement that runs on another connection. The request may be lost.
    pub(super) async fn cancel(&self, token: &CancelToken) {
        let cancelling = async {
            match &self.tls {
                None => token.cancel_query(NoTls).await,
                Some(tls) => token.cancel_query(tls.clone()).await,
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
