//! A connection that is opened on demand and used by one caller at a time.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, SqliteConnection};
use rustix::fs::Access;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::error::describe_failure;
use crate::error::StoreError;
use crate::store::Result;

/// How long a caller waits for its result, including the wait for the connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The file, and its name for messages.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    path: Arc<str>,
    pub(crate) target: Arc<str>,
}

impl Location {
    /// Reads `sqlite://path` or `sqlite:path`; the path is used unchanged.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let refuse = |reason: String| StoreError::Query { operation: "connect", reason, transient: false };
        let path = url
            .strip_prefix("sqlite:")
            .map(|rest| rest.strip_prefix("//").unwrap_or(rest))
            .ok_or_else(|| refuse(format!("`{url}` is not a SQLite address: write sqlite://path/to/file.db")))?;
        if path.is_empty() || path.contains(":memory:") || path.contains("mode=memory") {
            return Err(refuse(format!(
                "`{url}` does not name a file; the outbox uses several connections, and each would open its own database: write sqlite://path/to/file.db"
            )));
        }
        if path.contains('?') {
            return Err(refuse(format!(
                "`{url}` has options, which are not supported: write sqlite://path/to/file.db"
            )));
        }
        Ok(Self { path: path.into(), target: url.into() })
    }

    pub(super) fn exists(&self) -> bool {
        Path::new(&*self.path).exists()
    }

    pub(super) fn not_migrated(&self, state: &'static str) -> StoreError {
        StoreError::NotMigrated { target: self.target.to_string(), state }
    }

    pub(super) fn open(&self, busy_timeout: Duration) -> Result<SqliteConnection> {
        let unreachable = |reason: String| StoreError::Unreachable { target: self.target.to_string(), reason };
        // SQLite would read a name that begins with `file:` as a URI.
        let name = if self.path.starts_with("file:") { format!("./{}", self.path) } else { self.path.to_string() };
        create_for_owner(&name);
        if let Err(error) = check_file(&name) {
            return Err(StoreError::NoAccess { target: self.target.to_string(), reason: error.to_string() });
        }
        let mut connection = SqliteConnection::establish(&name).map_err(|error| unreachable(error.to_string()))?;
        // FULL: acknowledged writes survive a power failure. In WAL mode NORMAL would not guarantee that.
        let settings = format!(
            "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
            busy_timeout.as_millis()
        );
        connection.batch_execute(&settings).map_err(|error| unreachable(error.to_string()))?;
        Ok(connection)
    }
}

/// Creates a missing file for its owner alone: events are not for every user of the machine. The files next to it get its
/// permissions. If this fails, SQLite says why.
fn create_for_owner(name: &str) {
    let mut options = std::fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    drop(options.write(true).create_new(true).open(name));
}

/// Checks what waiting does not change, without opening the file: closing it again would end this process' locks on it.
fn check_file(name: &str) -> io::Result<()> {
    if std::fs::metadata(name)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(rustix::fs::access(name, Access::READ_OK | Access::WRITE_OK)?)
}

/// One connection. SQLite blocks, so its work runs on a blocking thread and continues to its end even if the caller no
/// longer waits for it; the next caller gets the connection after that.
#[derive(Clone)]
pub(super) struct Connection {
    location: Location,
    busy_timeout: Duration,
    slot: Arc<Mutex<Option<SqliteConnection>>>,
}

impl Connection {
    pub(super) fn new(location: &Location, busy_timeout: Duration) -> Self {
        Self { location: location.clone(), busy_timeout, slot: Arc::default() }
    }

    /// Runs `work` in an existing file. A missing file is not created: only migrating creates it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut SqliteConnection) -> diesel::QueryResult<T> + Send + 'static,
    ) -> Result<T> {
        let target = self.location.target.clone();
        self.run_as(operation, move |connection| {
            work(connection).map_err(|error| describe_failure(&target, operation, error))
        })
        .await
    }

    /// Runs work like [`run`](Self::run), with an error type of its own.
    pub(super) async fn run_as<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        if !self.location.exists() {
            return Err(self.location.not_migrated("missing").into());
        }
        self.run_in_any_file(operation, work).await
    }

    /// Runs work like [`run_as`](Self::run_as), and creates the file if it does not exist.
    pub(super) async fn run_in_any_file<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let late = |_| StoreError::Timeout { operation, limit: ANSWER_LIMIT };
        let mut slot = timeout_at(deadline, self.slot.clone().lock_owned()).await.map_err(late)?;
        let (location, busy_timeout) = (self.location.clone(), self.busy_timeout);
        let answer = tokio::task::spawn_blocking(move || {
            // Taken out, so that a panic or an error closes it and the next caller opens a new one.
            let mut connection = match slot.take() {
                Some(connection) => connection,
                None => location.open(busy_timeout)?,
            };
            let answer = work(&mut connection);
            if answer.is_ok() {
                *slot = Some(connection);
            }
            answer
        });
        let ended = timeout_at(deadline, answer).await.map_err(late)?;
        ended.map_err(|panic| StoreError::Query { operation, reason: panic.to_string(), transient: false })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_file() {
        for (url, path) in [
            ("sqlite://outbox.db", "outbox.db"),
            ("sqlite:outbox.db", "outbox.db"),
            ("sqlite:///var/lib/outbox.db", "/var/lib/outbox.db"),
            ("sqlite:/var/lib/outbox.db", "/var/lib/outbox.db"),
        ] {
            assert_eq!(&*Location::parse(url).unwrap().path, path);
        }
    }

    #[test]
    fn an_address_in_memory_is_refused_and_the_right_form_is_shown() {
        for url in ["sqlite::memory:", "sqlite://:memory:", "sqlite://", "sqlite://x?mode=memory", "postgres://x"] {
            let error = Location::parse(url).unwrap_err();
            assert!(!error.is_transient());
            assert!(error.to_string().contains("sqlite://path/to/file.db"), "{error}");
        }
    }
}
