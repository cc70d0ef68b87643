//! Connections for the statements of the application: to the outbox's database, by its address, secrets and TLS.

use std::time::Duration;

use deadpool::Runtime;
use diesel::ConnectionError;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, PoolableConnection};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Result;
use crate::error::{StoreError, SystemError};
use crate::settings::DatabaseSettings;

/// How long a caller waits for a connection of a pool whose connections are all in use.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// A connection that [`Outbox::pool`](crate::Outbox::pool), [`Outbox::connection`](crate::Outbox::connection) and
/// [`DatabaseSettings::pool`] make: diesel-async's `AsyncPgConnection` or `AsyncMysqlConnection`, or its `SyncConnectionWrapper<SqliteConnection>`.
///
/// Cannot be implemented outside this crate.
pub trait OutboxConnection: PoolableConnection + sealed::Connect<Self::Pool> {
    /// A pool of such connections: `diesel_async::pooled_connection::deadpool::Pool<Self>`.
    type Pool;
}

impl DatabaseSettings {
    /// A pool of at most `size` connections to this database, for a process that has no [`Outbox`](crate::Outbox), such as a
    /// consumer with an inbox: with the address, TLS and secrets of the settings, which are read again for each connection, as
    /// [`Outbox::pool`](crate::Outbox::pool) does. The database needs no outbox. Waits if a command prints the address.
    ///
    /// ```no_run
    /// use actix_outbox::{DatabaseSettings, LoadOptions, Settings};
    /// use diesel_async::AsyncPgConnection;
    ///
    /// # fn pools() -> Result<(), Box<dyn std::error::Error>> {
    /// let settings = Settings::load(&LoadOptions::from_process())?;
    /// let pool = settings.database.pool::<AsyncPgConnection>(8)?;
    ///
    /// let mut other = DatabaseSettings::default();
    /// other.url = "postgres://billing@db.example/billing?sslmode=verify-full&sslrootcert=/etc/billing/ca.crt".into();
    /// let other = other.pool::<AsyncPgConnection>(8)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`SystemError::Settings`]: the address is missing or not valid, or a certificate that it names cannot be read.
    /// [`SystemError::Secret`]: the address cannot be read. [`SystemError::Store`]: it leads to another kind of database.
    /// Connections are made when they are first used.
    pub fn pool<C: OutboxConnection>(&self, size: usize) -> Result<C::Pool, SystemError> {
        Ok(C::build_pool(super::connect(self)?.application_target(), size)?)
    }
}

/// The outbox's database, by its kind.
#[derive(Clone)]
pub(crate) enum Kind {
    #[cfg(feature = "postgres")]
    Postgres(std::sync::Arc<super::postgres::Target>),
    #[cfg(feature = "mysql")]
    Mysql(super::mysql::Address),
    #[cfg(feature = "sqlite")]
    Sqlite(super::sqlite::Location),
}

impl ApplicationTarget {
    /// The error of a connection to another kind of database.
    fn is_not(&self, kind: &'static str) -> StoreError {
        let target = match &self.0 {
            #[cfg(feature = "postgres")]
            Kind::Postgres(target) => target.shown(),
            #[cfg(feature = "mysql")]
            Kind::Mysql(address) => address.shown.clone(),
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(location) => location.target.to_string(),
        };
        StoreError::Unsuitable { target, problem: format!("it is not {kind}, which this type of connection is for") }
    }
}

pub(crate) use sealed::ApplicationTarget;

pub(crate) mod sealed {
    use super::*;

    /// How to connect to the outbox's database.
    #[derive(Clone)]
    pub struct ApplicationTarget(pub(crate) Kind);

    crate::opaque_debug::opaque_debug!(ApplicationTarget);

    pub trait Connect<P>: Sized + Send + 'static {
        #[doc(hidden)]
        fn connect(target: ApplicationTarget) -> BoxFuture<'static, Result<Self>>;

        #[doc(hidden)]
        fn build_pool(target: ApplicationTarget, size: usize) -> Result<P>;
    }
}

macro_rules! connection {
    ($feature:literal, $connection:ty, $kind:literal, $target:ident) => {
        #[cfg(feature = $feature)]
        impl OutboxConnection for $connection {
            type Pool = Pool<Self>;
        }

        #[cfg(feature = $feature)]
        impl sealed::Connect<Pool<Self>> for $connection {
            fn connect(target: ApplicationTarget) -> BoxFuture<'static, Result<Self>> {
                async move {
                    match target.0 {
                        Kind::$target(target) => target.connect_application().await,
                        #[allow(unreachable_patterns, reason = "unless both databases are built in")]
                        _ => Err(target.is_not($kind)),
                    }
                }
                .boxed()
            }

            fn build_pool(target: ApplicationTarget, size: usize) -> Result<Pool<Self>> {
                #[allow(unreachable_patterns, irrefutable_let_patterns, reason = "unless both databases are built in")]
                let Kind::$target(_) = target.0 else { return Err(target.is_not($kind)) };
                let mut config = ManagerConfig::default();
                config.custom_setup = Box::new(move |_| {
                    let connecting = <Self as sealed::Connect<Pool<Self>>>::connect(target.clone());
                    async { connecting.await.map_err(|error| ConnectionError::BadConnection(error.to_string())) }
                        .boxed()
                });
                let pool = Pool::builder(AsyncDieselConnectionManager::new_with_config(String::new(), config));
                let pool = pool.max_size(size.max(1)).runtime(Runtime::Tokio1).wait_timeout(Some(WAIT_LIMIT));
                pool.build().map_err(|error| StoreError::Query {
                    operation: "create a pool",
                    reason: error.to_string(),
                    transient: false,
                })
            }
        }
    };
}

connection!("postgres", diesel_async::AsyncPgConnection, "PostgreSQL", Postgres);
connection!("mysql", diesel_async::AsyncMysqlConnection, "MariaDB or MySQL", Mysql);
connection!(
    "sqlite",
    diesel_async::sync_connection_wrapper::SyncConnectionWrapper<diesel::SqliteConnection>,
    "SQLite",
    Sqlite
);
