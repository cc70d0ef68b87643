//! Members of a group on a real Redis, one call at a time.

use ::redis::aio::MultiplexedConnection;

use super::*;
use crate::backend::event_source::{DeadLetter, EventSource, Renewal, SetAside};
use crate::settings::partitions::partition_name;
use crate::settings::{ConsumerSettings, PublisherSettings, Secret};
use crate::test_support::redis::{connect, stream, url};

const NOTHING: BTreeSet<usize> = BTreeSet::new();

/// A partitioned stream.
struct Parts {
    stream: String,
    redis: MultiplexedConnection,
}

impl Parts {
    async fn new() -> Self {
        Self { stream: stream(), redis: connect(&url()).await }
    }

    fn name(&self, n: u32) -> String {
        partition_name(&self.stream, n)
    }

    /// A member that reads these partitions.
    fn member(&self, name: &str, partitions: std::ops::Range<u32>) -> RedisSource {
        let server = PublisherSettings { url: Some(Secret::from(url())), ..PublisherSettings::default() };
        let streams = partitions.map(|n| self.name(n)).collect();
        let consumer = ConsumerSettings { streams, lease: Duration::from_secs(600), ..ConsumerSettings::default() };
        RedisSource::new(&server, &consumer, "{mail}er".to_owned(), name.to_owned()).unwrap()
    }

    fn key(&self) -> String {
        format!("{{{}}}:consumers:{{mail}}er", self.stream)
    }

    /// Adds entries that are not events.
    async fn add(&mut self, n: u32, count: usize) {
        let mut batch = ::redis::pipe();
        (0..count).for_each(|entry| _ = batch.cmd("XADD").arg(self.name(n)).arg("*").arg("entry").arg(entry));
        let _: Value = batch.query_async(&mut self.redis).await.unwrap();
    }

    async fn pending(&mut self, n: u32) -> usize {
        let mut pending = ::redis::cmd("XPENDING");
        let (count, ..): (usize, Value, Value, Value) =
            pending.arg(self.name(n)).arg("{mail}er").query_async(&mut self.redis).await.unwrap();
        count
    }

    async fn fields(&mut self) -> BTreeMap<String, String> {
        ::redis::cmd("HGETALL").arg(self.key()).query_async(&mut self.redis).await.unwrap()
    }

    /// Ends a member's lease as time would.
    async fn let_expire(&mut self, member: &RedisSource) {
        let base = format!("{{{}}}", self.stream);
        let field = format!("member/{}", member.leases.owner(&base));
        let value = self.fields().await.remove(&field).unwrap();
        let parts: Vec<&str> = value.split(' ').collect();
        let ended = format!("{} 1 {}", parts[0], parts[2]);
        let _: u8 =
            ::redis::cmd("HSET").arg(self.key()).arg(field).arg(ended).query_async(&mut self.redis).await.unwrap();
    }
}

fn ids(read: &[Received]) -> Vec<String> {
    read.iter().map(|received| received.entry.id.to_string()).collect()
}

/// Reads until there is nothing more.
async fn read_all(member: &RedisSource, busy: &BTreeSet<usize>) -> Vec<Received> {
    let mut all = Vec::new();
    loop {
        let read = member.read_leased(7, busy).await.unwrap();
        if read.is_empty() {
            return all;
        }
        all.extend(read);
    }
}

/// Beats and hands over until nothing changes.
async fn settle(members: &[&RedisSource]) -> Vec<usize> {
    for _ in 0..4 {
        for member in members {
            member.beat_for_all().await.unwrap();
            member.hand_over(&NOTHING).await.unwrap();
        }
    }
    members.iter().map(|member| member.held().len()).collect()
}

#[tokio::test]
async fn partitions_are_shared_fairly() {
    let parts = Parts::new().await;
    let [a, b, c] = ["a", "b", "c"].map(|name| parts.member(name, 0..16));
    assert_eq!(settle(&[&a]).await, [16]);
    assert_eq!(settle(&[&a, &b]).await, [8, 8]);
    let mut shares = settle(&[&a, &b, &c]).await;
    shares.sort_unstable();
    assert_eq!(shares, [4, 6, 6]);
    let held: BTreeSet<String> = [&a, &b, &c].into_iter().flat_map(|member| member.held()).collect();
    assert_eq!(held.len(), 16);
    StreamLeases::leave(&b).await.unwrap();
    assert_eq!(settle(&[&a, &c]).await, [8, 8]);
}

#[tokio::test]
async fn partitions_that_few_members_read_are_read_as_well() {
    let parts = Parts::new().await;
    let (old, new) = (parts.member("old", 0..8), parts.member("new", 0..16));
    assert_eq!(settle(&[&old]).await, [8]);
    let shares = settle(&[&old, &new]).await;
    assert_eq!(shares.iter().sum::<usize>(), 16, "{shares:?}");
    assert_eq!(shares, [4, 12]);
    StreamLeases::leave(&old).await.unwrap();
    assert_eq!(settle(&[&new]).await, [16]);
}

#[tokio::test]
async fn what_a_member_leaves_behind_is_bounded() {
    let mut parts = Parts::new().await;
    let (dead, alive) = (parts.member("dead", 0..16), parts.member("alive", 0..4));
    settle(&[&dead]).await;
    parts.let_expire(&dead).await;
    assert_eq!(alive.beat_for_all().await.unwrap(), 4, "taken from one that was silent");
    let fields = parts.fields().await;
    assert_eq!(fields.keys().filter(|name| name.starts_with("member/")).count(), 1);
    assert_eq!(fields.keys().filter(|name| name.starts_with("lease/")).count(), 4);
    StreamLeases::leave(&alive).await.unwrap();
    assert_eq!(parts.fields().await.into_keys().collect::<Vec<_>>(), ["counter"]);
}

#[tokio::test]
async fn a_stall_costs_nothing_if_no_other_member_took_the_partitions() {
    let mut parts = Parts::new().await;
    let member = parts.member("a", 0..4);
    settle(&[&member]).await;
    let before = parts.fields().await;
    parts.let_expire(&member).await;
    settle(&[&member]).await;
    let leases = |fields: &BTreeMap<String, String>| {
        let leases = fields.iter().filter(|(name, _)| name.starts_with("lease/"));
        leases.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(leases(&parts.fields().await), leases(&before));
}

#[tokio::test]
async fn a_late_beat_revives_nothing() {
    let mut parts = Parts::new().await;
    let member = parts.member("a", 0..4);
    settle(&[&member]).await;
    let (base, families) = (format!("{{{}}}", parts.stream), member.families());
    let owner = member.leases.owner(&base);
    let late = member.beat_request(&base, &owner, 1, "0,1,2,3");
    let answer: Value = member.call(&BEAT, &late).await.unwrap();
    assert_eq!(answer, Value::Nil, "a later beat came first");
    StreamLeases::leave(&member).await.unwrap();
    let late = member.beat_request(&base, &owner, 99, "0,1,2,3");
    let answer: Value = member.call(&BEAT, &late).await.unwrap();
    assert_eq!((answer, parts.fields().await.len()), (Value::Nil, 1));
    let joined_late = member.beat_request(&base, &owner, 0, "");
    let answer: Vec<Granted> = member.call(&BEAT, &joined_late).await.unwrap();
    assert_eq!(answer, [], "a late start takes nothing");
    assert_eq!(families[&base].len(), 4);
}

#[tokio::test]
async fn the_late_read_of_a_member_that_was_silent_is_refused() {
    let mut parts = Parts::new().await;
    let [zombie, other] = ["a", "b"].map(|name| parts.member(name, 0..1));
    settle(&[&zombie]).await;
    assert!(read_all(&zombie, &NOTHING).await.is_empty());
    let lease = zombie.leases.table().begun(BootInstant::now())[0].1.id;
    parts.let_expire(&zombie).await;
    other.beat_for_all().await.unwrap();
    parts.add(0, 3).await;
    assert!(read_all(&zombie, &NOTHING).await.is_empty());
    assert_eq!((zombie.state(lease), parts.pending(0).await), (LeaseState::Over, 0));
    assert_eq!(read_all(&other, &NOTHING).await.len(), 3);
}

#[tokio::test]
async fn a_read_whose_answer_is_lost_is_refused_if_it_is_executed_after_the_next_claim() {
    let mut parts = Parts::new().await;
    let member = parts.member("a", 0..1);
    settle(&[&member]).await;
    read_all(&member, &NOTHING).await;
    let lost = member.leases.table().begun(BootInstant::now());
    member.doubt_leases(&[lost[0].1.id], false);
    assert!(read_all(&member, &NOTHING).await.is_empty());
    parts.add(0, 3).await;
    let base = format!("{{{}}}", parts.stream);
    assert!(member.read_family(&base, 10, &lost).await.unwrap().is_empty());
    assert_eq!(parts.pending(0).await, 0);
}

#[tokio::test]
async fn what_a_lost_answer_contained_comes_before_new_entries() {
    let mut parts = Parts::new().await;
    let member = parts.member("a", 0..1);
    settle(&[&member]).await;
    parts.add(0, 3).await;
    let first = read_all(&member, &NOTHING).await;
    let lease = member.leases.table().begun(BootInstant::now());
    parts.add(0, 5).await;
    let lost = member.read_family(&format!("{{{}}}", parts.stream), 3, &lease).await.unwrap();
    member.leases.table().advance(lease[0].1.id, 0, lease[0].1.cursors[0]);
    member.doubt_leases(&[lease[0].1.id], false);
    // The first three are pending as well, and in memory.
    let read = read_all(&member, &BTreeSet::from([0])).await;
    assert_eq!((first.len(), lost.len(), read.len()), (3, 3, 5));
    assert_eq!(ids(&read)[..3], ids(&lost));
    assert!(read.is_sorted_by_key(|received| received.entry.id));
}

#[tokio::test]
async fn the_pending_entries_of_a_member_that_died_come_before_new_ones() {
    let mut parts = Parts::new().await;
    let [dead, other] = ["a", "b"].map(|name| parts.member(name, 0..2));
    settle(&[&dead]).await;
    parts.add(0, 20).await;
    assert_eq!(read_all(&dead, &NOTHING).await.len(), 20);
    parts.add(0, 5).await;
    parts.let_expire(&dead).await;
    settle(&[&other]).await;
    let read = read_all(&other, &NOTHING).await;
    assert_eq!(read.len(), 25);
    assert!(read.is_sorted_by_key(|received| received.entry.id));
    assert_eq!(read.iter().filter(|received| received.is_claimed).count(), 20);
}

#[tokio::test]
async fn a_process_that_starts_again_under_its_name_is_another_member() {
    let mut parts = Parts::new().await;
    let [old, new] = ["a", "a"].map(|name| parts.member(name, 0..1));
    settle(&[&old]).await;
    parts.add(0, 2).await;
    let read = read_all(&old, &NOTHING).await;
    assert_eq!(settle(&[&new]).await, [0], "it waits for the lease of the old one");
    parts.let_expire(&old).await;
    assert_eq!(settle(&[&new]).await, [1]);
    assert_eq!(ids(&read_all(&new, &NOTHING).await), ids(&read));
    let entry = read[0].entry;
    let renewal = Renewal { entry, deliveries: 5, idle: Duration::ZERO };
    assert_eq!(old.renew(&[renewal]).await.unwrap().lost, [entry]);
    let letter = DeadLetter { entry, deliveries: 5, reason: "no".to_owned(), event: None };
    assert!(matches!(old.set_aside(&letter).await.unwrap(), SetAside::Lost));
    assert_eq!(new.renew(&[renewal]).await.unwrap().lost, []);
    assert!(matches!(new.set_aside(&letter).await.unwrap(), SetAside::Moved));
    StreamLeases::leave(&old).await.unwrap();
    assert_eq!(settle(&[&new]).await, [1], "the old one releases nothing of the new one");
}
