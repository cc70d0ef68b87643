//! The field `seq` of a stream's entries.

use std::collections::BTreeMap;

use crate::support::process::Running;
use crate::support::{PATIENCE, redis};
use crate::test_outbox::TestOutbox;

/// The `seq` of each event in the table.
async fn stored(test: &TestOutbox) -> BTreeMap<String, String> {
    let rows = test.sql().await.query("SELECT id::text, seq::text FROM outbox_events", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The `event_id` and `seq` of each entry.
async fn sent(test: &TestOutbox) -> Vec<(String, String)> {
    let entries = redis::entries(test.redis_url(), test.stream_name()).await;
    entries.into_iter().map(|entry| (entry["event_id"].clone(), entry["seq"].clone())).collect()
}

#[tokio::test]
async fn a_replay_has_the_same_id_and_a_new_seq() {
    let test = TestOutbox::new().await;
    let settings = test.settings().write();
    test.insert(3, 3).await;
    test.drain(&settings).await;
    let before = stored(&test).await;
    assert_eq!(sent(&test).await.into_iter().collect::<BTreeMap<_, _>>(), before);
    let id = before.keys().next().unwrap();
    test.run(&["events", "replay", id]).await;
    test.drain(&settings).await;
    let sent = sent(&test).await;
    assert_eq!((sent.len(), &sent[3].0, &sent[3].1), (4, id, &stored(&test).await[id]));
    assert_ne!(sent[3].1, before[id]);
}

#[tokio::test]
async fn a_pair_named_seq_of_another_writer_is_ignored_and_said_once() {
    let test = TestOutbox::new().await;
    let insert = r#"INSERT INTO outbox_events (id, event_type, source, data, publisher_config)
        SELECT gen_random_uuid(), 't', 's', 'null', '{"seq": "secret", "tenant": "a"}' FROM generate_series(1, 50)"#;
    test.sql().await.batch_execute(insert).await.unwrap();
    let mut worker = Running::spawn(&mut test.outbox(&test.settings().write(), &["worker", "--until-empty"]));
    assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
    assert_eq!(sent(&test).await.into_iter().collect::<BTreeMap<_, _>>(), stored(&test).await);
    assert!(redis::entries(test.redis_url(), test.stream_name()).await.iter().all(|entry| entry["tenant"] == "a"));
    let said = worker.stderr();
    assert_eq!(said.matches("a pair named `seq`, which is ignored").count(), 1, "{said}");
    assert!(!said.contains("secret"), "{said}");
}
