//! What reaches the stream, and what it refuses.

use super::*;
use crate::settings::ContentMode;

#[tokio::test]
async fn a_consumer_that_filters_by_the_type_sees_events_and_no_journal() {
    let (server, context) = server_with(stream()).await;
    let mut session = session(&settings(server.port()));
    session.open(&[(shard(3), 1)]).await.unwrap();
    let event = OutboxEvent { event_type: "order.created".to_owned(), ..fixtures::event(7, "k") };
    send_all(&mut session, &[outgoing(event.clone())]).await;
    let messages = messages(&context).await;
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(message.subject.as_str(), "events.order.created");
    let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!(header("Content-Type").as_deref(), Some("application/cloudevents+json"));
    assert_eq!(header("outbox-seq").as_deref(), Some("7"));
    assert_eq!(header("Nats-Msg-Id"), Some(format!("{}-7", event.id)));
}

#[tokio::test]
async fn a_subject_that_the_stream_does_not_take_is_named_and_holds_nobody_else() {
    let (server, context) = server_with(stream()).await;
    let settings = PublisherSettings { subject: "{source}.{type}".to_owned(), ..settings(server.port()) };
    let mut session = session(&settings);
    session.open(&[(shard(3), 1)]).await.unwrap();
    let of = |source: &str, seq| outgoing(OutboxEvent { source: source.to_owned(), ..fixtures::event(seq, "") });
    let sent = session.send(&[of("events", 1), of("elsewhere", 2), of("events", 3)]).await;
    assert_eq!(sent.answers[0], SendResult::Accepted);
    assert_eq!(
        sent.answers[1],
        SendResult::Invalid("the stream EVENTS does not take the subject \"elsewhere.t\"".to_owned())
    );
    assert_eq!(sent.answers[2], SendResult::Accepted);
    assert_eq!(received(&context).await.len(), 2);
}

#[tokio::test]
async fn an_event_whose_journal_is_lost_is_not_stored_again_within_the_duplicate_window() {
    let (server, context) = server_with(Config { duplicate_window: Duration::from_secs(60), ..stream() }).await;
    let mut session = session(&settings(server.port()));
    session.open(&[(shard(3), 1)]).await.unwrap();
    let events = events(1..=4);
    send_all(&mut session, &events[1..3]).await;
    context.get_stream("EVENTS").await.unwrap().purge().filter(subject::of_journals("EVENTS")).await.unwrap();
    assert_eq!(session.send(&events).await.closed, [shard(3)], "its token is gone");
    assert!(session.open(&[(shard(3), 1)]).await.unwrap().sent.is_empty(), "so is what it had sent");
    send_all(&mut session, &events).await;
    let received = received(&context).await;
    let order: Vec<Uuid> = [1, 2, 0, 3].map(|index| events[index].event.id).to_vec();
    assert_eq!(received, order);
    let mut named: Vec<(Uuid, i64)> =
        session.open(&[(shard(3), 2)]).await.unwrap().sent.iter().map(|(_, id, seq)| (*id, *seq)).collect();
    named.sort_by_key(|(_, seq)| *seq);
    assert_eq!(named, names(&events), "the journal names also what was stored before");
    // A replay is another delivery of the same event.
    let again = OutboxEvent { seq: 9, ..(*events[0].event).clone() };
    send_all(&mut session, &[outgoing(again)]).await;
    assert_eq!(messages(&context).await.len(), 5);
}

#[tokio::test]
async fn the_stream_keeps_one_journal_of_each_shard() {
    let (server, context) = server_with(stream()).await;
    let mut session = session(&settings(server.port()));
    session.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
    for round in 0..50 {
        let batch = events(round * 2 + 1..=round * 2 + 2);
        send_all(&mut session, &batch).await;
        session.settled(&names(&batch));
    }
    let stream = context.get_stream("EVENTS").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 102, "a hundred events and two journals");
}

#[tokio::test]
async fn binary_mode_has_the_data_as_the_payload() {
    let (server, context) = server_with(stream()).await;
    let mut session = session(&PublisherSettings { mode: ContentMode::Binary, ..settings(server.port()) });
    session.open(&[(shard(3), 1)]).await.unwrap();
    let events = events(1..=1);
    send_all(&mut session, &events).await;
    let message = messages(&context).await.remove(0);
    assert_eq!(message.payload, r#"{"n": 1}"#);
    assert_eq!(message.headers.get("ce-id").unwrap().as_str(), events[0].event.id.to_string());
}
