//! Lists and channels on real servers.

use std::sync::Arc;

use ::redis::FromRedisValue;
use ::redis::aio::MultiplexedConnection;
use futures_util::StreamExt;

use super::*;
use crate::event::OutboxEvent;
use crate::fixtures;
use crate::settings::Secret;
use crate::test_support::PATIENCE;
use crate::test_support::proxy::{Passage, Proxy};
use crate::test_support::redis::cluster::Cluster;
use crate::test_support::redis::{self, Server};

fn messages(kind: MessageKind, url: &str, name: &str) -> RedisMessages {
    let settings = PublisherSettings {
        url: Some(url.into()),
        stream_name: name.to_owned(),
        socket_timeout: PATIENCE,
        ..PublisherSettings::default()
    };
    RedisMessages::new(kind, &settings).unwrap()
}

fn event(seq: i64, event_type: &str, key: &str) -> OutgoingEvent {
    let event = OutboxEvent { event_type: event_type.to_owned(), ..fixtures::event(seq, key) };
    OutgoingEvent { shard: Shard { lane: Arc::from("orders"), number: 3 }, event: Arc::new(event) }
}

fn json(events: &[OutgoingEvent]) -> Vec<String> {
    events.iter().map(|outgoing| cloud_event::to_json(&outgoing.event)).collect()
}

async fn command<T: FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> T {
    ::redis::cmd(words[0]).arg(&words[1..]).query_async(connection).await.unwrap()
}

async fn list(connection: &mut MultiplexedConnection, name: &str) -> Vec<String> {
    command(connection, &["LRANGE", name, "0", "-1"]).await
}

#[tokio::test]
async fn a_batch_is_appended_to_its_list_in_order_and_in_one_round_trip() {
    let (url, name) = (redis::url(), redis::stream());
    let proxy = Proxy::to(url::Url::parse(&url).unwrap().port().unwrap_or(6379)).await;
    let mut backend = messages(MessageKind::List, &format!("redis://127.0.0.1:{}/0", proxy.port()), &name);
    let events: Vec<OutgoingEvent> = (1..=100).map(|seq| event(seq, "t", "k")).collect();
    backend.open(&[]).await.unwrap();
    backend.send(&events[..1]).await;
    let before = proxy.replies();
    let sent = backend.send(&events[1..]).await;
    assert!(sent.answers.iter().all(|answer| *answer == SendResult::Accepted), "{sent:?}");
    assert_eq!(proxy.replies() - before, 1);
    assert_eq!(list(&mut redis::connect(&url).await, &name).await, json(&events));

    proxy.set(Passage::CutAtReply);
    let lost = backend.send(&events[..2]).await;
    assert_eq!(lost.answers, vec![SendResult::NotSent; 2]);
    assert!(lost.unavailable.is_some_and(|unavailable| !unavailable.is_its_state));
    proxy.set(Passage::Open);
    assert!(backend.send(&events[..2]).await.unavailable.is_none());
}

#[tokio::test]
async fn the_listeners_of_a_channel_have_the_events_in_order() {
    let (url, name) = (redis::url(), redis::stream());
    let mut listener = ::redis::Client::open(url.as_str()).unwrap().get_async_pubsub().await.unwrap();
    listener.psubscribe(format!("{name}.*")).await.unwrap();
    let mut backend = messages(MessageKind::Channel, &url, &format!("{name}.{{type}}"));
    let events = [event(1, "a", "k"), event(2, "b/c", "k"), event(3, "a", "k")];
    assert_eq!(backend.send(&events).await.answers, vec![SendResult::Accepted; 3]);
    let heard = listener.on_message().take(3).map(|message| {
        let payload: String = message.get_payload().unwrap();
        (message.get_channel_name().to_owned(), payload)
    });
    let heard: Vec<(String, String)> = heard.collect().await;
    let names = ["a", "b%2Fc", "a"].map(|event_type| format!("{name}.{event_type}"));
    assert_eq!(heard, names.into_iter().zip(json(&events)).collect::<Vec<_>>());

    // Without a listener an event is gone, and accepted.
    let mut unheard = messages(MessageKind::Channel, &url, &redis::stream());
    assert_eq!(unheard.send(&events).await.answers, vec![SendResult::Accepted; 3]);
}

#[tokio::test]
async fn a_list_that_is_something_else_rejects_its_events_alone_if_there_are_several_lists() {
    let (url, name) = (redis::url(), redis::stream());
    let mut connection = redis::connect(&url).await;
    let () = command(&mut connection, &["SET", &format!("{name}.odd"), ""]).await;
    let mut backend = messages(MessageKind::List, &url, &format!("{name}.{{type}}"));
    let events =
        [event(1, "a", "k"), event(2, "odd", "k"), event(3, "a", "k"), event(4, "a", "l"), event(5, "odd", "")];
    let sent = backend.send(&events).await;
    assert!(
        matches!(
            &sent.answers[..],
            [
                SendResult::Accepted,
                SendResult::Rejected(_),
                SendResult::NotSent,
                SendResult::Accepted,
                SendResult::Rejected(reason)
            ] if reason.contains("WRONGTYPE")
        ),
        "{sent:?}"
    );
    assert!(sent.unavailable.is_none());
    assert_eq!(list(&mut connection, &format!("{name}.a")).await, json(&[events[0].clone(), events[3].clone()]));

    let mut fixed = messages(MessageKind::List, &url, &format!("{name}.odd"));
    let sent = fixed.send(&events).await;
    assert_eq!(sent.answers, vec![SendResult::NotSent; 5]);
    assert!(sent.unavailable.unwrap().reason.contains("WRONGTYPE"));
}

#[tokio::test]
async fn an_event_without_a_name_is_invalid_and_holds_back_its_key_only() {
    let mut backend = messages(MessageKind::List, &redis::url(), "{key}");
    let key = redis::stream();
    let sent = backend.send(&[event(1, "t", ""), event(2, "t", &key), event(3, "t", "")]).await;
    assert!(
        matches!(&sent.answers[..], [SendResult::Invalid(_), SendResult::Accepted, SendResult::Invalid(_)]),
        "{sent:?}"
    );
}

#[tokio::test]
async fn a_state_of_redis_pauses_and_is_told_from_an_event_that_is_too_large() {
    let server = Server::start(&[]);
    let mut admin = redis::connect(&server.url()).await;
    let mut backend = messages(MessageKind::List, &server.url(), "list");
    let events = [event(1, "t", "k"), event(2, "t", "k")];
    // It requires replicas if a client writes, and not if a script does, and has no users.
    let is_version_5 = redis::version(&mut admin).await.starts_with("5.");
    for (forbid, allow, error) in [
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"][..],
            &["CONFIG", "SET", "min-replicas-to-write", "0"][..],
            "NOREPLICAS",
        ),
        (&["REPLICAOF", "127.0.0.1", "1"][..], &["REPLICAOF", "NO", "ONE"][..], "READONLY"),
    ] {
        if error == "NOREPLICAS" && is_version_5 {
            continue;
        }
        let () = command(&mut admin, forbid).await;
        let unavailable = backend.send(&events).await.unavailable.unwrap();
        assert!(unavailable.reason.contains(error) && unavailable.is_its_state, "{unavailable:?}");
        let () = command(&mut admin, allow).await;
    }
    let () = command(&mut admin, &["SET", "another's", &"x".repeat(6 << 20)]).await;
    let () = command(&mut admin, &["CONFIG", "SET", "maxmemory", "4mb"]).await;
    let unavailable = backend.send(&events).await.unavailable.unwrap();
    assert!(unavailable.reason.contains("OOM") && unavailable.is_its_state, "{unavailable:?}");
    let () = command(&mut admin, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let unavailable = backend.send(&events).await.unavailable.unwrap();
    assert!(unavailable.reason.contains("OOM") && !unavailable.is_its_state, "{unavailable:?}");
    let () = command(&mut admin, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(backend.send(&events).await.unavailable.is_none());
    assert_eq!(list(&mut admin, "list").await, json(&events));

    if is_version_5 {
        return;
    }
    let () = command(&mut admin, &["ACL", "SETUSER", "limited", "on", ">secret", "~list", "+@all", "-rpush"]).await;
    let url = server.url().replace("redis://", "redis://limited:secret@");
    let unavailable = messages(MessageKind::List, &url, "list").send(&events).await.unavailable.unwrap();
    // Redis 7; Redis 6.2; Valkey.
    let refusals = ["NOPERM", "can't run", "has no permissions"];
    assert!(refusals.iter().any(|text| unavailable.reason.contains(text)), "{unavailable:?}");
    assert_eq!(list(&mut admin, "list").await, json(&events));
}

#[tokio::test]
async fn in_a_cluster_lists_share_a_slot_and_a_channel_is_heard_on_every_node() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<Secret> = cluster.nodes.iter().map(|node| node.server.url().into()).collect();
    let settings = |name: &str| PublisherSettings {
        nodes: nodes.clone(),
        stream_name: name.to_owned(),
        socket_timeout: PATIENCE,
        ..PublisherSettings::default()
    };
    let events = [event(1, "a", "k"), event(2, "b", "k"), event(3, "a", "k")];
    let mut lists = RedisMessages::new(MessageKind::List, &settings("{shop}.{type}")).unwrap();
    assert_eq!(lists.send(&events).await.answers, vec![SendResult::Accepted; 3]);
    let owner = cluster.first_owner(cluster.slot_of("{shop}").await, 3);
    let mut connection = redis::connect(&cluster.nodes[owner].server.url()).await;
    assert_eq!(list(&mut connection, "{shop}.a").await, json(&[events[0].clone(), events[2].clone()]));

    let mut channel = RedisMessages::new(MessageKind::Channel, &settings("live")).unwrap();
    channel.health_check().await.unwrap();
    for node in &cluster.nodes {
        let mut listener = ::redis::Client::open(node.server.url()).unwrap().get_async_pubsub().await.unwrap();
        listener.subscribe("live").await.unwrap();
        assert_eq!(channel.send(&events[..1]).await.answers, [SendResult::Accepted]);
        let heard: String = listener.on_message().next().await.unwrap().get_payload().unwrap();
        assert_eq!(heard, json(&events[..1])[0]);
    }
}
