//! nginx as a proxy for tests.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::PATIENCE;
use super::process::{Daemon, Signal};

/// Debian puts it where not every user's PATH leads.
const PROGRAMS: &[&str] = &["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/local/bin/nginx"];

/// A running nginx; killed when dropped.
pub(crate) struct Nginx {
    _running: Daemon,
    _folder: TempDir,
}

impl Nginx {
    /// Serves on this port what the directives of its `server` say.
    pub(crate) fn start(port: u16, server: &str) -> Self {
        Self::start_with(port, "", server)
    }

    /// With further directives before the `server`, such as an `upstream`.
    pub(crate) fn start_with(port: u16, before: &str, server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String =
            temporary.iter().map(|kind| format!("{kind}_temp_path {};\n", path.join(kind).display())).collect();
        let settings = format!(
            "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n\
             {temporary}{before}server {{\n{server}\n}}\n}}\n",
            path.join("pid").display()
        );
        let file = path.join("nginx.conf");
        std::fs::write(&file, settings).unwrap();
        let log = path.join("log");
        let mut command = Command::new(program());
        command.arg("-p").arg(path).arg("-c").arg(&file).args(["-e", "stderr"]);
        let mut running = Daemon::spawn(&mut command, &log, Signal::KILL, path);
        let is_ready = running.wait_ready(PATIENCE, |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(is_ready, "nginx: {}", std::fs::read_to_string(log).unwrap());
        Self { _running: running, _folder: folder }
    }
}

fn program() -> PathBuf {
    let installed = PROGRAMS.iter().map(Path::new).find(|program| program.exists());
    installed.unwrap_or(Path::new("nginx")).to_owned()
}
