//! `outbox publish`

use super::Shell;

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
fn a_producers_own_time_is_kept_however_the_event_comes() {
    let shell = Shell::migrated();
    let cloud_event = r#"{"specversion":"1.0","id":"a","type":"t","source":"s","time":"2025-06-01T14:00:00.25+02:00"}"#;
    shell.write("batch.jsonl", cloud_event);
    assert_eq!(shell.run(&["publish", "--batch", "batch.jsonl"]).code, 0);
    assert_eq!(shell.run(&["publish", "t", "--source", "s", "--time", "2025-06-01T12:00:00.25Z"]).code, 0);
    let kept = "2025-06-01T12:00:00.250000Z";
    assert!(shell.events(&[]).iter().all(|event| event["event_time"] == kept && event["created_at"] != kept));
    shell.refuses(&["publish", "t", "--source", "s", "--time", "yesterday"], 2, "write an RFC 3339 time");
    shell.write("batch.jsonl", cloud_event.replace("2025-06-01", "0001-01-01").replace("14:00", "01:00"));
    shell.refuses(&["publish", "--batch", "batch.jsonl"], 1, "line 1: event field `time` is out of range");
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
fn a_taken_id_is_named_with_the_field_that_differs_and_nothing_is_written() {
    let shell = Shell::migrated();
    let line =
        |id: &str, source: &str| format!(r#"{{"specversion":"1.0","id":"{id}","type":"t","source":"{source}"}}"#);
    let (id, new) = ("0197a3b2-0000-7000-8000-000000000001", "0197a3b2-0000-7000-8000-000000000002");
    shell.write("first.jsonl", line(id, "a"));
    assert_eq!(shell.run(&["publish", "--batch", "first.jsonl"]).code, 0);
    shell.write("batch.jsonl", format!("{}\n\n{}\n", line(new, "b"), line(id, "b")));
    shell.refuses(&["publish", "--batch", "batch.jsonl"], 1, "error: line 3: another event with a different `source`");
    shell.write("twice.jsonl", format!("{}\n\n{}\n", line(new, "a"), line(new, "b")));
    shell.refuses(&["publish", "--batch", "twice.jsonl"], 1, "error: line 3: another event with a different `source`");
    shell.refuses(&["publish", "t", "--source", "b", "--id", id], 1, "error: another event with a different `source`");
    assert_eq!(shell.events(&[]).len(), 1);
}

#[test]
fn a_backend_that_nobody_serves_is_said() {
    let shell = Shell::migrated();
    let published = shell.run(&["publish", "t", "--source", "s", "--backend", "unserved"]);
    assert_eq!(published.code, 0, "it is stored all the same: {}", published.stderr);
    assert!(
        published.stderr.contains("no live worker serves") && published.stderr.contains("unserved"),
        "{}",
        published.stderr
    );
    assert_eq!(shell.run(&["publish", "t", "--source", "s"]).stderr, "");
}
