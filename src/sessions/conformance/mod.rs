//! The conformance suite of [`BackendSession`]: what a backend owes, checked on its real server.
//!
//! A backend implements [`Target`] in its tests and instantiates the suite in a line:
//! `actix_outbox::session_conformance!(MyTarget);`, which makes one `#[tokio::test]` of each case. Parts are skipped only by
//! declaring the weaker promise, [`Promise::AtLeastOnce`].
#![allow(clippy::expect_used, reason = "a test says by a panic that it failed")]

#[allow(missing_docs, reason = "the names of the cases say it")]
mod cases;
#[cfg(not(test))]
#[path = "../../../tests/support/proxy.rs"]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "the tests of the library use the rest of it")]
mod proxy;
#[allow(missing_docs, reason = "the name of the case says it")]
mod walk;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

#[doc(hidden)]
pub use self::cases::*;
#[cfg(not(test))]
use self::proxy::{Passage, Proxy};
#[doc(hidden)]
pub use self::walk::random_faults_lose_double_and_reorder_nothing;
use super::{BackendSession, OutgoingEvent, SendResult, Shard};
use crate::event::{JsonText, OutboxEvent};
use crate::fixtures;
#[cfg(test)]
use crate::test_support::proxy::{Passage, Proxy};

/// How long a call may take where the suite breaks the connection.
const SHORT: Duration = Duration::from_millis(700);

/// How long a call may take otherwise.
const LONG: Duration = Duration::from_secs(60);

/// How often each event arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Once, whatever fails.
    Once,
    /// At least once; the first arrivals of a key's events are in order.
    AtLeastOnce,
}

/// A backend under test: a place of its own, such as a stream, on a real server on loopback.
#[async_trait]
pub trait Target: Send + Sync + Sized + 'static {
    /// What the backend promises.
    const PROMISE: Promise;

    /// A new place, on a server that this test alone uses: the suite kills it.
    async fn create() -> Self;

    /// The server's port. The suite reaches it through a proxy that loses, cuts and delays.
    fn port(&self) -> u16;

    /// A session of this outbox, to the server behind this port, each of whose calls ends within about this time.
    fn session(&self, outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession>;

    /// The ids of the events that have arrived, in the order of their arrival.
    async fn received(&self) -> Vec<Uuid>;

    /// Kills the server.
    async fn kill(&mut self);

    /// Starts it again, with what it had acknowledged.
    async fn start_again(&mut self);

    /// The bytes of an event's data that are more than the backend accepts; `None`: it accepts all that an outbox may hold.
    fn too_large(&self) -> Option<usize> {
        None
    }
}

/// Makes one test of each case, for the [`Target`] of this name.
#[macro_export]
macro_rules! session_conformance {
    ($target:ty) => {
        $crate::session_conformance! {
            $target:
            accepted_events_arrive_once_and_in_order
            a_large_batch_arrives_whole_and_in_order
            a_refused_event_holds_back_its_key_alone
            an_earlier_session_can_send_nothing_more
            a_request_that_arrives_late_is_refused
            what_arrived_when_the_reply_was_lost_is_named_by_the_next_open
            a_batch_that_was_cut_is_named_as_far_as_it_arrived
            an_open_whose_reply_was_lost_is_followed_by_another
            an_older_token_is_refused_with_the_epoch_that_stands
            outboxes_do_not_meet
            settled_events_leave_the_journal
            the_journal_is_bounded_by_what_is_in_flight
            entries_are_removed_only_as_they_were_read
            the_journal_survives_the_death_of_the_server
            an_outage_is_no_events_fault
            random_faults_lose_double_and_reorder_nothing
        }
    };
    ($target:ty: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::sessions::conformance::$case::<$target>().await;
            }
        )*
    };
}

/// A place, its outbox, and the events that the cases send.
struct Bench<T: Target> {
    target: T,
    outbox: Uuid,
}

impl<T: Target> Bench<T> {
    async fn new() -> Self {
        Self { target: T::create().await, outbox: Uuid::now_v7() }
    }

    fn session(&self) -> Box<dyn BackendSession> {
        self.target.session(self.outbox, self.target.port(), LONG)
    }

    /// A session that has shard 3 open at epoch 1.
    async fn open_session(&self) -> Box<dyn BackendSession> {
        let mut session = self.session();
        assert!(session.open(&[(shard(3), 1)]).await.expect("an open").refused.is_empty());
        session
    }

    /// A session through a proxy, whose calls end soon.
    async fn session_through(&self, limit: Duration) -> (Proxy, Box<dyn BackendSession>) {
        let proxy = Proxy::to(self.target.port()).await;
        let session = self.target.session(self.outbox, proxy.port(), limit);
        (proxy, session)
    }

    async fn assert_received(&self, events: &[OutgoingEvent]) {
        let wanted: Vec<Uuid> = events.iter().map(|event| event.event.id).collect();
        let received = self.target.received().await;
        let once: BTreeSet<&Uuid> = received.iter().collect();
        if T::PROMISE == Promise::Once {
            assert_eq!(once.len(), received.len(), "an event arrived twice");
        }
        assert_eq!(first_arrivals(&received), wanted, "in the order in which they were sent");
    }
}

fn first_arrivals(received: &[Uuid]) -> Vec<Uuid> {
    let mut seen = BTreeSet::new();
    received.iter().filter(|id| seen.insert(**id)).copied().collect()
}

fn shard(number: i16) -> Shard {
    Shard { lane: Arc::from("orders"), number }
}

/// Events of one key in one shard, with these numbers as `seq`.
fn events(number: i16, key: &str, seqs: std::ops::RangeInclusive<i64>) -> Vec<OutgoingEvent> {
    seqs.map(|seq| outgoing(number, fixtures::event(seq, key))).collect()
}

fn outgoing(number: i16, event: OutboxEvent) -> OutgoingEvent {
    OutgoingEvent { shard: shard(number), event: Arc::new(event) }
}

/// An event with data of this many bytes.
fn large(number: i16, seq: i64, key: &str, bytes: usize) -> OutgoingEvent {
    let data = Some(JsonText::new(format!("\"{}\"", "x".repeat(bytes))));
    outgoing(number, OutboxEvent { data, ..fixtures::event(seq, key) })
}

fn names(events: &[OutgoingEvent]) -> Vec<(Uuid, i64)> {
    events.iter().map(|event| (event.event.id, event.event.seq)).collect()
}

/// Sends a batch of which every event is accepted.
async fn send_all(session: &mut dyn BackendSession, batch: &[OutgoingEvent]) {
    let sent = session.send(batch).await;
    assert!(sent.unavailable.is_none() && sent.closed.is_empty(), "{sent:?}");
    assert!(sent.answers.iter().all(|answer| *answer == SendResult::Accepted), "{sent:?}");
}

/// Sends events that none of the shards' journals names, until all are accepted: as after an outage.
async fn send_eventually(session: &mut dyn BackendSession, batch: &[OutgoingEvent]) {
    let started = std::time::Instant::now();
    loop {
        open_eventually(session, &[(batch[0].shard.clone(), 1)]).await;
        let sent = session.send(batch).await;
        if sent.answers.iter().all(|answer| *answer == SendResult::Accepted) {
            return;
        }
        assert!(started.elapsed() < LONG, "still {sent:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the next session finds in the journal, in the order of `seq`.
async fn found(session: &mut dyn BackendSession, shards: &[(Shard, i64)]) -> Vec<(Uuid, i64)> {
    let opened = session.open(shards).await.expect("an open");
    assert!(opened.refused.is_empty(), "{opened:?}");
    let mut sent: Vec<(Uuid, i64)> = opened.sent.iter().map(|(_, id, seq)| (*id, *seq)).collect();
    sent.sort_by_key(|(_, seq)| *seq);
    sent
}

/// Waits until a session can open these shards, as after an outage.
async fn open_eventually(session: &mut dyn BackendSession, shards: &[(Shard, i64)]) -> Vec<(Uuid, i64)> {
    let started = std::time::Instant::now();
    loop {
        match session.open(shards).await {
            Ok(opened) => {
                assert!(opened.refused.is_empty(), "{opened:?}");
                return opened.sent.iter().map(|(_, id, seq)| (*id, *seq)).collect();
            }
            // Three servers that have to agree again take long where others compute.
            Err(error) => assert!(started.elapsed() < LONG * 3, "still {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The events in the order in which each key's first arrived.
fn by_key<'e>(received: &[Uuid], events: &'e HashMap<Uuid, (String, i64)>) -> HashMap<&'e str, Vec<i64>> {
    let mut keys: HashMap<&str, Vec<i64>> = HashMap::new();
    for id in first_arrivals(received) {
        if let Some((key, seq)) = events.get(&id).filter(|(key, _)| !key.is_empty()) {
            keys.entry(key).or_default().push(*seq);
        }
    }
    keys
}
