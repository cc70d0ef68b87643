//! PostgreSQL servers for tests.

use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::geteuid;
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};
use url::Url;

use super::process::{Daemon, Signal};
use super::{PATIENCE, free_port, unique};

pub(crate) mod pgbouncer;
pub(crate) mod replication;

const USER: &str = "outbox";

/// Speed over durability: tests do not need data after a crash of the machine. `synchronous_commit` stays on.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "300"),
    ("shared_buffers", "64MB"),
];

/// A new, empty database on the shared server.
pub(crate) async fn database() -> Database {
    let Ok(existing) = std::env::var("OUTBOX_TEST_DATABASE_URL") else { return shared().database().await };
    let mut database = Database::create(&existing).await;
    database.drop_on = Some(existing);
    database
}

fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(Server::start)
}

/// A connection to a database.
pub(crate) async fn connect(url: &str) -> Client {
    connect_by(&url.parse().unwrap()).await
}

async fn connect_by(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap_or_else(|error| panic!("{config:?}: {error}"));
    tokio::spawn(connection);
    client
}

/// A database of one test. On an existing server it is dropped at the end; a temporary server is removed as a whole.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) name: String,
    drop_on: Option<String>,
}

impl Database {
    async fn create(server: &str) -> Self {
        Self::create_from(server, "template1").await
    }

    async fn create_from(server: &str, template: &str) -> Self {
        let name = unique("outbox_test");
        connect(server).await.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await.unwrap();
        let mut url = Url::parse(server).unwrap();
        url.set_path(&name);
        Self { url: url.into(), name, drop_on: None }
    }

    /// Another database with the same tables and rows; requires that this one has no connections.
    pub(crate) async fn copy(&self) -> Self {
        let mut server = Url::parse(&self.url).unwrap();
        server.set_path("postgres");
        let mut copy = Self::create_from(server.as_str(), &self.name).await;
        copy.drop_on.clone_from(&self.drop_on);
        copy
    }

    /// The same database, reached over another port.
    pub(crate) fn at(mut self, port: u16) -> Self {
        let mut url = Url::parse(&self.url).unwrap();
        url.set_port(Some(port)).unwrap();
        self.url = url.into();
        self
    }

    /// For a test's own questions, which fail for no other transaction: whatever the level of its role, READ COMMITTED.
    pub(crate) async fn connect(&self) -> Client {
        let mut config: Config = self.url.parse().unwrap();
        connect_by(config.options("-c default_transaction_isolation=read\\ committed")).await
    }

    /// Restores a dump of this database in another, empty one.
    pub(crate) fn dump_into(&self, other: &Self) {
        let dump = unprivileged("pg_dump").arg(&self.url).output().unwrap();
        assert!(dump.status.success(), "pg_dump: {}", String::from_utf8_lossy(&dump.stderr));
        let mut file = tempfile::tempfile().unwrap();
        for line in dump.stdout.split_inclusive(|byte| *byte == b'\n') {
            // A newer pg_dump sets what an older server does not know.
            if !line.starts_with(b"SET transaction_timeout ") {
                file.write_all(line).unwrap();
            }
        }
        file.rewind().unwrap();
        let restored = unprivileged("psql").args(["-Xq", "--set=ON_ERROR_STOP=1", &other.url]).stdin(file).output();
        let restored = restored.unwrap();
        assert!(restored.status.success(), "psql: {}", String::from_utf8_lossy(&restored.stderr));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(server) = self.drop_on.take() else { return };
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // On its own thread, because a runtime cannot be entered from within another.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { connect(&server).await.batch_execute(&statement).await })
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("the database {} could not be dropped", self.name);
        }
    }
}

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Open transactions are rolled back, and all data is written.
    Fast,
    /// Immediately; the next start recovers.
    Immediate,
}

/// A server of one test; stopped, and its data removed, when dropped.
pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    running: Option<Daemon>,
    language: Option<&'static str>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Its messages are in this language, if it has translations.
    pub(crate) fn start_in_language(language: &'static str) -> Self {
        let mut server = Self::start_with(&[("lc_messages", "C.UTF-8")]);
        server.language = Some(language);
        server.restart(Stop::Fast);
        server
    }

    /// With additional settings: `&[("fsync", "on")]`.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = new_folder();
        initdb(folder.path());
        let settings =
            SETTINGS.iter().chain(settings).map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut server = Self { folder, port: 0, settings, running: None, language: None };
        let started = (0..5).any(|_| {
            server.port = free_port();
            server.launch()
        });
        assert!(started, "postgres does not start: {}", server.log());
        server
    }

    /// Has the identity's authority as `root.crt`, for `ssl_ca_file`.
    pub(crate) fn trust(&self, identity: &super::tls::Identity) {
        let file = self.folder.path().join("data/root.crt");
        fs::copy(&identity.authority, &file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Serves TLS with this identity after this call.
    pub(crate) fn secure(&mut self, identity: &super::tls::Identity) {
        let data = self.folder.path().join("data");
        for (from, name) in [(&identity.certificate, "server.crt"), (&identity.key, "server.key")] {
            let file = data.join(name);
            fs::copy(from, &file).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((user, group)) = user() {
                std::os::unix::fs::chown(&file, Some(user), Some(group)).unwrap();
            }
        }
        self.settings.push(("ssl".to_owned(), "on".to_owned()));
        self.restart(Stop::Fast);
    }

    /// Requires this role's password after this call; other roles need none.
    pub(crate) fn ask_for_the_password_of(&mut self, role: &str) {
        self.admit(&format!(
            "host all {role} 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n\
             host replication all 127.0.0.1/32 trust\n"
        ));
    }

    /// Admits clients by these rules, in the form of `pg_hba.conf`, after this call.
    pub(crate) fn admit(&mut self, rules: &str) {
        fs::write(self.folder.path().join("data/pg_hba.conf"), rules).unwrap();
        self.restart(Stop::Fast);
    }

    /// Starts a server that was stopped, on the same port and data.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "postgres runs already");
        assert!(self.launch(), "postgres does not start again: {}", self.log());
    }

    pub(crate) fn stop(&mut self, how: Stop) {
        let signal = if how == Stop::Fast { Signal::INT } else { Signal::QUIT };
        if let Some(mut daemon) = self.running.take() {
            // A frozen process would not handle the signal.
            daemon.signal_children(Signal::CONT);
            daemon.signal(Signal::CONT);
            daemon.end(signal, PATIENCE);
        }
    }

    /// Kills all processes of a frozen server: what they have not read from their connections is lost.
    pub(crate) fn kill_frozen(&mut self) {
        let mut daemon = self.running.take().expect("postgres runs");
        daemon.signal_children(Signal::KILL);
        daemon.end(Signal::KILL, PATIENCE);
    }

    pub(crate) fn restart(&mut self, how: Stop) {
        self.stop(how);
        self.start_again();
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    pub(crate) async fn database(&self) -> Database {
        Database::create(&self.url("postgres")).await
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until the server accepts connections or has ended; returns whether it runs.
    fn launch(&mut self) -> bool {
        let data = self.folder.path().join("data");
        let mut command = unprivileged("postgres");
        command.arg("-D").arg(&data).arg("-p").arg(self.port.to_string());
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.envs(self.language.map(|language| ("LANGUAGE", language)));
        let log = self.folder.path().join("log");
        let mut daemon = Daemon::spawn(&mut command, &log, Signal::QUIT, self.folder.path());
        let runs = daemon.wait_ready(PATIENCE, |id| is_ready(&data, id));
        self.running = runs.then_some(daemon);
        runs
    }
}

/// The major version of the servers.
pub(crate) fn major_version() -> u32 {
    major_version_of("postgres")
}

/// The major version of psql, which may come from another package.
pub(crate) fn psql_version() -> u32 {
    major_version_of("psql")
}

/// From an answer such as `postgres (PostgreSQL) 14.23`.
fn major_version_of(program: &str) -> u32 {
    let output = Command::new(bin_dir().join(program)).arg("--version").output().expect(program);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().nth(2).and_then(|version| version.split('.').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no version: {text}"))
}

/// What psql answers to a question at this address, in this environment; or its complaint.
pub(crate) fn psql(url: &str, environment: &[(&str, &str)], question: &str) -> Result<String, String> {
    let mut command = Command::new(bin_dir().join("psql"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied()).args(["-XAtwc", question, url]);
    let output = command.output().expect("psql");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
    }
}

/// Whether the server says in `postmaster.pid` that it accepts connections: its process id in the first line, its state
/// in the eighth. Unlike the port, the file cannot belong to another server.
fn is_ready(data: &Path, id: u32) -> bool {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let mut lines = text.lines().map(str::trim);
    lines.next() == Some(&id.to_string()) && lines.nth(6) == Some("ready")
}

fn initdb(folder: &Path) {
    let output = unprivileged("initdb")
        .arg("-D")
        .arg(folder.join("data"))
        .args(["--username", USER, "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
        .output()
        .expect("initdb");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder that the server's user may write to.
fn new_folder() -> TempDir {
    let Some((user, group)) = user() else { return tempfile::tempdir().unwrap() };
    // Other users may have no access to root's folder for temporary files.
    let folder = TempDir::with_prefix_in("outbox-postgres-", "/tmp").unwrap();
    std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
    folder
}

/// A program of PostgreSQL, run by an unprivileged user, because it refuses to run as root.
fn unprivileged(program: &str) -> Command {
    let mut command = Command::new(bin_dir().join(program));
    command.current_dir("/");
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command
}

/// The user and group to use instead of root: `postgres` if it exists, else `nobody`.
fn user() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name| users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
    let fields = find("postgres").or_else(|| find("nobody")).expect("a user postgres or nobody");
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// The folder of `initdb` and `postgres`: on the `PATH`, else the newest of Debian's packages.
fn bin_dir() -> PathBuf {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let complete = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    std::env::split_paths(&on_path)
        .find(complete)
        // The folder on the `PATH` may contain only links to these two.
        .and_then(|dir| Some(fs::canonicalize(dir.join("postgres")).ok()?.parent()?.to_owned()))
        .or_else(|| {
            let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
            let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
            let newest =
                versions.map(|version| version.path()).filter(|path| complete(&path.join("bin"))).max_by_key(number)?;
            Some(newest.join("bin"))
        })
        .expect("PostgreSQL's initdb and postgres: install the package postgresql, or set OUTBOX_TEST_DATABASE_URL")
}
