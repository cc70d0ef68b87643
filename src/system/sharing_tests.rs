//! Several whole systems share one Postgres.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::settings::{PublisherSettings, Settings};
use crate::store::Shard;
use crate::system::clock::Moment;
use crate::test_support::postgres::{self, Database};
use crate::test_support::{PATIENCE, eventually};

const SHARDS: usize = 32;
const LEASE: Duration = Duration::from_secs(3);

/// The lanes of a publisher that is the default: without a name, and its own.
const LANES: [&str; 2] = ["", "default"];

async fn join(database: &Database, name: &str) -> Outbox {
    let mut settings = Settings::default();
    settings.database.url = database.url.as_str().into();
    let local = PublisherSettings { backend: "local".to_owned(), ..PublisherSettings::default() };
    settings.publishers.insert("default".to_owned(), local);
    settings.worker.name = Some(name.to_owned());
    settings.worker.lease = LEASE;
    OutboxSystem::builder(settings).migrate(true).start().await.unwrap()
}

/// What each worker may read in this moment.
fn held(workers: &[Outbox]) -> Vec<HashSet<(Shard, i64)>> {
    let now = Moment::now();
    let leases = |worker: &Outbox| -> HashSet<(Shard, i64)> {
        LANES.iter().flat_map(|lane| worker.shared.leases.readable(lane, now)).collect()
    };
    workers.iter().map(leases).collect()
}

/// Two looks at every worker: what one holds in both of them, another must not hold in the look between.
fn assert_none_is_owned_twice(workers: &[Outbox]) {
    let (first, second) = (held(workers), held(workers));
    for (n, one) in first.iter().enumerate() {
        for (shard, epoch) in one.intersection(&second[n]) {
            let between = first[n + 1..].iter().chain(&second[..n]);
            let twice = between.flatten().find(|(other, _)| other == shard);
            assert!(twice.is_none(), "worker {n} holds {shard:?} at {epoch}, and another at {twice:?}");
        }
    }
}

/// Waits until every shard is owned and nobody has more than the fair share, looking for double ownership all the while.
async fn settle(workers: &[Outbox], expected: &[usize]) {
    let fair = SHARDS.div_ceil(workers.len());
    eventually(&format!("{} workers share", workers.len()), PATIENCE, async || {
        assert_none_is_owned_twice(workers);
        LANES.iter().all(|lane| {
            let mut counts: Vec<usize> = held(workers)
                .iter()
                .map(|held| held.iter().filter(|(shard, _)| &*shard.lane == *lane).count())
                .collect();
            counts.sort_unstable_by(|a, b| b.cmp(a));
            let shared = counts.iter().sum::<usize>() == SHARDS && counts.iter().all(|count| *count <= fair);
            shared && (expected.is_empty() || counts == expected)
        })
    })
    .await;
}

#[actix::test]
async fn one_two_three_and_five_workers_share_the_shards_as_they_join_and_leave() {
    let database = postgres::database().await;
    let mut workers = vec![join(&database, "1").await];
    settle(&workers, &[32]).await;
    workers.push(join(&database, "2").await);
    settle(&workers, &[16, 16]).await;
    workers.push(join(&database, "3").await);
    settle(&workers, &[11, 11, 10]).await;
    workers.push(join(&database, "4").await);
    workers.push(join(&database, "5").await);
    settle(&workers, &[]).await;

    let client = database.connect().await;
    let query = "SELECT backend, owner, count(*) FROM outbox_leases GROUP BY backend, owner";
    let rows = client.query(query, &[]).await.unwrap();
    let mut owners: HashMap<String, usize> = HashMap::new();
    rows.iter().for_each(|row| *owners.entry(row.get(0)).or_default() += 1);
    assert!(LANES.iter().all(|lane| owners[*lane] == 5), "{owners:?}");

    let leaving = workers.remove(0);
    leaving.shutdown().await.unwrap();
    let left = std::time::Instant::now();
    settle(&workers, &[8, 8, 8, 8]).await;
    assert!(left.elapsed() < LEASE, "it gave its shards up; nobody waited for them to run out");
    for worker in workers {
        worker.shutdown().await.unwrap();
    }
    let owned = client.query_one("SELECT count(owner) FROM outbox_leases", &[]).await.unwrap();
    assert_eq!(owned.get::<_, i64>(0), 0);
}
