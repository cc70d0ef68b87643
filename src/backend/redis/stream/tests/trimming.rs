//! `max_len` and `max_age`

use super::*;

/// Longer than any test; the ids of old entries are earlier by more than that.
const AGE: Duration = Duration::from_secs(3_600);

fn trimming(test: &TestStream, stream: &str, max_len: u64) -> RedisStream {
    let settings = PublisherSettings { max_len, max_age: Some(AGE), ..settings(&test.url, stream) };
    RedisStream::new(&settings, test.outbox).unwrap()
}

/// Adds entries of twice the age, in more blocks than one.
async fn add_old(test: &mut TestStream, stream: &str) {
    let [seconds, _]: [u64; 2] = test.command(&["TIME"]).await;
    for n in 0..300 {
        let id = format!("{}-{n}", (seconds - 2 * AGE.as_secs()) * 1_000);
        let _: String = test.command(&["XADD", stream, &id, "n", ""]).await;
    }
}

#[tokio::test]
async fn entries_that_are_too_old_go_with_max_len_and_without() {
    let mut test = TestStream::new().await;
    if !test.knows_min_id().await {
        return;
    }
    for max_len in [0, 10_000] {
        let stream = format!("{}.{max_len}", test.stream);
        add_old(&mut test, &stream).await;
        let mut worker = trimming(&test, &stream, max_len);
        worker.health_check().await.unwrap();
        worker.open(&[(shard(3), 1)]).await.unwrap();
        send_all(&mut worker, &outgoing(3, &events(100, ""))).await;
        let length = redis::length(&mut test.connection, &stream).await;
        assert!((100..200).contains(&length), "{length} at {max_len}");
        send_all(&mut worker, &outgoing(3, &events(900, ""))).await;
        assert!(redis::length(&mut test.connection, &stream).await >= 1_000, "young entries stay");
    }
    // Also by length.
    let (stream, mut worker) = (test.stream.clone(), trimming(&test, &test.stream, 100));
    worker.open(&[(shard(3), 1)]).await.unwrap();
    send_all(&mut worker, &outgoing(3, &events(1_000, ""))).await;
    assert!(redis::length(&mut test.connection, &stream).await < 400);
}

#[tokio::test]
async fn each_stream_of_a_batch_is_trimmed() {
    let mut test = TestStream::new().await;
    if !test.knows_min_id().await {
        return;
    }
    let name = test.stream.clone();
    for key in ["a", "b", "c"] {
        add_old(&mut test, &format!("{name}.{key}")).await;
    }
    let mut worker = trimming(&test, &format!("{name}.{{key}}"), 10_000);
    worker.open(&[(shard(3), 1)]).await.unwrap();
    send_all(&mut worker, &["a", "b"].map(|key| outgoing_event(3, &Arc::new(fixtures::event(1, key))))).await;
    for (key, expected) in [("a", 1..101), ("b", 1..101), ("c", 300..301)] {
        let length = redis::length(&mut test.connection, &format!("{name}.{key}")).await;
        assert!(expected.contains(&length), "{key}: {length}");
    }
}

#[tokio::test]
async fn a_redis_that_cannot_trim_by_age_is_named_when_a_session_opens() {
    let mut test = TestStream::alone().await;
    let expected = if test.knows_min_id().await {
        let () = test.command(&["ACL", "SETUSER", "default", "-xtrim"]).await;
        "XTRIM"
    } else {
        "max_age needs Redis 6.2 or later"
    };
    let mut worker = trimming(&test, "events", 0);
    for error in [worker.open(&[(shard(3), 1)]).await.unwrap_err(), worker.health_check().await.unwrap_err()] {
        assert!(error.is_unavailable() && error.to_string().contains(expected), "{error}");
    }
    assert!(test.meta().await.keys().all(|field| field == "probe"), "no token is there");
    test.open_worker().await;
}
