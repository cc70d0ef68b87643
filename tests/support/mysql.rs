//! MariaDB servers for tests.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use rustix::process::geteuid;
use tempfile::TempDir;
use url::Url;

use super::process::{Daemon, Signal};
use super::{PATIENCE, free_port, unique};

const USER: &str = "outbox";
const PASSWORD: &str = "out-box";

/// Speed over durability: tests do not need data after a crash of the machine. A server that is killed keeps what it has
/// acknowledged.
const SETTINGS: &[(&str, &str)] = &[
    ("bind-address", "127.0.0.1"),
    ("innodb-buffer-pool-size", "128M"),
    ("innodb-log-file-size", "32M"),
    ("innodb-flush-log-at-trx-commit", "2"),
    ("innodb-doublewrite", "OFF"),
    ("character-set-server", "utf8mb4"),
    ("max-connections", "300"),
    ("max-allowed-packet", "64M"),
    ("performance-schema", "OFF"),
    ("skip-name-resolve", "ON"),
];

/// A new, empty database on the shared server.
pub(crate) async fn database() -> Database {
    let Ok(existing) = std::env::var("OUTBOX_TEST_MYSQL_URL") else { return shared().database().await };
    let mut database = Database::create(&existing).await;
    database.drop_on = Some(existing);
    database
}

fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(Server::start)
}

/// What a test's connection sets: times in UTC, zero dates as MariaDB's default allows them, and longer recursions. MariaDB reads
/// the first comment, and MySQL the second.
const SETUP: &str = "SET time_zone = '+00:00', sql_mode = REPLACE(@@sql_mode, 'NO_ZERO_DATE', '') /*M! , max_recursive_iterations = 1000000 */ \
    /*!80003 , cte_max_recursion_depth = 1000000 */";

/// A connection to a database.
pub(crate) async fn connect(url: &str) -> Conn {
    let opts = Opts::from_url(url).unwrap();
    let mut connection = Conn::new(opts).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    connection.query_drop(SETUP).await.unwrap();
    connection
}

/// A database of one test. On an existing server it is dropped at the end; a temporary server is removed as a whole.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) name: String,
    drop_on: Option<String>,
}

impl Database {
    async fn create(server: &str) -> Self {
        let name = unique("outbox_test");
        connect(server).await.query_drop(format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await.unwrap();
        let mut url = Url::parse(server).unwrap();
        url.set_path(&name);
        Self { url: url.into(), name, drop_on: None }
    }

    /// The same database, reached over another port.
    pub(crate) fn at(mut self, port: u16) -> Self {
        let mut url = Url::parse(&self.url).unwrap();
        url.set_port(Some(port)).unwrap();
        self.url = url.into();
        self
    }

    pub(crate) async fn connect(&self) -> Conn {
        connect(&self.url).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(server) = self.drop_on.take() else { return };
        let statement = format!("DROP DATABASE IF EXISTS {}", self.name);
        // On its own thread, because a runtime cannot be entered from within another.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { connect(&server).await.query_drop(&statement).await })
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("the database {} could not be dropped", self.name);
        }
    }
}

/// A server of one test; stopped, and its data removed, when dropped.
pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    running: Option<Daemon>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With additional settings: `&[("innodb-flush-log-at-trx-commit", "1")]`.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = new_folder();
        let settings = SETTINGS.iter().chain(settings);
        let settings = settings.map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut server = Self { folder, port: 0, settings, running: None };
        server.install();
        let started = (0..5).any(|_| {
            server.port = free_port();
            server.launch()
        });
        assert!(started, "the server does not start: {}", server.log());
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) async fn database(&self) -> Database {
        Database::create(&self.url("mysql")).await
    }

    /// Ends it like a shutdown of the machine: open transactions are rolled back.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Kills it; the next start recovers.
    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Stops all of its threads, with its connections open, until [`thaw`](Self::thaw).
    pub(crate) fn freeze(&mut self) {
        self.running.as_mut().expect("the server runs").signal(Signal::STOP);
    }

    pub(crate) fn thaw(&mut self) {
        self.running.as_mut().expect("the server runs").signal(Signal::CONT);
    }

    /// Starts a server that was stopped, on the same port and data.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "the server runs already");
        assert!(self.launch(), "the server does not start again: {}", self.log());
    }

    /// Serves TLS with this identity after this call.
    pub(crate) fn secure(&mut self, identity: &super::tls::Identity) {
        for (from, name, setting) in
            [(&identity.certificate, "server.crt", "ssl-cert"), (&identity.key, "server.key", "ssl-key")]
        {
            let file = self.folder.path().join(name);
            fs::copy(from, &file).unwrap();
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            if let Some((user, group)) = user() {
                std::os::unix::fs::chown(&file, Some(user), Some(group)).unwrap();
            }
            self.settings.push((setting.to_owned(), file.to_str().unwrap().to_owned()));
        }
        self.stop();
        self.start_again();
    }

    /// The log since its last start.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut daemon) = self.running.take() {
            // A frozen process would not handle the signal.
            daemon.signal(Signal::CONT);
            daemon.end(signal, PATIENCE);
        }
    }

    fn install(&self) {
        let users = format!(
            "CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
        );
        fs::write(self.folder.path().join("users.sql"), users).unwrap();
        let mut command = match mysqld() {
            Some(mysqld) => {
                let mut command = unprivileged(mysqld);
                command.args(["--no-defaults", "--initialize-insecure", "--secure-file-priv=NULL"]);
                command
            }
            None => {
                let mut command = unprivileged(find("mariadb-install-db"));
                command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                command
            }
        };
        // In a common folder, a server that starts removes the temporary tables of the others.
        command.env("TMPDIR", self.folder.path());
        let output = command.arg(format!("--datadir={}", self.folder.path().join("data").display())).output();
        let output = output.expect("the program that creates a database runs");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until the server accepts connections or has ended; returns whether it runs.
    fn launch(&mut self) -> bool {
        let folder = self.folder.path();
        let mysqld = mysqld();
        let is_mysql = mysqld.is_some();
        let mut command = unprivileged(mysqld.unwrap_or_else(|| find("mariadbd")));
        command.arg("--no-defaults").arg(format!("--port={}", self.port));
        if is_mysql {
            command.args(["--mysqlx=OFF", "--secure-file-priv=NULL"]);
            // Its default is a binary log.
            if self.settings.iter().all(|(name, _)| name != "log-bin") {
                command.arg("--skip-log-bin");
            }
        }
        for (name, file) in [
            ("datadir", "data"),
            ("socket", "socket"),
            ("pid-file", "pid"),
            ("init-file", "users.sql"),
            ("tmpdir", "."),
        ] {
            command.arg(format!("--{name}={}", folder.join(file).display()));
        }
        for (name, value) in &self.settings {
            let name = if is_mysql && name == "innodb-log-file-size" { "innodb-redo-log-capacity" } else { name };
            command.arg(format!("--{name}={value}"));
        }
        let log = folder.join("log");
        let mut daemon = Daemon::spawn(&mut command, &log, Signal::KILL, folder);
        let is_ready = |_| fs::read_to_string(&log).is_ok_and(|text| text.contains("ready for connections"));
        let runs = daemon.wait_ready(PATIENCE, is_ready);
        self.running = runs.then_some(daemon);
        runs
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder that the server's user may write to.
fn new_folder() -> TempDir {
    let Some((user, group)) = user() else { return tempfile::tempdir().unwrap() };
    // Other users may have no access to root's folder for temporary files.
    let folder = TempDir::with_prefix_in("outbox-mariadb-", "/tmp").unwrap();
    std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
    folder
}

/// MySQL's server, to be used instead of MariaDB's: `scripts/server.sh mysql-9` fetches one.
fn mysqld() -> Option<PathBuf> {
    std::env::var_os("OUTBOX_TEST_MYSQLD").map(PathBuf::from)
}

/// A program of the server's, run by an unprivileged user, because the server refuses to run as root.
fn unprivileged(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command
}

/// The user and group to use instead of root.
fn user() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name| users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
    let fields = find("mysql").or_else(|| find("nobody")).expect("a user mysql or nobody");
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// A program on the `PATH`, or in the folder of servers, which users' `PATH` often lacks.
fn find(program: &str) -> PathBuf {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&on_path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("{program}: install MariaDB's server, or set OUTBOX_TEST_MYSQL_URL or OUTBOX_TEST_MYSQLD")
        })
}
