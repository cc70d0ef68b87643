//! The examples, run as programs of their own.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::process::Running;

/// The path of an example, which `cargo test` builds with the tests.
pub(crate) fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --workspace --examples` first, as `cargo test --workspace` does",
        path.display()
    );
    Command::new(path)
}

#[tokio::test]
async fn the_own_worker_example_has_all_commands_and_its_handlers_and_backends() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = example("own_worker");
        command.args(arguments).current_dir(folder.path()).env("DATABASE_URL", "sqlite://app.db");
        let mut program = Running::spawn(command.env("OUTBOX__PUBLISHERS__DEFAULT__BACKEND", "stderr"));
        assert_eq!(program.wait_exit(PATIENCE).await.code(), Some(0), "{arguments:?}: {}", program.stderr());
        program
    };
    run(&["migrate"]).await;
    let published = run(&["publish", "user.created", "--source", "tests", "--data", r#"{"name": "Ada"}"#]).await;
    let id = published.stdout().trim().to_owned();
    let worked = run(&["worker", "--until-empty"]).await.stderr();
    assert!(worked.contains("mailer: welcome, Ada"), "{worked}");
    assert!(worked.contains(&format!("backend: {id} user.created")), "{worked}");
    let status: Value = serde_json::from_str(&run(&["status", "--format", "json"]).await.stdout()).unwrap();
    assert_eq!(status["counts"], json!({"published": 1}));
    let health: Value = serde_json::from_str(&run(&["health", "--format", "json"]).await.stdout()).unwrap();
    assert_eq!(health["backends"], json!({"default": "ok"}));
}
