//! A PostgreSQL primary, and a standby that streams from it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::super::process::Signal;
use super::super::{PATIENCE, eventually, free_port};
use super::{Database, SETTINGS, Server, Stop, USER, connect, new_folder, unprivileged};

const SLOT: &str = "standby";

/// Whether a commit on the primary waits until the standby has written it to its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replication {
    Synchronous,
    Asynchronous,
}

/// A primary and its one standby.
pub(crate) struct Pair {
    pub(crate) primary: Server,
    pub(crate) standby: Server,
}

impl Pair {
    /// A primary with a standby that streams over a replication slot.
    pub(crate) async fn start(replication: Replication) -> Self {
        let primary = Server::start();
        let standby = primary.standby(replication).await;
        Self { primary, standby }
    }

    /// A new, empty database, which the standby has too.
    pub(crate) async fn database(&self) -> Database {
        let database = self.primary.database().await;
        self.wait_replayed().await;
        database
    }

    /// Waits until the standby shows all that the primary has committed.
    pub(crate) async fn wait_replayed(&self) {
        let end: String = self.primary.ask("SELECT pg_current_wal_lsn()::text").await;
        let reached = format!("SELECT (pg_last_wal_replay_lsn() >= '{end}')::text");
        eventually("the standby has replayed", PATIENCE, async || self.standby.ask(&reached).await == "true").await;
    }

    /// Stops the primary as in a crash, and promotes the standby.
    pub(crate) async fn fail_over(&mut self) {
        self.primary.stop(Stop::Immediate);
        self.standby.promote().await;
    }

    /// Fails over to a frozen standby, which never gets what it has missed since.
    pub(crate) async fn fail_over_to_frozen(&mut self) {
        self.standby.kill_frozen();
        self.primary.stop(Stop::Immediate);
        self.standby.start_again();
        self.standby.promote().await;
    }
}

impl Server {
    /// Starts a standby that streams from this server over a replication slot. A server has one at a time.
    pub(crate) async fn standby(&self, replication: Replication) -> Self {
        let standby = Self::standby_of(self);
        eventually("the standby streams", PATIENCE, async || self.streams().await).await;
        if replication == Replication::Synchronous {
            // Set only now, and so not in the standby's copy: no commit waits for a standby that does not exist yet, and the
            // promoted standby does not wait for another.
            self.set("synchronous_standby_names", "'*'").await;
            eventually("commits wait for the standby", PATIENCE, async || self.is_synchronous().await).await;
        }
        standby
    }

    async fn streams(&self) -> bool {
        self.ask("SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming'").await == "1"
    }

    async fn is_synchronous(&self) -> bool {
        self.ask("SELECT count(*)::text FROM pg_stat_replication WHERE sync_state = 'sync'").await == "1"
    }

    /// A copy that streams from `primary`, asynchronously unless the primary is configured otherwise.
    fn standby_of(primary: &Self) -> Self {
        let folder = new_folder();
        base_backup(primary.port, folder.path());
        fs::write(folder.path().join("data/standby.signal"), "").unwrap();
        let source = format!("host=127.0.0.1 port={} user={USER}", primary.port);
        let source = [("primary_conninfo", source.as_str()), ("primary_slot_name", SLOT)];
        let settings =
            SETTINGS.iter().chain(&source).map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut standby = Self { folder, port: free_port(), settings, running: None, language: None };
        assert!(standby.launch(), "the standby does not start: {}", standby.log());
        standby
    }

    /// Restarts as a standby without a primary, which answers reads and refuses writes.
    pub(crate) fn demote(&mut self) {
        self.stop(Stop::Fast);
        fs::write(self.folder.path().join("data/standby.signal"), "").unwrap();
        self.start_again();
    }

    /// Ends recovery; when this returns, the server accepts writes.
    pub(crate) async fn promote(&self) {
        assert_eq!(self.ask("SELECT pg_promote()::text").await, "true", "it is promoted");
    }

    /// Pauses replay on a standby until [`resume_replay`](Self::resume_replay); it still receives changes, and confirms them.
    pub(crate) async fn pause_replay(&self) {
        self.execute("SELECT pg_wal_replay_pause()").await;
        let paused = "SELECT pg_get_wal_replay_pause_state()";
        eventually("replay is paused", PATIENCE, async || self.ask(paused).await == "paused").await;
    }

    pub(crate) async fn resume_replay(&self) {
        self.execute("SELECT pg_wal_replay_resume()").await;
    }

    /// Delays each commit on a standby by this much after this call.
    pub(crate) async fn lag(&self, behind: Duration) {
        self.set("recovery_min_apply_delay", &format!("'{}ms'", behind.as_millis())).await;
    }

    /// Changes a setting of the running server, also for its later starts.
    pub(crate) async fn set(&self, name: &str, value: &str) {
        self.execute(&format!("ALTER SYSTEM SET {name} = {value}")).await;
        self.execute("SELECT pg_reload_conf()").await;
    }

    /// Freezes all of its processes until [`thaw`](Self::thaw); clients wait.
    pub(crate) fn freeze(&mut self) {
        let daemon = self.running.as_mut().expect("postgres runs");
        // The main process first, so that it starts no others meanwhile.
        daemon.signal(Signal::STOP);
        daemon.signal_children(Signal::STOP);
    }

    pub(crate) fn thaw(&mut self) {
        let daemon = self.running.as_mut().expect("postgres runs");
        daemon.signal_children(Signal::CONT);
        daemon.signal(Signal::CONT);
    }

    async fn execute(&self, statement: &str) {
        connect(&self.url("postgres")).await.batch_execute(statement).await.unwrap();
    }

    /// The single text that a query returns.
    async fn ask(&self, query: &str) -> String {
        connect(&self.url("postgres")).await.query_one(query, &[]).await.unwrap().get(0)
    }
}

fn base_backup(port: u16, folder: &Path) {
    let mut command = unprivileged("pg_basebackup");
    command.arg("-D").arg(folder.join("data"));
    command.args(["-d", &format!("host=127.0.0.1 port={port} user={USER}")]);
    // Not with --write-recovery-conf: a newer pg_basebackup would write what an older server does not know.
    command.args(["--create-slot", "--slot", SLOT, "--checkpoint=fast", "--no-sync"]);
    let output = command.output().expect("pg_basebackup");
    assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
}
