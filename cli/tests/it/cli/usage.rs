//! Arguments, help, and failing output.

use crate::test_outbox::TestOutbox;

use super::{Shell, answer};

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
fn completions_and_manual_pages_need_no_settings() {
    let shell = Shell::new();
    shell.write("outbox.toml", "nonsense = true");
    for name in ["bash", "zsh", "fish"] {
        let script = shell.run(&["completions", name]);
        assert!(script.code == 0 && script.stdout.contains("until-empty"), "{name}: {}", script.stderr);
    }
    let page = shell.run(&["man"]);
    assert!(page.code == 0 && page.stdout.contains(".TH outbox 1"), "{}", page.stdout);
    assert_eq!(shell.run(&["man", "--folder", "."]).code, 0);
    assert!(shell.path().join("outbox-events-retry.1").exists());
    shell.refuses(&["man", "--folder", "nowhere"], 1, "cannot write the pages into nowhere");
}

#[test]
fn a_table_without_its_migration_is_named_by_every_command() {
    let shell = Shell::new();
    shell.write("outbox.toml", "publishers.default.backend = 'local'");
    let id = "0197a3b2-0000-7000-8000-000000000001";
    for command in [
        &["events", "list"][..],
        &["events", "show", id],
        &["events", "explain", id],
        &["events", "retry", id],
        &["events", "fail", "--type", "t"],
        &["events", "replay", "--since", "1h"],
        &["publish", "t", "--source", "s"],
        &["status"],
        &["cleanup"],
        &["worker"],
    ] {
        let answer = shell.run(command);
        assert_eq!(answer.code, 1, "{command:?}");
        assert!(answer.stderr.contains("run `outbox migrate`"), "{command:?}: {}", answer.stderr);
    }
}

#[tokio::test]
async fn a_table_of_another_version_is_named_by_every_command_and_left_alone() {
    let test = TestOutbox::new().await;
    test.insert(1, 1).await;
    let sql = test.sql().await;
    sql.batch_execute("ALTER TABLE outbox_events DROP COLUMN retry_at CASCADE; DELETE FROM outbox_migrations")
        .await
        .unwrap();
    let (settings, id) = (test.settings().write(), "0197a3b2-0000-7000-8000-000000000001");
    for command in [
        &["events", "list"][..],
        &["events", "show", id],
        &["events", "retry", id],
        &["events", "fail", "--status", "pending"],
        &["events", "replay", id],
        &["status"],
        &["health"],
        &["cleanup"],
        &["worker", "--until-empty"],
    ] {
        let answer = answer(test.outbox(&settings, command));
        let told = answer.stderr + &answer.stdout;
        assert_eq!(answer.code, 1, "{command:?}: {told}");
        assert!(told.contains("run `outbox migrate`"), "{command:?}: {told}");
    }
    assert_eq!(test.unpublished().await, 1);
}

#[test]
fn results_that_cannot_be_written_are_a_failure() {
    let shell = Shell::migrated();
    for command in [&["events", "list"][..], &["status"], &["cleanup"], &["man"], &["completions", "bash"], &["--help"]]
    {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = shell.command(command).stdout(full).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {told}");
        assert!(told.contains("No space left"), "{command:?}: {told}");
    }
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
        &["events", "show", "--help"],
        &["events", "explain", "--help"],
        &["events", "retry", "--help"],
        &["events", "fail", "--help"],
        &["events", "replay", "--help"],
        &["status", "--help"],
        &["health", "--help"],
        &["cleanup", "--help"],
        &["completions", "--help"],
        &["man", "--help"],
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
