//! `outbox events`

use serde_json::{Value, json};

use super::{Shell, column, event_with};

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
fn failed_events_are_retried_by_their_ids_or_all_together() {
    let shell = Shell::migrated();
    let failed = "status = 'failed', retry_count = 3, last_error = 'refused'";
    let (one, two) = (event_with(&shell, failed), event_with(&shell, failed));
    let retried = shell.run(&["events", "retry", &one]);
    assert_eq!((retried.code, retried.stdout.as_str()), (0, "retried 1 event\n"), "{}", retried.stderr);
    assert_eq!((column(&shell, &one, "status"), column(&shell, &one, "retry_count")), (json!("pending"), json!(0)));
    assert_eq!(column(&shell, &two, "status"), "failed");
    assert_eq!(shell.run(&["events", "retry", "--status", "failed", "--type", "other"]).stdout, "retried 0 events\n");
    assert_eq!(shell.run(&["events", "retry", "--status", "failed"]).stdout, "retried 1 event\n");
    assert_eq!((column(&shell, &two, "status"), column(&shell, &two, "last_error")), (json!("pending"), json!("")));
}

#[test]
fn an_action_changes_the_events_that_allow_it_and_names_the_others() {
    let shell = Shell::migrated();
    let failed = event_with(&shell, "status = 'failed'");
    let published = event_with(&shell, "status = 'published', published_at = 0");
    let unknown = "0197a3b2-0000-7000-8000-000000000002";
    let retried = shell.run(&["events", "retry", &failed, &published, unknown]);
    assert_eq!((retried.code, retried.stdout.as_str()), (1, "retried 1 event\n"));
    assert!(
        retried.stderr.contains(&format!("`outbox events replay {published}` publishes it again")),
        "{}",
        retried.stderr
    );
    assert!(retried.stderr.contains(&format!("no event has the id {unknown}")), "{}", retried.stderr);
    shell.refuses(&["events", "replay", &failed], 1, "is pending, not published");
    shell.refuses(&["events", "fail", &published], 1, "is published; it cannot be marked as failed");
}

#[test]
fn an_action_says_as_json_how_many_it_changed_and_which_not_and_why() {
    let shell = Shell::migrated();
    let failed = event_with(&shell, "status = 'failed'");
    let published = event_with(&shell, "status = 'published', published_at = 0");
    let retried = shell.run(&["events", "retry", &failed, &published, "--format", "json"]);
    let said: Value = serde_json::from_str(&retried.stdout).unwrap();
    assert_eq!((retried.code, &said["changed"], said["skipped"].as_array().unwrap().len()), (1, &json!(1), 1));
    assert_eq!(said["skipped"][0]["id"], json!(published));
    let reason = said["skipped"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("`outbox events replay"), "{reason}");
    let none = shell.run(&["events", "retry", "--status", "failed", "--format", "json"]);
    assert_eq!((none.code, serde_json::from_str(&none.stdout).ok()), (0, Some(json!({ "changed": 0, "skipped": [] }))));
}

#[test]
fn events_are_given_up_with_a_reason() {
    let shell = Shell::migrated();
    let (one, two) = (event_with(&shell, "retry_count = 1"), event_with(&shell, "publisher_backend = 'old'"));
    assert_eq!(shell.run(&["events", "fail", &one, "--reason", "not wanted"]).stdout, "marked as failed: 1 event\n");
    assert_eq!(
        (column(&shell, &one, "status"), column(&shell, &one, "last_error")),
        (json!("failed"), json!("not wanted"))
    );
    assert_eq!(shell.run(&["events", "fail", "--backend", "old"]).stdout, "marked as failed: 1 event\n");
    assert_eq!(column(&shell, &two, "last_error"), "marked as failed by `outbox events fail`");
}

#[test]
fn published_events_are_replayed_by_id_or_by_time_of_publication() {
    let shell = Shell::migrated();
    let published =
        |ago: &str| event_with(&shell, &format!("status = 'published', published_at = created_at - {ago} * 60000000"));
    let (one, recent, old) = (published("1"), published("30"), published("90"));
    let before = column(&shell, &one, "seq");
    assert_eq!(shell.run(&["events", "replay", &one]).stdout, "replayed 1 event\n");
    assert_eq!((column(&shell, &one, "status"), column(&shell, &one, "published_at")), (json!("pending"), json!(null)));
    assert!(column(&shell, &one, "seq").as_i64() > before.as_i64());
    assert_eq!(shell.run(&["events", "replay", "--since", "1h"]).stdout, "replayed 1 event\n");
    assert_eq!(column(&shell, &recent, "status"), "pending");
    assert_eq!(column(&shell, &old, "status"), "published");
}

#[test]
fn a_row_that_is_no_event_is_listed_with_the_reason_beside_the_others() {
    let shell = Shell::migrated();
    let (good, bad) = (event_with(&shell, "subject = 'good'"), event_with(&shell, "publisher_config = '[1]'"));
    let events = shell.events(&[]);
    assert_eq!(events.iter().filter(|event| event["subject"] == "good").count(), 1, "{good}");
    let unreadable = events.iter().find(|event| event["id"] == bad.as_str()).unwrap();
    assert!(unreadable["unreadable"].as_str().unwrap().contains("publisher_config"), "{unreadable}");
    let table = shell.run(&["events", "list"]);
    assert!(
        table.stdout.lines().any(|line| line.starts_with(&bad) && line.contains("cannot be read")),
        "{}",
        table.stdout
    );
    shell.refuses(&["events", "show", &bad], 1, "publisher_config");
}

#[test]
fn a_change_says_which_events_it_is_about() {
    let shell = Shell::migrated();
    let id = "0197a3b2-0000-7000-8000-000000000001";
    for change in ["retry", "fail", "replay"] {
        shell.refuses(&["events", change], 2, "say which events");
        shell.refuses(&["events", change, "nope"], 2, "write a UUID such as");
        shell.refuses(&["events", change, id, "--type", "t"], 2, "cannot be used with");
    }
    shell.refuses(&["events", "retry", "--status", "published"], 2, "`outbox events replay` publishes them again");
    shell.refuses(&["events", "fail", "--status", "published"], 2, "published events cannot be marked as failed");
    shell.refuses(&["events", "replay", "--since", "yesterday"], 2, "or how long ago, such as 90m or 2d");
    shell.refuses(&["events", "replay", "--until", "1h"], 2, "--since");
}
