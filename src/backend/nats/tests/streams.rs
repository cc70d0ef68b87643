//! Streams: created, and refused for what they lack.

use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};

use super::*;

#[tokio::test]
async fn a_missing_stream_is_created_only_where_the_settings_allow_it() {
    let server = Server::start();
    let reason = reason_of_no_open(&settings(server.port())).await;
    assert!(
        reason.contains("there is no stream EVENTS; set `create = true`, or run: nats stream add EVENTS"),
        "{reason}"
    );
    assert!(reason.contains("--subjects 'events.>,_outbox.EVENTS.>'"), "{reason}");

    let creating = PublisherSettings { create: true, subject: "app.{type}".to_owned(), ..settings(server.port()) };
    session(&creating).open(&[(shard(3), 1)]).await.unwrap();
    let stream = context(&server.url()).await.get_stream("EVENTS").await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!(config.subjects, ["app.>", "_outbox.EVENTS.>"]);
    assert!(config.allow_atomic_publish && config.allow_rollup);
}

#[tokio::test]
async fn a_stream_that_cannot_keep_the_promise_is_refused_with_what_to_do() {
    let (server, context) = server_with(stream()).await;
    let wrong: [(Config, &str); 5] = [
        (Config { allow_atomic_publish: false, ..stream() }, "run: nats stream edit EVENTS --allow-batch"),
        (Config { allow_rollup: false, ..stream() }, "run: nats stream edit EVENTS --allow-rollup"),
        (Config { no_ack: true, allow_atomic_publish: false, ..stream() }, "run: nats stream edit EVENTS --ack"),
        (
            Config { subjects: vec!["events.>".to_owned()], ..stream() },
            "run: nats stream edit EVENTS --subjects 'events.>,_outbox.EVENTS.>'",
        ),
        (Config { retention: RetentionPolicy::Interest, ..stream() }, "keeps only what a consumer wants"),
    ];
    for (config, wanted) in wrong {
        context.delete_stream("EVENTS").await.unwrap();
        create_stream(&context, config).await;
        let reason = reason_of_no_open(&settings(server.port())).await;
        assert!(reason.contains(wanted), "{wanted}: {reason}");
    }
}

#[tokio::test]
async fn a_full_stream_pauses_the_backend_and_blames_no_event() {
    let (server, context) = server_with(Config { max_messages: 5, discard: DiscardPolicy::New, ..stream() }).await;
    let mut session = session(&settings(server.port()));
    session.open(&[(shard(3), 1)]).await.unwrap();
    let events = events(1..=5);
    // The journal counts twice while it is replaced.
    send_all(&mut session, &events[..3]).await;
    let sent = session.send(&events[3..]).await;
    assert_eq!(sent.answers, vec![SendResult::NotSent; 2]);
    let unavailable = sent.unavailable.unwrap();
    assert!(unavailable.is_its_state && unavailable.reason.contains("maximum messages exceeded"), "{unavailable}");

    context.get_stream("EVENTS").await.unwrap().purge().filter("events.>").await.unwrap();
    session.open(&[(shard(3), 1)]).await.unwrap();
    send_all(&mut session, &events[3..]).await;
    assert_eq!(received(&context).await.len(), 2);
}

#[tokio::test]
async fn a_stream_that_is_made_anew_is_written_to_again() {
    let (server, context) = server_with(stream()).await;
    let mut session = session(&settings(server.port()));
    session.open(&[(shard(3), 1)]).await.unwrap();
    let events = events(1..=2);
    send_all(&mut session, &events[..1]).await;
    context.delete_stream("EVENTS").await.unwrap();
    assert!(session.send(&events[1..]).await.unavailable.is_some());
    assert!(session.health_check().await.unwrap_err().to_string().contains("there is no stream EVENTS"));
    create_stream(&context, stream()).await;
    assert!(session.open(&[(shard(3), 1)]).await.unwrap().sent.is_empty());
    send_all(&mut session, &events[1..]).await;
}
