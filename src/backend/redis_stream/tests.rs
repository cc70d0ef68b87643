use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use uuid::Uuid;

use super::batch::Batch;
use super::{PUBLISH, RedisStream, meta_key};
use crate::backend::channel::{Answer, Channel, Opened, Parcel, Sent};
use crate::event::{JsonText, OutboxEvent};
use crate::sample;
use crate::settings::{PublisherSettings, Secret};
use crate::store::Shard;
use crate::test_support::process::Signal;
use crate::test_support::proxy::{Passage, Proxy};
use crate::test_support::redis::{self, Server};
use crate::test_support::{PATIENCE, eventually};

fn settings(url: &str, stream: &str) -> PublisherSettings {
    PublisherSettings {
        url: Some(Secret::from(url.to_owned())),
        stream_name: stream.to_owned(),
        socket_timeout: PATIENCE,
        ..PublisherSettings::default()
    }
}

fn shard(number: i16) -> Shard {
    Shard { lane: Arc::from("orders"), number }
}

fn parcel(number: i16, event: &Arc<OutboxEvent>) -> Parcel {
    Parcel { shard: shard(number), event: Arc::clone(event) }
}

fn events(count: i64, key: &str) -> Vec<Arc<OutboxEvent>> {
    (1..=count).map(|seq| Arc::new(sample::event(seq, key))).collect()
}

fn parcels(number: i16, events: &[Arc<OutboxEvent>]) -> Vec<Parcel> {
    events.iter().map(|event| parcel(number, event)).collect()
}

fn ids(events: &[Arc<OutboxEvent>]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

fn named(events: &[Arc<OutboxEvent>]) -> Vec<(Uuid, i64)> {
    events.iter().map(|event| (event.id, event.seq)).collect()
}

/// What an open found, in the events' own order.
fn found(opened: &Opened) -> Vec<(Uuid, i64)> {
    let mut found: Vec<(Uuid, i64)> = opened.sent.iter().map(|(_, id, seq)| (*id, *seq)).collect();
    found.sort_by_key(|(_, seq)| *seq);
    found
}

fn all_accepted(sent: &Sent) -> bool {
    sent.unavailable.is_none()
        && sent.closed.is_empty()
        && sent.answers.iter().all(|answer| *answer == Answer::Accepted)
}

/// One stream on one server, for one outbox.
struct Scene {
    url: String,
    stream: String,
    outbox: Uuid,
    connection: MultiplexedConnection,
}

impl Scene {
    async fn new() -> Self {
        Self::on(&redis::url(), &redis::stream()).await
    }

    async fn on(url: &str, stream: &str) -> Self {
        let connection = redis::connect(url).await;
        Self { url: url.to_owned(), stream: stream.to_owned(), outbox: Uuid::now_v7(), connection }
    }

    fn worker(&self) -> RedisStream {
        self.worker_of(self.outbox)
    }

    fn worker_of(&self, outbox: Uuid) -> RedisStream {
        RedisStream::new(&settings(&self.url, &self.stream), outbox).unwrap()
    }

    fn worker_through(&self, proxy: &Proxy, timeout: Duration) -> RedisStream {
        let url = format!("redis://127.0.0.1:{}/0", proxy.port());
        let settings = PublisherSettings { socket_timeout: timeout, ..settings(&url, &self.stream) };
        RedisStream::new(&settings, self.outbox).unwrap()
    }

    /// A proxy to the server.
    async fn proxy(&self) -> Proxy {
        Proxy::to(url::Url::parse(&self.url).unwrap().port().unwrap_or(6379)).await
    }

    async fn sent_ids(&self) -> Vec<String> {
        redis::event_ids(&self.url, &self.stream).await
    }

    async fn command<T: ::redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = ::redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection).await.unwrap()
    }

    async fn meta(&mut self) -> BTreeMap<String, Vec<u8>> {
        let mut command = ::redis::cmd("HGETALL");
        command.arg(meta_key(&self.stream));
        command.query_async(&mut self.connection).await.unwrap()
    }

    async fn journal(&mut self) -> Vec<Vec<u8>> {
        self.meta().await.into_iter().filter(|(name, _)| name.starts_with("sent/")).map(|(_, value)| value).collect()
    }

    /// Leaves room for so many more entries in the stream, whatever else there is.
    async fn leave_room_for(&mut self, entries: u64) {
        let (stream, last) = (self.stream.clone(), format!("{}-{}", u64::MAX, u64::MAX - entries));
        let () = self.command(&["XGROUP", "CREATE", &stream, "group", "$", "MKSTREAM"]).await;
        let () = self.command(&["XSETID", &stream, &last]).await;
    }
}

#[test]
fn the_meta_key_shares_the_streams_cluster_slot() {
    assert_eq!(meta_key("events"), "{events}:outbox");
    assert_eq!(meta_key("a{tag}b"), "a{tag}b:outbox");
}

#[test]
fn a_name_of_which_no_tag_can_be_made_has_a_meta_key_of_its_own_all_the_same() {
    assert_eq!(meta_key("empty{}tag"), "{empty{}tag}:outbox");
}

// Sessions.

#[tokio::test]
async fn an_earlier_session_can_send_nothing_more() {
    let scene = Scene::new().await;
    let (mut old, mut new) = (scene.worker(), scene.worker());
    let events = events(2, "");
    old.open(&[(shard(3), 1)]).await.unwrap();
    assert!(all_accepted(&old.send(&parcels(3, &events[..1])).await));
    let opened = new.open(&[(shard(3), 2)]).await.unwrap();
    assert_eq!(found(&opened), named(&events[..1]));

    let late = old.send(&parcels(3, &events[1..])).await;
    assert_eq!((late.answers, late.closed), (vec![Answer::NotSent], vec![shard(3)]));
    assert!(late.unavailable.is_none(), "Redis is there, the shard is another's");
    assert_eq!(scene.sent_ids().await, ids(&events[..1]));
    assert!(all_accepted(&new.send(&parcels(3, &events[1..])).await));
}

#[tokio::test]
async fn a_command_that_arrives_after_a_newer_session_opened_is_refused() {
    let mut scene = Scene::new().await;
    let proxy = scene.proxy().await;
    let (mut old, mut new) = (scene.worker_through(&proxy, Duration::from_millis(300)), scene.worker());
    let events = events(3, "k");
    old.open(&[(shard(3), 1)]).await.unwrap();
    assert!(all_accepted(&old.send(&parcels(3, &events[..1])).await));

    proxy.set(Passage::HoldRequests);
    let given_up = old.send(&parcels(3, &events[1..])).await;
    assert_eq!(given_up.answers, [Answer::NotSent, Answer::NotSent]);
    assert!(given_up.unavailable.is_some());
    assert_eq!(proxy.held(), 1);

    assert_eq!(found(&new.open(&[(shard(3), 2)]).await.unwrap()), named(&events[..1]));
    assert!(all_accepted(&new.send(&parcels(3, &events[1..])).await));
    let before = proxy.replies();
    proxy.set(Passage::Open);
    eventually("the late command is answered", PATIENCE, async || proxy.replies() > before).await;
    assert_eq!(scene.sent_ids().await, ids(&events));
    assert_eq!(scene.journal().await.len(), 2);
}

#[tokio::test]
async fn a_command_that_was_late_within_one_process_is_refused_after_the_reopening() {
    let scene = Scene::new().await;
    let proxy = scene.proxy().await;
    let mut worker = scene.worker_through(&proxy, Duration::from_millis(300));
    let events = events(2, "k");
    worker.open(&[(shard(3), 1)]).await.unwrap();
    assert!(all_accepted(&worker.send(&parcels(3, &events[..1])).await));
    proxy.set(Passage::HoldRequests);
    assert!(worker.send(&parcels(3, &events[1..])).await.unavailable.is_some());

    let mut reconnected = scene.worker();
    reconnected.open(&[(shard(3), 1)]).await.unwrap();
    assert!(all_accepted(&reconnected.send(&parcels(3, &events[1..])).await));
    let before = proxy.replies();
    proxy.set(Passage::Open);
    eventually("the late command is answered", PATIENCE, async || proxy.replies() > before).await;
    assert_eq!(scene.sent_ids().await, ids(&events));
}

#[tokio::test]
async fn what_was_sent_when_the_reply_was_lost_is_named_by_the_next_open() {
    for loss in [Passage::CutAtReply, Passage::LoseReplies] {
        let mut scene = Scene::new().await;
        let proxy = scene.proxy().await;
        let mut worker = scene.worker_through(&proxy, Duration::from_millis(500));
        let events = events(4, "k");
        worker.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
        assert!(all_accepted(&worker.send(&parcels(3, &events[..1])).await));

        proxy.set(loss);
        let batch = [parcel(3, &events[1]), parcel(4, &events[2]), parcel(3, &events[3])];
        let sent = worker.send(&batch).await;
        assert_eq!(sent.answers, vec![Answer::NotSent; 3], "{loss:?}: their fate is not known");
        assert_eq!(sent.closed, [shard(3), shard(4)]);
        assert!(sent.unavailable.is_some());

        proxy.set(Passage::Open);
        let again = worker.send(&batch).await;
        assert_eq!((again.answers, again.closed), (vec![Answer::NotSent; 3], vec![shard(3), shard(4)]));
        let opened = worker.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
        assert!(opened.refused.is_empty());
        assert_eq!(found(&opened), named(&events));
        assert_eq!(scene.sent_ids().await, ids(&events));

        worker.settled(&named(&events));
        worker.flush().await.unwrap();
        assert!(scene.journal().await.is_empty());
    }
}

#[tokio::test]
async fn an_open_whose_reply_was_lost_is_followed_by_another() {
    let scene = Scene::new().await;
    let proxy = scene.proxy().await;
    let mut worker = scene.worker_through(&proxy, PATIENCE);
    worker.health_check().await.unwrap();
    proxy.set(Passage::CutAtReply);
    assert!(worker.open(&[(shard(3), 1)]).await.is_err());
    let events = events(1, "");
    assert_eq!(worker.send(&parcels(3, &events)).await.closed, [shard(3)], "nothing is open yet");
    proxy.set(Passage::Open);
    assert!(worker.open(&[(shard(3), 1)]).await.unwrap().refused.is_empty());
    assert!(all_accepted(&worker.send(&parcels(3, &events)).await));
}

#[tokio::test]
async fn an_open_by_an_older_token_is_refused_with_the_epoch_that_stands() {
    let scene = Scene::new().await;
    let (mut old, mut new) = (scene.worker(), scene.worker());
    let events = events(1, "");
    new.open(&[(shard(3), 7), (shard(4), 1)]).await.unwrap();
    assert!(all_accepted(&new.send(&parcels(3, &events)).await));
    let opened = old.open(&[(shard(3), 6), (shard(5), 6)]).await.unwrap();
    assert_eq!(opened.refused, [(shard(3), 7)]);
    assert!(opened.sent.is_empty(), "the journal of a refused shard is another's");
    assert_eq!(old.send(&parcels(3, &events)).await.closed, [shard(3)]);
    assert!(all_accepted(&old.send(&parcels(5, &events)).await), "the other shard of that open is open");
}

#[tokio::test]
async fn an_equal_token_is_refused() {
    let mut scene = Scene::new().await;
    scene.worker().open(&[(shard(3), 7)]).await.unwrap();
    let (meta, outbox) = (meta_key(&scene.stream), scene.outbox.to_string());
    let standing = String::from_utf8(scene.meta().await.into_values().next().unwrap()).unwrap();
    let counter = standing.split_once(':').unwrap().1.to_owned();
    let script = include_str!("open.lua");
    let open: Vec<&str> = vec!["EVAL", script, "1", &meta, &outbox, "orders/3", "7", &counter];
    let [refused, journal]: [Vec<String>; 2] = scene.command(&open).await;
    assert_eq!(refused, ["orders/3", "7"]);
    assert!(journal.is_empty());
}

#[tokio::test]
async fn epochs_are_compared_as_numbers() {
    let scene = Scene::new().await;
    let mut worker = scene.worker();
    assert!(worker.open(&[(shard(3), 9)]).await.unwrap().refused.is_empty());
    assert!(worker.open(&[(shard(3), 10)]).await.unwrap().refused.is_empty());
    assert_eq!(worker.open(&[(shard(3), 9)]).await.unwrap().refused, [(shard(3), 10)]);
}

// Batches that fail.

#[tokio::test]
async fn a_batch_that_fails_in_the_middle_keeps_what_was_sent_and_strikes_the_rest() {
    let mut scene = Scene::new().await;
    let mut worker = scene.worker();
    let (keyed, other) = (events(3, "k"), Arc::new(sample::event(9, "l")));
    worker.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
    scene.leave_room_for(2).await;

    let batch = [parcel(3, &keyed[0]), parcel(3, &keyed[1]), parcel(4, &other), parcel(3, &keyed[2])];
    let sent = worker.send(&batch).await;
    assert_eq!(sent.answers, [Answer::Accepted, Answer::Accepted, Answer::NotSent, Answer::NotSent]);
    assert_eq!(sent.closed, [shard(3), shard(4)]);
    assert!(sent.unavailable.unwrap().contains("exhausted the last possible ID"));
    let journal = scene.journal().await;
    assert_eq!(journal.iter().map(Vec::len).collect::<Vec<_>>(), [48], "two events of one shard, none of the other");

    // The session has closed itself: what was on the way behind the batch is refused.
    let stream = scene.stream.clone();
    let entries: Vec<(String, BTreeMap<String, String>)> = scene.command(&["XRANGE", &stream, "-", "+"]).await;
    let there: Vec<&str> = entries.iter().map(|(_, fields)| fields["event_id"].as_str()).collect();
    assert_eq!(there, ids(&keyed[..2]));
    let () = scene.command(&["DEL", &stream]).await;
    let tokens: Vec<String> = scene
        .meta()
        .await
        .into_iter()
        .filter(|(name, _)| name.starts_with("owner/"))
        .map(|(_, token)| String::from_utf8(token).unwrap())
        .collect();
    assert!(tokens.iter().all(|token| token.ends_with(":closed")), "{tokens:?}");
    let opened = worker.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
    assert!(opened.refused.is_empty());
    assert_eq!(found(&opened), named(&keyed[..2]));
    assert!(all_accepted(&worker.send(&batch[2..]).await));
    assert_eq!(scene.sent_ids().await, [other.id.to_string(), keyed[2].id.to_string()]);
}

#[test]
fn only_an_error_about_the_event_rejects_it() {
    let parcels = parcels(3, &events(3, "k"));
    for (error, rejected) in [
        ("ERR string exceeds maximum allowed size (proto-max-bulk-len)", true),
        ("OOM command not allowed when used memory > 'maxmemory'.", false),
        ("MISCONF Redis is configured to save RDB snapshots", false),
        ("an error that nobody knows", false),
    ] {
        let mut batch = Batch::encode(&parcels);
        batch.accept(1);
        let unavailable = batch.fail(1, error);
        let sent = batch.into_sent(unavailable, Vec::new());
        assert_eq!(sent.answers[0], Answer::Accepted);
        assert_eq!(sent.answers[2], Answer::NotSent);
        assert_eq!(matches!(sent.answers[1], Answer::Rejected(_)), rejected, "{error}");
        assert_eq!(sent.unavailable.is_none(), rejected, "{error}");
        assert!(format!("{sent:?}").contains(error), "the text is shown");
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_an_entry_is_invalid_and_holds_back_only_its_key() {
    let scene = Scene::new().await;
    let mut worker = scene.worker();
    let mut batch = events(4, "k");
    Arc::make_mut(&mut batch[1]).publisher_config = JsonText::new(r#"{"list": [1]}"#.to_owned());
    Arc::make_mut(&mut batch[3]).partition_key = "l".to_owned();
    worker.open(&[(shard(3), 1)]).await.unwrap();
    let sent = worker.send(&parcels(3, &batch)).await;
    assert!(
        matches!(&sent.answers[..], [Answer::Accepted, Answer::Invalid(_), Answer::NotSent, Answer::Accepted]),
        "{sent:?}"
    );
    assert_eq!(scene.sent_ids().await, [batch[0].id.to_string(), batch[3].id.to_string()]);
}

#[tokio::test]
async fn a_key_of_another_type_in_the_streams_place_makes_the_backend_unavailable() {
    let mut scene = Scene::new().await;
    let stream = scene.stream.clone();
    let () = scene.command(&["SET", &stream, "no stream"]).await;
    let mut worker = scene.worker();
    worker.open(&[(shard(3), 1)]).await.unwrap();
    let sent = worker.send(&parcels(3, &events(2, ""))).await;
    assert_eq!(sent.answers, [Answer::NotSent, Answer::NotSent]);
    assert!(sent.unavailable.unwrap().contains("WRONGTYPE"));
    assert!(scene.journal().await.is_empty());
}

// Neighbours.

#[tokio::test]
async fn two_lanes_and_two_databases_on_one_stream_do_not_disturb_each_other() {
    let mut scene = Scene::new().await;
    let lane = |name: &str| Shard { lane: Arc::from(name), number: 3 };
    let (mut here, mut there) = (scene.worker(), scene.worker_of(Uuid::now_v7()));
    let mut named_lane = scene.worker();
    let all = events(3, "k");
    here.open(&[(lane(""), 5)]).await.unwrap();
    assert!(there.open(&[(lane(""), 1)]).await.unwrap().refused.is_empty());
    assert!(named_lane.open(&[(lane("orders"), 1)]).await.unwrap().refused.is_empty());
    for (worker, name, event) in
        [(&mut here, "", &all[0]), (&mut there, "", &all[1]), (&mut named_lane, "orders", &all[2])]
    {
        assert!(all_accepted(&worker.send(&[Parcel { shard: lane(name), event: Arc::clone(event) }]).await));
    }
    assert_eq!(scene.journal().await.len(), 3);
    assert_eq!(found(&scene.worker().open(&[(lane(""), 6)]).await.unwrap()), named(&all[..1]));
    assert_eq!(found(&scene.worker().open(&[(lane("orders"), 6)]).await.unwrap()), named(&all[2..]));
    there.settled(&named(&all));
    there.flush().await.unwrap();
    assert_eq!(scene.journal().await.len(), 2, "only its own part of the journal was dropped");
}

#[tokio::test]
async fn shards_whose_numbers_begin_alike_keep_their_journals_apart() {
    let scene = Scene::new().await;
    let mut worker = scene.worker();
    let events = events(3, "");
    worker.open(&[(shard(1), 1), (shard(12), 1)]).await.unwrap();
    assert!(all_accepted(&worker.send(&[parcel(1, &events[0]), parcel(12, &events[1])]).await));
    let opened = scene.worker().open(&[(shard(1), 2)]).await.unwrap();
    assert_eq!(opened.sent, [(shard(1), events[0].id, events[0].seq)]);
}

#[tokio::test]
async fn a_stream_and_its_journal_live_in_one_slot_of_a_cluster_with_and_without_a_hash_tag() {
    let server = Server::start(&[("cluster-enabled", "yes")]);
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    let mut connection = redis::connect(&server.url()).await;
    let () = ::redis::cmd("CLUSTER").arg("ADDSLOTS").arg(slots).query_async(&mut connection).await.unwrap();
    eventually("the cluster serves its slots", PATIENCE, async || {
        let info: String = ::redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.unwrap();
        info.contains("cluster_state:ok")
    })
    .await;
    for stream in ["events", "{shop}.events"] {
        let scene = Scene::on(&server.url(), stream).await;
        let mut worker = scene.worker();
        let events = events(1, "");
        worker.open(&[(shard(3), 1)]).await.unwrap();
        let sent = worker.send(&parcels(3, &events)).await;
        assert!(all_accepted(&sent), "{stream}: {sent:?}");
        assert_eq!(scene.sent_ids().await, ids(&events));
    }
}

// The journal's end.

#[tokio::test]
async fn what_is_settled_leaves_the_journal_with_the_next_batch_or_a_flush() {
    let mut scene = Scene::new().await;
    let mut worker = scene.worker();
    let events = events(4, "");
    worker.open(&[(shard(3), 1)]).await.unwrap();
    assert!(all_accepted(&worker.send(&parcels(3, &events[..2])).await));
    worker.settled(&named(&events[..1]));
    assert!(all_accepted(&worker.send(&parcels(3, &events[2..3])).await));
    assert_eq!(scene.journal().await.len(), 2, "a field stays while one of its events is not settled");
    worker.settled(&named(&events[1..2]));
    assert!(all_accepted(&worker.send(&parcels(3, &events[3..])).await));
    assert_eq!(scene.journal().await.len(), 2, "the batch took the settled field along");
    worker.settled(&named(&events[2..]));
    worker.flush().await.unwrap();
    let left: Vec<String> = scene.meta().await.into_keys().collect();
    assert_eq!(left, [format!("owner/{}/orders/3", scene.outbox)]);
}

#[tokio::test]
async fn what_was_settled_before_a_batch_failed_is_dropped_later() {
    let mut scene = Scene::new().await;
    let mut worker = scene.worker();
    let events = events(2, "");
    scene.leave_room_for(1).await;
    worker.open(&[(shard(3), 1)]).await.unwrap();
    assert!(all_accepted(&worker.send(&parcels(3, &events[..1])).await));
    worker.settled(&named(&events[..1]));
    assert!(worker.send(&parcels(3, &events[1..])).await.unavailable.is_some());
    worker.flush().await.unwrap();
    assert!(scene.journal().await.is_empty());
}

// Redis' own troubles.

#[tokio::test]
async fn a_redis_that_was_emptied_closes_the_session_and_the_next_one_works() {
    let server = Server::start(&[]);
    let mut scene = Scene::on(&server.url(), "events").await;
    let mut worker = scene.worker();
    let events = events(2, "k");
    worker.open(&[(shard(3), 4)]).await.unwrap();
    assert!(all_accepted(&worker.send(&parcels(3, &events[..1])).await));
    let () = scene.command(&["FLUSHALL"]).await;
    let sent = worker.send(&parcels(3, &events[1..])).await;
    assert_eq!((sent.answers, sent.closed), (vec![Answer::NotSent], vec![shard(3)]));
    assert!(sent.unavailable.is_none());
    let opened = worker.open(&[(shard(3), 4)]).await.unwrap();
    assert!(opened.refused.is_empty() && opened.sent.is_empty());
    assert!(all_accepted(&worker.send(&parcels(3, &events[1..])).await));
    assert_eq!(scene.sent_ids().await, ids(&events[1..]));
}

#[tokio::test]
async fn a_redis_that_forgot_the_scripts_is_told_them_again() {
    let server = Server::start(&[]);
    let mut scene = Scene::on(&server.url(), "events").await;
    let mut worker = scene.worker();
    let events = events(2, "");
    worker.open(&[(shard(3), 1)]).await.unwrap();
    assert!(all_accepted(&worker.send(&parcels(3, &events[..1])).await));
    let () = scene.command(&["SCRIPT", "FLUSH"]).await;
    assert!(all_accepted(&worker.send(&parcels(3, &events[1..])).await));
    let () = scene.command(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(found(&worker.open(&[(shard(3), 2)]).await.unwrap()), named(&events));
    assert_eq!(scene.sent_ids().await, ids(&events));
}

#[tokio::test]
async fn a_redis_out_of_memory_takes_nothing_and_leaves_nothing_in_the_journal() {
    let server = Server::start(&[]);
    let mut scene = Scene::on(&server.url(), "events").await;
    let mut worker = scene.worker();
    let events = events(3, "k");
    worker.open(&[(shard(3), 1)]).await.unwrap();
    let () = scene.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let sent = worker.send(&parcels(3, &events)).await;
    assert_eq!(sent.answers, vec![Answer::NotSent; 3]);
    assert!(sent.unavailable.unwrap().contains("OOM"));
    let refused = worker.open(&[(shard(3), 1)]).await.unwrap_err();
    assert!(refused.is_unavailable() && refused.to_string().contains("OOM"), "{refused}");
    assert!(scene.journal().await.is_empty());

    let () = scene.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(worker.open(&[(shard(3), 1)]).await.unwrap().sent.is_empty());
    assert!(all_accepted(&worker.send(&parcels(3, &events)).await));
    assert_eq!(scene.sent_ids().await, ids(&events));
}

#[tokio::test]
async fn settled_fields_do_not_open_a_way_around_the_memory_limit() {
    let server = Server::start(&[]);
    let mut scene = Scene::on(&server.url(), "events").await;
    let mut worker = scene.worker();
    let events = events(2, "k");
    worker.open(&[(shard(3), 1)]).await.unwrap();
    assert!(all_accepted(&worker.send(&parcels(3, &events[..1])).await));
    worker.settled(&named(&events[..1]));
    let () = scene.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(worker.send(&parcels(3, &events[1..])).await.unavailable.is_some());
    assert_eq!(scene.sent_ids().await, ids(&events[..1]));
    worker.flush().await.unwrap();
    assert!(scene.journal().await.is_empty(), "dropping needs no memory");
}

#[tokio::test]
async fn a_redis_that_may_not_be_written_to_is_unavailable() {
    let server = Server::start(&[]);
    let mut scene = Scene::on(&server.url(), "events").await;
    let mut worker = scene.worker();
    let events = events(2, "");
    worker.open(&[(shard(3), 1)]).await.unwrap();
    assert!(all_accepted(&worker.send(&parcels(3, &events[..1])).await));
    for (forbid, allow, error) in [
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"][..],
            &["CONFIG", "SET", "min-replicas-to-write", "0"][..],
            "NOREPLICAS",
        ),
        (&["REPLICAOF", "127.0.0.1", "1"][..], &["REPLICAOF", "NO", "ONE"][..], "READONLY"),
    ] {
        let () = scene.command(forbid).await;
        let sent = worker.send(&parcels(3, &events[1..])).await;
        assert_eq!(sent.answers, [Answer::NotSent]);
        let reason = sent.unavailable.unwrap();
        assert!(reason.contains(error), "{error}: {reason}");
        assert!(worker.open(&[(shard(3), 1)]).await.unwrap_err().is_unavailable());
        let () = scene.command(allow).await;
        let opened = worker.open(&[(shard(3), 1)]).await.unwrap();
        assert_eq!(found(&opened), named(&events[..1]), "{error}: nothing else was written down");
    }
    assert!(all_accepted(&worker.send(&parcels(3, &events[1..])).await));
    assert_eq!(scene.sent_ids().await, ids(&events));
}

#[tokio::test]
async fn a_redis_that_does_not_answer_is_unavailable_after_the_socket_timeout() {
    let mut server = Server::start(&[]);
    let scene = Scene::on(&server.url(), "events").await;
    let limit = Duration::from_millis(200);
    let settings =
        PublisherSettings { socket_timeout: limit, connect_timeout: limit, ..settings(&scene.url, "events") };
    let mut worker = RedisStream::new(&settings, scene.outbox).unwrap();
    let events = events(1, "");
    worker.open(&[(shard(3), 1)]).await.unwrap();
    server.signal(Signal::STOP);
    let began = std::time::Instant::now();
    let sent = worker.send(&parcels(3, &events)).await;
    assert!(began.elapsed() >= limit);
    assert_eq!(sent.answers, [Answer::NotSent]);
    assert!(sent.unavailable.is_some());
    assert!(worker.open(&[(shard(3), 1)]).await.unwrap_err().is_unavailable());
    assert!(worker.health_check().await.unwrap_err().is_unavailable());
    server.signal(Signal::CONT);
    // Whether the stopped server read the batch before its connection ended is what the journal says.
    let mut patient = scene.worker();
    let sent_before = found(&patient.open(&[(shard(3), 2)]).await.unwrap());
    let expected: Vec<String> = sent_before.iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(scene.sent_ids().await, expected);
}

#[tokio::test]
async fn an_error_names_no_password() {
    let server = Server::start(&[("requirepass", "right")]);
    let wrong = format!("redis://:hunter2@127.0.0.1:{}/0", server.port());
    let closed_port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let nobody = format!("redis://:hunter2@127.0.0.1:{closed_port}/0");
    for url in [wrong, nobody] {
        let mut worker = RedisStream::new(&settings(&url, "events"), Uuid::now_v7()).unwrap();
        for error in [worker.open(&[(shard(3), 1)]).await.unwrap_err(), worker.health_check().await.unwrap_err()] {
            assert!(error.is_unavailable());
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
    let right = format!("redis://:right@127.0.0.1:{}/0", server.port());
    let mut worker = RedisStream::new(&settings(&right, "events"), Uuid::now_v7()).unwrap();
    worker.health_check().await.unwrap();
}

#[tokio::test]
async fn a_stream_is_trimmed_to_about_its_length_or_not_at_all() {
    for (max_len, least, most) in [(100, 100, 400), (0, 1_000, 1_000)] {
        let mut scene = Scene::new().await;
        let settings = PublisherSettings { max_len, ..settings(&scene.url, &scene.stream) };
        let mut worker = RedisStream::new(&settings, scene.outbox).unwrap();
        worker.open(&[(shard(3), 1)]).await.unwrap();
        assert!(all_accepted(&worker.send(&parcels(3, &events(1_000, ""))).await));
        let stream = scene.stream.clone();
        let length = redis::length(&mut scene.connection, &stream).await;
        assert!((least..=most).contains(&length), "{length}");
    }
}

#[tokio::test]
async fn a_raw_command_under_an_older_token_does_nothing() {
    let mut scene = Scene::new().await;
    let (mut old, mut new) = (scene.worker(), scene.worker());
    let events = events(1, "");
    old.open(&[(shard(3), 1)]).await.unwrap();
    let old_token = String::from_utf8(scene.meta().await.into_values().next().unwrap()).unwrap();
    new.open(&[(shard(3), 2)]).await.unwrap();
    assert!(all_accepted(&new.send(&parcels(3, &events)).await));
    let before = scene.meta().await;
    let mut late = PUBLISH.request();
    late.arg(2).arg(&scene.stream).arg(meta_key(&scene.stream)).arg(&["0", "1", "1", "0"]);
    late.arg(format!("owner/{}/orders/3", scene.outbox)).arg(old_token).arg("sent/late").arg(&[0_u8; 24][..]);
    late.arg(&["1", "2", "event_id", "late"]);
    let answer: Vec<String> = late.query_async(&mut scene.connection).await.unwrap();
    assert_eq!(answer, ["closed"]);
    assert_eq!(scene.meta().await, before);
    assert_eq!(scene.sent_ids().await, ids(&events));
}
