//! The command line on a SQLite file; no server is needed.

mod bench;
mod events;
mod operations;
mod publish;
mod usage;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use diesel::Connection;
use diesel::connection::SimpleConnection;
use serde_json::Value;
use tempfile::TempDir;

struct Answer {
    code: i32,
    stdout: String,
    stderr: String,
}

struct Shell {
    folder: TempDir,
}

impl Shell {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn migrated() -> Self {
        let shell = Self::new();
        assert_eq!(shell.run(&["migrate"]).code, 0);
        shell
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// The program with a database, without the environment of the tests.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OUTBOX_")) {
            command.env_remove(name);
        }
        command.env_remove("RUST_LOG").env("DATABASE_URL", "sqlite://outbox.db").current_dir(self.path());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        answer(self.command(arguments))
    }

    fn run_with_stdin(&self, arguments: &[&str], input: &str) -> Answer {
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        text(child.wait_with_output().unwrap())
    }

    fn events(&self, arguments: &[&str]) -> Vec<Value> {
        let listed = self.run(&[&["events", "list", "--format", "json"], arguments].concat());
        assert_eq!(listed.code, 0, "{}", listed.stderr);
        serde_json::from_str(&listed.stdout).unwrap()
    }

    #[track_caller]
    fn refuses(&self, arguments: &[&str], code: i32, message: &str) {
        let answer = self.run(arguments);
        assert_eq!((answer.code, answer.stdout.as_str()), (code, ""), "{arguments:?}: {}", answer.stderr);
        assert!(answer.stderr.contains(message), "{arguments:?}: {}", answer.stderr);
        assert!(answer.stderr.starts_with("error: "), "{arguments:?}: {}", answer.stderr);
    }
}

fn answer(mut command: Command) -> Answer {
    text(command.output().unwrap())
}

fn text(output: std::process::Output) -> Answer {
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Publishes an event and changes its row by SQL.
fn event_with(shell: &Shell, set: &str) -> String {
    let id = shell.run(&["publish", "t", "--source", "s", "--key", "k"]).stdout.trim().to_owned();
    let sql = format!("UPDATE outbox_events SET {set} WHERE lower(hex(id)) = '{}'", id.replace('-', ""));
    let mut database = diesel::SqliteConnection::establish(shell.path().join("outbox.db").to_str().unwrap()).unwrap();
    database.batch_execute(&sql).unwrap();
    id
}

fn column(shell: &Shell, id: &str, name: &str) -> Value {
    let shown = shell.run(&["events", "show", id, "--format", "json"]);
    serde_json::from_str::<Value>(&shown.stdout).unwrap()[name].clone()
}
