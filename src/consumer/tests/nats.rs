//! Consumers of a real JetStream.

use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::Config;
use futures_util::StreamExt;

use super::*;
use crate::backend::nats::tests::create_stream;
use crate::consumer::{ConsumerStatus, DeadLetters, LetterFacts, StreamTail};
use crate::settings::PublisherSettings;
use crate::test_support::nats::{CURRENT, Server as NatsServer};

const SUBJECTS: [&str; 2] = ["events.>", "_outbox.EVENTS.>"];

/// A server with a stream as a worker creates it.
struct JetStream {
    server: NatsServer,
    context: jetstream::Context,
}

impl JetStream {
    async fn new() -> Self {
        Self::with("").await
    }

    /// A server with more in its configuration.
    async fn with(configuration: &'static str) -> Self {
        let start = move || NatsServer::with(CURRENT, configuration);
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let stream = Self { server, context };
        stream.create().await;
        stream
    }

    async fn create(&self) {
        let subjects = SUBJECTS.map(str::to_owned).to_vec();
        let config = Config { name: "EVENTS".to_owned(), subjects, ..Config::default() };
        create_stream(&self.context, config).await;
    }

    fn settings(&self, change: impl FnOnce(&mut ConsumerSettings)) -> Settings {
        let publisher = PublisherSettings {
            backend: "nats".to_owned(),
            url: Some(Secret::from(self.server.url())),
            ..PublisherSettings::default()
        };
        let mut consumer = ConsumerSettings {
            source: Some("default".to_owned()),
            group: Some("mailer".to_owned()),
            reclaim_after: RECLAIM,
            retry_backoff: RetryBackoff {
                base: Duration::from_millis(1),
                max: Duration::from_millis(5),
                ..RetryBackoff::default()
            },
            ..ConsumerSettings::default()
        };
        change(&mut consumer);
        Settings {
            publishers: BTreeMap::from([("default".to_owned(), publisher)]),
            consumers: BTreeMap::from([("mail".to_owned(), consumer)]),
            ..Settings::default()
        }
    }

    fn builder(&self, change: impl FnOnce(&mut ConsumerSettings)) -> ConsumerBuilder {
        OutboxConsumer::builder(self.settings(change), "mail")
    }

    async fn start(&self, handler: Subscribe) -> OutboxConsumer {
        self.builder(|_| {}).subscribe(handler).start().await.unwrap()
    }

    /// Adds events with these numbers and one key.
    async fn add(&self, numbers: impl IntoIterator<Item = i64>, key: &str) {
        for seq in numbers {
            let mut headers = HeaderMap::new();
            headers.insert("Content-Type", "application/cloudevents+json");
            headers.insert("outbox-seq", seq.to_string());
            self.publish("events.t", headers, fixtures::event(seq, key).to_cloud_event_json()).await;
        }
    }

    async fn publish(&self, subject: &str, headers: HeaderMap, payload: String) {
        let sent = self.context.publish_with_headers(subject.to_owned(), headers, payload.into()).await;
        sent.unwrap().await.unwrap();
    }

    async fn group(&self) -> PullConsumer {
        self.context.get_consumer_from_stream("mailer", "EVENTS").await.unwrap()
    }

    /// How many entries are pending or unread.
    async fn left(&self) -> u64 {
        let mut group = self.group().await;
        let info = group.info().await.unwrap();
        info.num_pending + info.num_ack_pending as u64
    }

    async fn is_acknowledged(&self) {
        eventually("everything is acknowledged", PATIENCE, async || self.left().await == 0).await;
    }

    fn letters(&self) -> DeadLetters {
        DeadLetters::of(&self.settings(|_| {}), "mail").unwrap()
    }

    async fn dead_letters(&self) -> Vec<LetterFacts> {
        self.letters().list(None, 100).await.unwrap()
    }

    /// How many records of the group there are, of all kinds.
    async fn records(&self) -> u64 {
        let stream = self.context.get_stream("EVENTS:dead:mailer").await.unwrap();
        stream.get_info().await.unwrap().state.messages
    }

    async fn status(&self) -> ConsumerStatus {
        ConsumerStatus::of(&self.settings(|_| {}), "mail").await.unwrap()
    }

    /// Reads as a process of the group that then dies. The group must exist.
    async fn read_and_die(&self, count: usize) {
        assert_eq!(self.read(count).await, count);
    }

    /// Likewise, as many as there are.
    async fn read(&self, most: usize) -> usize {
        self.group().await.fetch().max_messages(most).messages().await.unwrap().count().await
    }
}

/// Work that takes a permit and keeps it.
fn forgetting(may_end: &Arc<Semaphore>) -> impl Fn(Arc<OutboxEvent>) -> ResponseFuture<Answer> + Send + Sync + 'static {
    let may_end = Arc::clone(may_end);
    move |_| {
        let may_end = Arc::clone(&may_end);
        Box::pin(async move {
            may_end.acquire().await.unwrap().forget();
            Ok(())
        })
    }
}

/// The number of a dead letter's message in the stream of events.
fn number(letter: &LetterFacts) -> u64 {
    letter.entry.rsplit('-').next().unwrap().parse().unwrap()
}

/// Starts a consumer that creates the group of an empty stream.
async fn create_group(stream: &JetStream) {
    let consumer = stream.start(Notes::default().handler(|_| Ok(()))).await;
    eventually("the group exists", PATIENCE, async || stream.status().await.streams[0].has_group).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn every_event_reaches_its_handler_in_the_order_of_its_key_and_is_acknowledged() {
    let stream = JetStream::new().await;
    stream.add(1..=50, "k").await;
    // A journal is no event.
    stream.publish("_outbox.EVENTS.x", HeaderMap::new(), "{}".to_owned()).await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    stream.add(51..=100, "k").await;
    notes.are(&(1..=100).collect::<Vec<_>>()).await;
    stream.is_acknowledged().await;
    assert!(consumer.health().is_ok(), "{:?}", consumer.health());
    consumer.shutdown().await.unwrap();
    assert_eq!((stream.dead_letters().await.len(), stream.records().await), (0, 0));
}

/// What the acknowledging task relies on when it repeats a call.
#[actix::test]
async fn a_server_answers_an_acknowledgement_that_it_has() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add([1], "").await;
    let mut batch = stream.group().await.fetch().max_messages(1).messages().await.unwrap();
    let message = batch.next().await.unwrap().unwrap();
    for _ in 0..2 {
        message.double_ack().await.unwrap();
    }
    message.double_ack_with(jetstream::AckKind::Progress).await.unwrap();
    assert_eq!(stream.left().await, 0);
}

#[actix::test]
async fn a_journal_among_the_subjects_of_events_is_no_event() {
    let stream = JetStream::new().await;
    let config = Config {
        name: "ALL".to_owned(),
        subjects: vec!["all.>".to_owned(), "_outbox.ALL.*".to_owned()],
        ..Config::default()
    };
    create_stream(&stream.context, config).await;
    stream.publish("_outbox.ALL.x", HeaderMap::new(), "{}".to_owned()).await;
    let mut headers = HeaderMap::new();
    headers.insert("outbox-seq", "1");
    stream.publish("all.t", headers, fixtures::event(1, "").to_cloud_event_json()).await;
    let notes = Notes::default();
    let builder = stream.builder(|settings| settings.streams = vec!["ALL".to_owned()]);
    let consumer = builder.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    notes.are(&[1]).await;
    let mut group: PullConsumer = stream.context.get_consumer_from_stream("mailer", "ALL").await.unwrap();
    eventually("both are acknowledged", PATIENCE, async || group.info().await.unwrap().num_ack_pending == 0).await;
    assert!(stream.context.get_stream("ALL:dead:mailer").await.unwrap().cached_info().state.messages == 0);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_in_binary_mode_is_the_same_event() {
    let stream = JetStream::new().await;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "order-7"),
        ("ce-type", "order.placed"),
        ("ce-source", "/shop"),
        ("ce-subject", "a%20b"),
        ("ce-tenant", "acme"),
        ("ce-datacontenttype", "application/json"),
        ("outbox-seq", "7"),
    ] {
        headers.insert(name, value);
    }
    stream.publish("events.order.placed", headers, r#"{"n": 1}"#.to_owned()).await;
    let seen = Arc::new(Mutex::new(String::new()));
    let notes = Notes::default();
    let noted = Arc::clone(&seen);
    let handler = notes.handler(move |event| {
        *noted.lock().unwrap() = event.to_cloud_event_json();
        Ok(())
    });
    let consumer = stream.start(handler).await;
    notes.are(&[7]).await;
    let event: serde_json::Value = serde_json::from_str(&seen.lock().unwrap()).unwrap();
    for (name, value) in [("id", "order-7"), ("type", "order.placed"), ("subject", "a b"), ("tenant", "acme")] {
        assert_eq!(event[name], value);
    }
    assert_eq!(event["data"]["n"], 1);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_rejected_event_is_a_dead_letter_after_exactly_max_deliveries_and_holds_no_other_key() {
    let stream = JetStream::new().await;
    stream.add([1, 2], "poison").await;
    stream.add([3], "other").await;
    stream.publish("events.t", HeaderMap::new(), "no event".to_owned()).await;
    let notes = Notes::default();
    let consumer =
        stream.start(notes.handler(|event| if event.seq == 1 { Err("broken\nbadly")? } else { Ok(()) })).await;
    eventually("all are handled", PATIENCE, async || notes.count(2) == 1 && notes.count(3) == 1).await;
    stream.is_acknowledged().await;
    let order: Vec<i64> = notes.all().into_iter().filter(|seq| *seq != 3).collect();
    assert_eq!(order, [1, 1, 1, 1, 1, 2], "the key waits for its event");
    let mut dead = stream.dead_letters().await;
    dead.sort_by_key(number);
    let told: Vec<_> = dead.iter().map(|letter| (number(letter), letter.deliveries, &*letter.reason)).collect();
    let broken = "handler `noting`: broken\nbadly";
    assert_eq!(told, [(1, 5, broken), (4, 1, "its CloudEvent is not a JSON object")]);
    assert_eq!((dead[0].stream.as_str(), dead[0].event_type.as_str()), ("EVENTS", "t"));
    consumer.shutdown().await.unwrap();
    assert_eq!(stream.records().await, 2, "nothing is left of the tries");
}

#[actix::test]
async fn dead_letters_are_retried_for_their_group_alone_and_deleted() {
    let stream = JetStream::new().await;
    stream.add(1..=4, "k").await;
    let is_fixed = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&is_fixed);
    let notes = Notes::default();
    let handler = notes.handler(move |_| match works.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(HandlerError::permanent("the bank is closed")),
    });
    let consumer = stream.start(handler).await;
    let letters = stream.letters();
    eventually("all are dead", PATIENCE, async || letters.count().await.unwrap() == 4).await;
    stream.is_acknowledged().await;
    let listed = letters.list(None, 3).await.unwrap();
    assert_eq!(listed.len(), 3);
    let rest = letters.list(Some(&listed[2].id), 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    let shown = letters.get(&rest[0].id).await.unwrap().unwrap();
    assert!(shown.cloud_event.unwrap().contains("\"data\":{\"n\": 4}"));

    // One that fails again is a dead letter of the same entry.
    letters.retry(std::slice::from_ref(&listed[0].id)).await.unwrap();
    eventually("it is dead again", PATIENCE, async || letters.count().await.unwrap() == 4).await;
    let again = stream.dead_letters().await.into_iter().find(|letter| letter.entry == listed[0].entry).unwrap();
    assert_eq!((again.stream.as_str(), again.event_id.as_str()), ("EVENTS", listed[0].event_id.as_str()));

    is_fixed.store(true, Ordering::Relaxed);
    let ids: Vec<_> = [&again.id, &listed[1].id].map(|id| id.to_string().parse().unwrap()).to_vec();
    let changed = letters.retry(&ids).await.unwrap();
    assert_eq!((changed.changed, changed.missing.len()), (2, 0));
    notes.are(&[1, 2, 3, 4, 1, 1, 2]).await;
    let changed = letters.retry(&ids[..1]).await.unwrap();
    assert_eq!((changed.changed, changed.missing.as_slice()), (0, &ids[..1]));
    let deleted = letters.delete(&[listed[2].id.clone(), rest[0].id.clone(), ids[0].clone()]).await.unwrap();
    assert_eq!((deleted.changed, deleted.missing.as_slice()), (2, &ids[..1]));
    assert_eq!(letters.count().await.unwrap(), 0);
    eventually("nothing is left of them", PATIENCE, async || stream.records().await == 0).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_handler_that_takes_several_times_reclaim_after_is_run_once() {
    let stream = JetStream::new().await;
    stream.add([1], "").await;
    let (slow, other) = (Notes::default(), Notes::default());
    let first = stream
        .start(slow.worker(|_| {
            Box::pin(async {
                tokio::time::sleep(RECLAIM * 4).await;
                Ok(())
            })
        }))
        .await;
    slow.are(&[1]).await;
    let second = stream.start(other.handler(|_| Ok(()))).await;
    stream.is_acknowledged().await;
    assert_eq!((slow.all(), other.all()), (vec![1], vec![]));
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[actix::test]
async fn the_entries_of_a_consumer_that_died_are_handled_by_another_one_in_order() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add(1..=20, "k").await;
    stream.read_and_die(20).await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    notes.are(&(1..=20).collect::<Vec<_>>()).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_whose_consumers_ended_is_a_dead_letter_after_max_deliveries_and_one_that_only_waited_is_none() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add([1], "").await;
    let three = |settings: &mut ConsumerSettings| {
        (settings.max_deliveries, settings.shutdown_timeout) = (3, Duration::ZERO);
    };
    for _ in 0..3 {
        let notes = Notes::default();
        let handler = notes.worker(|_| Box::pin(std::future::pending()));
        let consumer = stream.builder(three).subscribe(handler).start().await.unwrap();
        notes.are(&[1]).await;
        consumer.shutdown().await.unwrap_err();
    }
    let notes = Notes::default();
    let consumer = stream.builder(three).subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    eventually("it is dead", PATIENCE, async || stream.dead_letters().await.len() == 1).await;
    stream.is_acknowledged().await;
    eventually("nothing is left of it", PATIENCE, async || consumer.health().in_flight == 0).await;
    consumer.shutdown().await.unwrap_err();
    let dead = stream.dead_letters().await.remove(0);
    assert_eq!((dead.deliveries, dead.reason.as_str()), (3, "its consumers ended before they answered"));
    assert_eq!(stream.records().await, 1, "nothing is left of the tries");
    stream.add([2], "").await;
    for _ in 0..4 {
        eventually("it is delivered", PATIENCE, async || stream.read(1).await == 1).await;
    }
    let consumer = stream.builder(three).subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    notes.are(&[2]).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap_err();
}

#[actix::test]
async fn what_was_read_and_not_begun_is_given_back_when_a_consumer_stops() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add(1..=10, "k").await;
    let (first, second) = (Notes::default(), Notes::default());
    let may_end = Arc::new(Semaphore::new(0));
    let long = |settings: &mut ConsumerSettings| {
        (settings.reclaim_after, settings.max_deliveries) = (PATIENCE * 10, 1);
    };
    let consumer = stream.builder(long).subscribe(first.waiter(&may_end, || Ok(()))).start().await.unwrap();
    eventually("all are read", PATIENCE, async || consumer.health().in_flight == 10).await;
    first.are(&[1]).await;
    let running = Arc::clone(&consumer.context);
    let stopping = actix::spawn(async move { consumer.shutdown().await });
    running.stopped().await;
    may_end.add_permits(1);
    stopping.await.unwrap().unwrap();
    let consumer = stream.builder(long).subscribe(second.handler(|_| Ok(()))).start().await.unwrap();
    eventually("the others are handled", PATIENCE, async || stream.left().await == 0).await;
    assert_eq!(second.all(), (2..=10).collect::<Vec<_>>());
    assert_eq!((first.all(), stream.dead_letters().await.len()), (vec![1], 0), "no delivery was counted");
    eventually("nothing is left of the counts", PATIENCE, async || stream.records().await == 0).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_entry_whose_dead_letter_is_stored_is_acknowledged_and_not_delivered() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add([1, 2], "k").await;
    stream.read_and_die(2).await;
    let events = stream.context.get_stream("EVENTS").await.unwrap();
    let at = async |number: u64| events.get_raw_message(number).await.unwrap().time.timestamp_millis();
    // The second letter is of another message with this number, in a stream that was deleted.
    for (millis, number) in [(at(1).await, 1), (at(2).await - 1, 2)] {
        let subject = format!("EVENTS:dead:mailer.dead.{millis}-{number}");
        stream.publish(&subject, HeaderMap::new(), "the letter".to_owned()).await;
    }
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    notes.are(&[2]).await;
    stream.is_acknowledged().await;
    assert_eq!((notes.all(), stream.dead_letters().await.len()), (vec![2], 2));
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_entry_that_was_not_renewed_in_time_is_neither_retried_nor_set_aside() {
    let mut stream = JetStream::new().await;
    stream.add([1], "").await;
    let (first, second) = (Notes::default(), Notes::default());
    let may_end = Arc::new(Semaphore::new(0));
    let handler = first.waiter(&may_end, || Err(HandlerError::permanent("too late")));
    let consumer = stream.start(handler).await;
    first.are(&[1]).await;
    stream.server.signal(crate::test_support::process::Signal::STOP);
    tokio::time::sleep(RECLAIM * 2).await;
    may_end.add_permits(1);
    eventually("it is forgotten", PATIENCE, async || consumer.health().in_flight == 0).await;
    stream.server.signal(crate::test_support::process::Signal::CONT);
    consumer.shutdown().await.unwrap();
    let consumer = stream.start(second.handler(|_| Ok(()))).await;
    second.are(&[1]).await;
    stream.is_acknowledged().await;
    assert_eq!(stream.dead_letters().await.len(), 0);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_server_that_is_killed_and_comes_back_loses_no_event() {
    let mut stream = JetStream::new().await;
    stream.add(1..=300, "k").await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("some are handled", PATIENCE, async || notes.all().len() > 50).await;
    stream.server.kill();
    eventually("that is known", PATIENCE, async || consumer.health().source.is_err()).await;
    stream.server.start_again();
    eventually("all are handled", PATIENCE, async || notes.count(300) > 0).await;
    stream.is_acknowledged().await;
    // Those that were not acknowledged are handled again, and none is left out.
    let mut firsts = Vec::new();
    notes.all().into_iter().for_each(|seq| {
        if !firsts.contains(&seq) {
            firsts.push(seq)
        }
    });
    assert_eq!(firsts, (1..=300).collect::<Vec<_>>());
    eventually("it is well", PATIENCE, async || consumer.health().is_ok()).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_group_or_a_stream_that_is_deleted_is_created_again_and_begins_at_the_first_entry() {
    let stream = JetStream::new().await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let builder = stream.builder(|settings| settings.start = "0".parse().unwrap());
    let consumer = builder.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    notes.are(&[1]).await;
    stream.is_acknowledged().await;
    stream.context.get_stream("EVENTS").await.unwrap().delete_consumer("mailer").await.unwrap();
    stream.add([2], "").await;
    notes.are(&[1, 1, 2]).await;
    stream.is_acknowledged().await;
    stream.context.delete_stream("EVENTS").await.unwrap();
    stream.create().await;
    stream.add([3], "").await;
    notes.are(&[1, 1, 2, 3]).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_answer_for_an_entry_of_a_deleted_stream_is_none_for_the_one_that_has_its_number_now() {
    let stream = JetStream::new().await;
    stream.add([1], "").await;
    let (notes, may_end) = (Notes::default(), Arc::new(Semaphore::new(0)));
    let consumer = stream.start(notes.worker(forgetting(&may_end))).await;
    notes.are(&[1]).await;
    stream.context.delete_stream("EVENTS").await.unwrap();
    stream.create().await;
    stream.add([2], "").await;
    notes.are(&[1, 2]).await;
    may_end.add_permits(1);
    eventually("the first is answered for", PATIENCE, async || consumer.health().in_flight == 1).await;
    assert_eq!(stream.left().await, 1, "the second waits for its handler");
    may_end.add_permits(1);
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_subject_that_the_stream_takes_later_is_read() {
    let stream = JetStream::new().await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("the group exists", PATIENCE, async || stream.status().await.streams[0].has_group).await;
    let mut config = stream.context.get_stream("EVENTS").await.unwrap().cached_info().config.clone();
    config.subjects.push("orders.>".to_owned());
    stream.context.update_stream(config).await.unwrap();
    eventually("the group has the subject", PATIENCE, async || {
        stream.group().await.cached_info().config.filter_subjects.contains(&"orders.>".to_owned())
    })
    .await;
    let mut headers = HeaderMap::new();
    headers.insert("outbox-seq", "7");
    stream.publish("orders.x", headers, fixtures::event(7, "").to_cloud_event_json()).await;
    notes.are(&[7]).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_missing_group_or_stream_and_a_group_of_another_kind_are_named() {
    let stream = JetStream::new().await;
    let problem = async |builder: ConsumerBuilder, text: &str| {
        let consumer = builder.subscribe(Notes::default().handler(|_| Ok(()))).start().await.unwrap();
        eventually(&format!("{text} is known"), PATIENCE, async || {
            consumer.health().source.is_err_and(|problem| problem.contains(text))
        })
        .await;
        consumer.shutdown().await.unwrap();
    };
    let refused = stream.builder(|settings| settings.create_group = false);
    problem(refused, "there is no group mailer of stream EVENTS; set `create_group = true`").await;
    let missing = stream.builder(|settings| settings.streams = vec!["ORDERS".to_owned()]);
    problem(missing, "there is no stream ORDERS").await;
    let of_another_kind = jetstream::consumer::pull::Config {
        durable_name: Some("mailer".to_owned()),
        ack_policy: jetstream::consumer::AckPolicy::All,
        ..jetstream::consumer::pull::Config::default()
    };
    let events = stream.context.get_stream("EVENTS").await.unwrap();
    events.create_consumer(of_another_kind).await.unwrap();
    problem(stream.builder(|_| {}), "nats consumer rm EVENTS mailer").await;
    let bad = stream.builder(|settings| settings.group = Some("a.b".to_owned()));
    let error = bad.start().await.unwrap_err().to_string();
    assert!(error.contains("consumers.mail") && error.contains("\"a.b\""), "{error}");
}

/// The users of a server: one who may do everything, and a consumer with the rights that the chapter lists.
const USERS: &str = r#"
no_auth_user: all
authorization { users = [
  { user: all, password: all }
  { user: mailer, password: mailer, permissions: {
    publish: ["$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.STREAM.CREATE.EVENTS:dead:mailer",
      "$JS.API.CONSUMER.*.EVENTS.mailer", "$JS.API.CONSUMER.*.EVENTS:dead:mailer.mailer",
      "$JS.API.CONSUMER.*.*.EVENTS.mailer", "$JS.API.CONSUMER.*.*.EVENTS:dead:mailer.mailer",
      "$JS.API.CONSUMER.CREATE.>", "$JS.ACK.EVENTS.mailer.>", "$JS.ACK.EVENTS:dead:mailer.mailer.>",
      "EVENTS:dead:mailer.>", "$JS.API.STREAM.PURGE.EVENTS:dead:mailer", "$JS.API.STREAM.MSG.DELETE.EVENTS:dead:mailer"]
    subscribe: ["_INBOX.>"] } }
] }
"#;

#[actix::test]
async fn the_rights_that_the_chapter_lists_are_enough() {
    let stream = JetStream::with(USERS).await;
    stream.add([1, 2], "").await;
    let notes = Notes::default();
    let is_fixed = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&is_fixed);
    let handler = notes.handler(move |event| match event.seq {
        1 if !works.load(Ordering::Relaxed) => Err("no")?,
        _ => Ok(()),
    });
    let mut settings = stream.settings(|settings| settings.max_deliveries = 2);
    let publisher = settings.publishers.get_mut("default").unwrap();
    (publisher.username, publisher.password) = (Some("mailer".to_owned()), Some(Secret::from("mailer".to_owned())));
    let letters = DeadLetters::of(&settings, "mail").unwrap();
    let consumer = OutboxConsumer::builder(settings, "mail").subscribe(handler).start().await.unwrap();
    eventually("it is dead", PATIENCE, async || letters.count().await.is_ok_and(|count| count == 1)).await;
    is_fixed.store(true, Ordering::Relaxed);
    let letter = letters.list(None, 1).await.unwrap().remove(0).id;
    letters.retry(&[letter]).await.unwrap();
    eventually("it is handled", PATIENCE, async || notes.count(1) == 3).await;
    stream.is_acknowledged().await;
    eventually("nothing is left", PATIENCE, async || stream.records().await == 0).await;
    assert!(consumer.health().is_ok(), "{:?}", consumer.health());
    consumer.shutdown().await.unwrap();
    // They are the ones in the chapter.
    let chapter = include_str!("../../../docs/nats.md");
    let rights = USERS.lines().filter(|line| line.contains("$JS")).flat_map(|line| line.split('"').skip(1).step_by(2));
    rights.for_each(|right| assert!(chapter.contains(&format!("\"{right}\"")), "{right}"));
}

#[actix::test]
async fn a_group_whose_settings_differ_is_changed_and_never_gives_entries_away_earlier() {
    let stream = JetStream::new().await;
    let made = jetstream::consumer::pull::Config {
        durable_name: Some("mailer".to_owned()),
        ack_policy: jetstream::consumer::AckPolicy::Explicit,
        ack_wait: Duration::from_millis(300),
        max_deliver: 2,
        max_ack_pending: 1,
        max_batch: 1,
        headers_only: true,
        ..jetstream::consumer::pull::Config::default()
    };
    stream.context.get_stream("EVENTS").await.unwrap().create_consumer(made).await.unwrap();
    create_group(&stream).await;
    let mut group = stream.group().await;
    let config = group.info().await.unwrap().config.clone();
    assert_eq!((config.ack_wait, config.max_deliver, config.max_ack_pending), (RECLAIM, -1, -1));
    assert!(config.max_batch <= 0 && !config.headers_only, "{config:?}");
    let long = stream.builder(|settings| settings.reclaim_after = RECLAIM * 5);
    for (builder, expected) in [(long, RECLAIM * 5), (stream.builder(|_| {}), RECLAIM * 5)] {
        let consumer = builder.subscribe(Notes::default().handler(|_| Ok(()))).start().await.unwrap();
        eventually("it reads", PATIENCE, async || stream.group().await.info().await.unwrap().num_waiting > 0).await;
        assert_eq!(stream.group().await.info().await.unwrap().config.ack_wait, expected);
        consumer.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn the_status_tells_what_is_left() {
    let stream = JetStream::new().await;
    stream.add(1..=3, "").await;
    let before = stream.status().await;
    assert_eq!((before.streams[0].has_group, before.streams[0].unread), (false, Some(3)));
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("all are handled", PATIENCE, async || notes.all().len() == 3).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
    stream.add(4..=8, "").await;
    stream.read_and_die(2).await;
    let status = stream.status().await;
    let of = &status.streams[0];
    assert_eq!((of.stream.as_str(), of.has_group, of.unread, of.pending), ("EVENTS", true, Some(3), 2));
    assert!(of.oldest_pending_seconds.is_some_and(|age| (0.0..60.0).contains(&age)), "{of:?}");
}

#[actix::test]
async fn a_tail_begins_where_it_is_told_and_writes_nothing() {
    let stream = JetStream::new().await;
    stream.add(1..=3, "").await;
    stream.publish("_outbox.EVENTS.x", HeaderMap::new(), "{}".to_owned()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let middle = chrono::Utc::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    stream.add(4..=5, "").await;
    let tail = |start: &str| {
        let start = start.parse().unwrap();
        StreamTail::of(&stream.settings(|settings| settings.start = start), "mail").unwrap()
    };
    let mut again = tail("0");
    assert_eq!(again.next().await.unwrap().len(), 5);
    let mut last = tail("$");
    assert!(last.next().await.unwrap().is_empty());
    for (start, expected) in [("0".to_owned(), vec![1, 2, 3, 4, 5]), (middle.to_rfc3339(), vec![4, 5])] {
        let read = tail(&start).next().await.unwrap();
        assert_eq!(read.iter().map(|event| event.as_ref().unwrap().seq).collect::<Vec<_>>(), expected, "{start}");
    }
    stream.add([6], "").await;
    let read = last.next().await.unwrap();
    assert_eq!(read.iter().map(|event| event.as_ref().unwrap().seq).collect::<Vec<_>>(), [6]);
    let events = stream.context.get_stream("EVENTS").await.unwrap();
    assert_eq!(events.get_info().await.unwrap().state.consumer_count, 0);
    stream.context.delete_stream("EVENTS").await.unwrap();
    stream.create().await;
    stream.add([8], "").await;
    let read = again.next().await.unwrap();
    assert_eq!(read.iter().map(|event| event.as_ref().unwrap().seq).collect::<Vec<_>>(), [8], "it begins again");
}
