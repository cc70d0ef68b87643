//! The command line on a SQLite file: no server is needed.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
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

    /// The program with nothing from the environment of the tests but a database.
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

#[test]
fn bad_usage_is_refused_with_code_2() {
    let shell = Shell::new();
    let new = ["publish", "t", "--source", "s"];
    shell.refuses(&["frobnicate"], 2, "unrecognized subcommand");
    shell.refuses(&["publish", "t"], 2, "--source");
    shell.refuses(&["publish"], 2, "<TYPE>");
    shell.refuses(&["publish", "--batch", "x", "t"], 2, "cannot be used with");
    shell.refuses(&[&new[..], &["--id", "nope"]].concat(), 2, "write a UUID such as");
    shell.refuses(&[&new[..], &["--at", "tomorrow"]].concat(), 2, "write an RFC 3339 time such as");
    shell.refuses(&[&new[..], &["--in", "soon"]].concat(), 2, "write a time such as");
    shell.refuses(&[&new[..], &["--in", "5s", "--at", "2030-01-01T00:00:00Z"]].concat(), 2, "cannot be used with");
    shell.refuses(&[&new[..], &["--extension", "x"]].concat(), 2, "write it as NAME=VALUE");
    shell.refuses(&["events", "list", "--status", "lost"], 2, "write pending, processing, retry, published or failed");
    shell.refuses(&["events", "list", "--limit", "0"], 2, "0 is not in 1..");
    shell.refuses(&["events", "show", "nope"], 2, "write a UUID such as");
    shell.refuses(&["worker", "--batch-size", "0"], 2, "0 is not in 1..");
    shell.refuses(&["worker", "--poll-interval", "0"], 2, "must be at least 1ms");
    shell.refuses(&["worker", "--backends", "a"], 2, "no publisher is named `a`; there is none");
    shell.refuses(&["worker"], 2, "setting `publishers.default` is missing");
    assert!(!shell.path().join("outbox.db").exists(), "nothing is left behind");
}

#[test]
fn bad_settings_are_refused_with_their_name_and_place() {
    let shell = Shell::new();
    shell.write("outbox.toml", "[worker]\nbatchsize = 5");
    let message = "unknown setting `worker.batchsize` in outbox.toml: did you mean `worker.batch_size`?";
    shell.refuses(&["migrate"], 2, message);
    shell.write("other.toml", "[worker]\nbatch_size = 'many'");
    let message = "setting `worker.batch_size` in other.toml: must be a whole number, at least 1, not \"many\"";
    shell.refuses(&["migrate", "--config", "other.toml"], 2, message);
    shell.refuses(&["migrate", "--config", "nowhere.toml"], 2, "cannot read the settings file nowhere.toml");
    shell.write("two.toml", "publishers.a.backend = 'local'\npublishers.b.backend = 'local'");
    let message = "setting `publishers.default` is missing: there are `a`, `b`";
    shell.refuses(&["worker", "--config", "two.toml"], 2, message);

    shell.write("good.toml", "");
    let mut command = shell.command(&["events", "list", "--config", "good.toml"]);
    command.env("OUTBOX__WORKER__LEASE", "10ms");
    let refused = answer(command);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("setting `worker.lease` in OUTBOX__WORKER__LEASE: must be at least 1s"));
    let mut command = shell.command(&["events", "list", "--config", "good.toml"]);
    command.env_remove("DATABASE_URL");
    let refused = answer(command);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.starts_with("error: setting `database.url` is missing: give --database-url"));
}

#[test]
fn a_table_that_is_not_migrated_names_the_command_to_run() {
    let shell = Shell::new();
    shell.refuses(&["events", "list"], 1, "run `outbox migrate`");
    shell.refuses(&["publish", "t", "--source", "s"], 1, "run `outbox migrate`");
}

#[test]
fn migrating_says_what_it_did_and_does_it_once() {
    let shell = Shell::new();
    let dry = shell.run(&["migrate", "--dry-run"]);
    assert_eq!(dry.code, 0);
    assert!(dry.stdout.contains("CREATE TABLE outbox_events"), "{}", dry.stdout);
    shell.refuses(&["events", "list"], 1, "run `outbox migrate`");
    let first = shell.run(&["migrate"]);
    assert_eq!((first.code, first.stdout.as_str()), (0, "created the outbox tables in sqlite://outbox.db\n"));
    let second = shell.run(&["migrate"]);
    assert!(second.code == 0 && second.stdout.starts_with("already up to date"), "{}", second.stdout);
    assert_eq!(shell.run(&["migrate", "--dry-run"]).stdout, "");
}

#[test]
fn a_published_event_is_listed_with_all_that_was_given() {
    let shell = Shell::migrated();
    let id = "0197a3b2-0000-7000-8000-000000000001";
    let given = "publish user.created --source user-service --subject s --key k --backend b --extension traceparent=x \
                 --config-field n=5 --config-field t=x --at 2030-01-31T06:00:00+01:00 --max-retries 7 --id";
    let arguments = [&given.split_whitespace().collect::<Vec<_>>()[..], &[id, "--data", r#"{"b": 1}"#]].concat();
    for _ in 0..2 {
        let published = shell.run(&arguments);
        assert_eq!(
            (published.code, published.stdout.as_str()),
            (0, format!("{id}\n").as_str()),
            "{}",
            published.stderr
        );
    }
    let events = shell.events(&["--key", "k", "--type", "user.created", "--backend", "b", "--status", "pending"]);
    assert_eq!(events.len(), 1);
    let expected = json!({
        "id": id, "event_type": "user.created", "source": "user-service", "subject": "s", "partition_key": "k",
        "publisher_backend": "b", "extensions": {"traceparent": "x"}, "publisher_config": {"n": 5, "t": "x"},
        "scheduled_at": "2030-01-31T05:00:00.000000Z", "max_retries": 7, "retry_count": 0, "data": {"b": 1},
        "data_binary": null, "published_at": null, "status": "pending",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&events[0][name], value, "{name}");
    }
    let shown = shell.run(&["events", "show", id, "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&shown.stdout).unwrap(), events[0]);
    assert!(shell.run(&["events", "show", id]).stdout.lines().any(|line| line == "partition_key      k"));
    assert!(shell.run(&["events", "list"]).stdout.contains(id));
    assert!(shell.events(&["--key", "other"]).is_empty());
    shell.refuses(&["events", "show", "0197a3b2-0000-7000-8000-000000000002"], 1, "no event has the id 0197a3b2-");
}

#[test]
fn data_comes_from_the_argument_a_file_or_stdin() {
    let shell = Shell::migrated();
    let publish = ["publish", "t", "--source", "s", "--data"];
    shell.write("data.json", "[1]\n");
    assert_eq!(shell.run(&[&publish[..], &["-1.5"]].concat()).code, 0);
    assert_eq!(shell.run(&[&publish[..], &["@data.json"]].concat()).code, 0);
    assert_eq!(shell.run_with_stdin(&[&publish[..], &["-"]].concat(), "{\"in\": 1}").code, 0);
    let mut data: Vec<_> = shell.events(&[]).iter().map(|event| event["data"].to_string()).collect();
    data.sort();
    assert_eq!(data, ["-1.5", "[1]", "{\"in\":1}"]);
}

#[test]
fn what_cannot_be_published_is_refused_and_leaves_nothing_behind() {
    let shell = Shell::migrated();
    let long = "x".repeat(256);
    let publish = ["publish", "t", "--source", "s"];
    let message = "--data: the argument is not valid JSON";
    shell.refuses(&[&publish[..], &["--data", "{oops"]].concat(), 2, message);
    shell.refuses(&[&publish[..], &["--data", ""]].concat(), 2, message);
    shell.refuses(&[&publish[..], &["--data", "@nowhere"]].concat(), 1, "cannot read the data from nowhere");
    shell.refuses(&["publish", &long, "--source", "s"], 2, "event field `event_type`");
    shell.refuses(&[&publish[..], &["--extension", "Bad-Name=x"]].concat(), 2, "event field");
    shell.write("outbox.toml", "worker.max_event_bytes = 50");
    let large = format!("\"{}\"", "x".repeat(50));
    shell.refuses(&[&publish[..], &["--data", &large]].concat(), 2, "the limit is 50");
    assert!(shell.events(&[]).is_empty());
}

#[test]
fn a_batch_is_written_whole_and_prints_its_ids() {
    let shell = Shell::migrated();
    let line = |id: &str| format!(r#"{{"specversion":"1.0","id":"{id}","type":"t","source":"s","partitionkey":"k"}}"#);
    let ids = ["0197a3b2-0000-7000-8000-000000000001", "0197a3b2-0000-7000-8000-000000000002"];
    shell.write("batch.jsonl", format!("{}\n\n{}", line(ids[0]), line(ids[1])));
    let published = shell.run(&["publish", "--batch", "batch.jsonl"]);
    assert_eq!((published.code, published.stdout), (0, format!("{}\n{}\n", ids[0], ids[1])));
    assert_eq!(published.stderr, "", "no progress bar where stderr is no terminal");
    let again = shell.run_with_stdin(&["publish", "--batch", "-"], &line(ids[1]));
    assert_eq!((again.code, again.stdout), (0, format!("{}\n", ids[1])));
    assert_eq!(shell.events(&[]).len(), 2);
}

#[test]
fn what_is_wrong_in_a_batch_is_named_by_its_line_and_nothing_is_written() {
    let shell = Shell::migrated();
    let good = r#"{"specversion":"1.0","id":"a","type":"t","source":"s"}"#;
    let long = good.replace("\"t\"", &format!("{:?}", "x".repeat(256)));
    for bad in ["{oops", "[]", "{}", "\"text\"", &good.replace("1.0", "0.3"), &long] {
        shell.write("batch.jsonl", format!("{good}\n\n{bad}\n{good}\n"));
        shell.refuses(&["publish", "--batch", "batch.jsonl"], 1, "error: line 3: ");
    }
    shell.write("batch.jsonl", [good.as_bytes(), b"\n\xff\xfe\n"].concat());
    shell.refuses(&["publish", "--batch", "batch.jsonl"], 1, "error: line 2: is not UTF-8");
    shell.refuses(&["publish", "--batch", "nowhere.jsonl"], 1, "cannot read nowhere.jsonl");
    assert!(shell.events(&[]).is_empty());
}

#[test]
fn every_command_explains_itself() {
    let shell = Shell::new();
    for command in [
        &["--help"][..],
        &["migrate", "--help"],
        &["worker", "--help"],
        &["publish", "--help"],
        &["events", "list", "--help"],
    ] {
        let help = shell.run(command);
        assert_eq!(help.code, 0);
        assert!(help.stdout.contains("Examples:") && help.stdout.contains("--database-url"), "{}", help.stdout);
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let shell = Shell::migrated();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = shell.command(&["events", "list"]);
    let output = command.stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}
