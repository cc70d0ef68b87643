//! The quickstart, run as a program.

#![allow(clippy::unwrap_used, reason = "a test has no better answer to an error than to fail")]

use std::process::Command;

use serde_json::{Value, json};

#[test]
fn the_quickstart_ends_by_itself_and_shows_what_it_promises() {
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart")).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{stderr}");

    let events: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["user.created", "report.due"], "each once, the scheduled one last");
    assert_eq!(events[0]["data"], json!({"name": "Ada"}));
    assert!(!stdout.contains("Ghost") && !stderr.contains("Ghost"), "what was rolled back is never seen");

    let count = |text: &str| stderr.lines().filter(|line| *line == text).count();
    assert_eq!(stderr.lines().filter(|line| line.starts_with("greeter: ")).count(), 2, "{stderr}");
    assert_eq!(count("greeter: the mail server is unavailable, Ada has to wait"), 1, "{stderr}");
    assert_eq!(count("greeter: welcome, Ada"), 1, "{stderr}");
    assert_eq!(count("auditor: user.created happened"), 1, "not run again because of the greeter: {stderr}");
    assert_eq!(count("auditor: report.due happened"), 1, "{stderr}");
}
