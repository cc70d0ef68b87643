//! `outbox migrate`, `status`, `health`, `cleanup`

use serde_json::{Value, json};

use super::{Shell, event_with};

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
fn the_status_counts_events_and_names_backends_without_a_worker() {
    let shell = Shell::migrated();
    let empty: Value = serde_json::from_str(&shell.run(&["status", "--format", "json"]).stdout).unwrap();
    assert_eq!(empty, json!({"counts": {}, "backends": [], "workers": [], "handlers": []}));
    event_with(&shell, "publisher_backend = ''");
    event_with(&shell, "status = 'published'");
    shell.write("outbox.toml", "publishers.orders.backend = 'local'");
    let status = shell.run(&["status", "--format", "json"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["counts"], json!({"pending": 1, "published": 1}));
    let backend = &status["backends"][0];
    assert_eq!((&backend["name"], &backend["due"]), (&json!("orders"), &json!(1)));
    assert_eq!(backend["health"], "no live worker serves it");
    assert!(backend["oldest_due_seconds"].as_f64().unwrap() < 60.0, "{backend}");
    let table = shell.run(&["status"]);
    assert!(table.stdout.contains("orders") && table.stdout.contains("OLDEST DUE"), "{}", table.stdout);
}

#[test]
fn health_names_what_cannot_be_reached() {
    let shell = Shell::new();
    shell.write("outbox.toml", "publishers.default.backend = 'local'");
    let ill = shell.run(&["health", "--format", "json"]);
    let health: Value = serde_json::from_str(&ill.stdout).unwrap();
    assert_eq!(ill.code, 1);
    assert!(health["database"].as_str().unwrap().contains("run `outbox migrate`"), "{health}");
    assert_eq!(shell.run(&["migrate"]).code, 0);
    let well = shell.run(&["health", "--format", "json"]);
    assert_eq!((well.code, well.stderr.as_str()), (0, ""));
    let health: Value = serde_json::from_str(&well.stdout).unwrap();
    assert_eq!(health, json!({"database": "ok", "backends": {"default": "ok"}}));
    shell.write("outbox.toml", "publishers.default = { backend = 'redis_stream', url = 'redis://127.0.0.1:1' }");
    let ill = shell.run(&["health"]);
    assert!(ill.code == 1 && ill.stderr.contains("error: unhealthy: backend default"), "{}", ill.stderr);
    assert!(ill.stdout.lines().any(|line| line.starts_with("database") && line.ends_with("ok")), "{}", ill.stdout);
}

#[test]
fn cleanup_deletes_what_retention_does_not_keep() {
    let shell = Shell::migrated();
    let aged = |status: &str, days: i64| {
        let then = format!("created_at - {days} * 86400000000");
        event_with(
            &shell,
            &format!("status = '{status}', updated_at = {then}, published_at = {then}, created_at = {then}"),
        )
    };
    for (status, days) in [("published", 8), ("published", 6), ("failed", 31), ("failed", 29), ("pending", 99)] {
        aged(status, days);
    }
    let cleaned = shell.run(&["cleanup"]);
    assert_eq!((cleaned.code, cleaned.stdout.as_str()), (0, "deleted 2 events\n"), "{}", cleaned.stderr);
    assert_eq!(shell.run(&["cleanup"]).stdout, "deleted 0 events\n");
    aged("failed", 31);
    aged("published", 8);
    shell.write(
        "outbox.toml",
        "retention.cleanup_published = false\npublishers.default = { backend = 'local', on_failed = 'hold' }",
    );
    assert_eq!(shell.run(&["cleanup"]).stdout, "deleted 0 events\n", "one is kept, the other holds its key");
    assert_eq!(shell.events(&[]).len(), 5);
}
