//! PgBouncer in transaction mode, for tests.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tempfile::TempDir;

use super::super::process::{Daemon, Signal};
use super::super::{PATIENCE, free_port};
use super::{USER, new_folder, user};

/// A running PgBouncer; killed when dropped.
pub(crate) struct PgBouncer {
    port: u16,
    _running: Daemon,
    _folder: TempDir,
}

impl PgBouncer {
    /// Between clients and the server on this port, with this many connections to each database.
    pub(crate) fn to(server: u16, connections: usize) -> Self {
        let (folder, port) = (new_folder(), free_port());
        let (file, log) = (folder.path().join("pgbouncer.ini"), folder.path().join("log"));
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user={USER}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             max_prepared_statements = 200\ndefault_pool_size = {connections}\n"
        );
        fs::write(&file, settings).unwrap();
        let mut command = Command::new("pgbouncer");
        command.arg(&file).current_dir("/");
        // It refuses to run as root.
        if let Some((user, group)) = user() {
            command.uid(user).gid(group);
        }
        let mut running = Daemon::spawn(&mut command, &log, Signal::KILL, folder.path());
        let is_ready = running.wait_ready(PATIENCE, |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(is_ready, "pgbouncer: {}", fs::read_to_string(log).unwrap());
        Self { port, _running: running, _folder: folder }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}
