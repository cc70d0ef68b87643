//! Several whole systems share one Postgres.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::clock::BootInstant;
use crate::settings::{PublisherSettings, Settings, WorkerSettings};
use crate::store::Shard;
use crate::test_support::postgres::{self, Database};
use crate::test_support::proxy::{Passage, Proxy};
use crate::test_support::{PATIENCE, eventually};

const SHARDS: usize = 32;
const LEASE: Duration = Duration::from_secs(3);

/// The lanes of a default publisher: the unnamed one, and its own.
const LANES: [&str; 2] = ["", "default"];

async fn join(database: &Database, name: &str) -> Outbox {
    join_with_lease(database, name, LEASE).await
}

async fn join_with_lease(database: &Database, name: &str, lease: Duration) -> Outbox {
    join_at(&database.url, name, |worker| worker.lease = lease).await
}

async fn join_at(url: &str, name: &str, change: impl FnOnce(&mut WorkerSettings)) -> Outbox {
    let mut settings = Settings::default();
    settings.database.url = url.into();
    let local = PublisherSettings { backend: "local".to_owned(), ..PublisherSettings::default() };
    settings.publishers.insert("default".to_owned(), local);
    settings.worker.name = Some(name.to_owned());
    change(&mut settings.worker);
    OutboxSystem::builder(settings).migrate(true).start().await.unwrap()
}

/// The shards that each worker may read at this moment.
fn held(workers: &[Outbox]) -> Vec<HashSet<(Shard, i64)>> {
    let now = BootInstant::now();
    let leases = |worker: &Outbox| -> HashSet<(Shard, i64)> {
        LANES.iter().flat_map(|lane| worker.context.leases.readable(lane, now)).collect()
    };
    workers.iter().map(leases).collect()
}

/// Reads every worker twice: what one worker holds both times, another must not hold in between.
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

/// Waits until every shard is owned and no worker has more than the fair share; checks for double ownership all the while.
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
            let context = counts.iter().sum::<usize>() == SHARDS && counts.iter().all(|count| *count <= fair);
            context && (expected.is_empty() || counts == expected)
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
    let query = "SELECT backend, owner, count(*) FROM outbox_running_leases GROUP BY backend, owner";
    let rows = client.query(query, &[]).await.unwrap();
    let mut owners: HashMap<String, usize> = HashMap::new();
    rows.iter().for_each(|row| *owners.entry(row.get(0)).or_default() += 1);
    assert!(LANES.iter().all(|lane| owners[*lane] == 5), "{owners:?}");

    let leaving = workers.remove(0);
    leaving.shutdown().await.unwrap();
    let left = std::time::Instant::now();
    settle(&workers, &[8, 8, 8, 8]).await;
    assert!(left.elapsed() < LEASE, "it released its shards; no worker waited for them to expire");
    for worker in workers {
        worker.shutdown().await.unwrap();
        assert!(worker.context.leases.counts().is_empty(), "it acts on no shard that it released");
    }
    let owned = client.query_one("SELECT count(*) FROM outbox_running_leases", &[]).await.unwrap();
    assert_eq!(owned.get::<_, i64>(0), 0);
}

/// The epoch under which a worker may read a shard of the unnamed lane.
fn epoch_of(worker: &Outbox, number: i16) -> Option<i64> {
    let leases = worker.context.leases.readable("", BootInstant::now());
    leases.into_iter().find(|(shard, _)| shard.number == number).map(|(_, epoch)| epoch)
}

#[actix::test]
async fn a_lease_that_names_a_worker_without_its_knowing_is_taken_anew() {
    let database = postgres::database().await;
    let workers = [join(&database, "1").await, join(&database, "2").await];
    settle(&workers, &[16, 16]).await;
    // As if a statement of the first worker that takes a lease had been delayed until the second lost the shard.
    let (unknowing, owner) = (workers[0].context.worker, workers[1].context.worker);
    let client = database.connect().await;
    let statement = format!(
        "UPDATE outbox_leases SET owner = '{unknowing}', epoch = 41 \
         WHERE backend = '' AND shard = (SELECT min(shard) FROM outbox_leases WHERE backend = '' AND owner = '{owner}') \
         RETURNING shard"
    );
    let number: i16 = client.query_one(&statement, &[]).await.unwrap().get(0);
    eventually("a worker reads it under a newer epoch", PATIENCE, async || {
        workers.iter().any(|worker| epoch_of(worker, number) > Some(41))
    })
    .await;
    settle(&workers, &[16, 16]).await;
    for worker in workers {
        worker.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn a_lease_whose_epoch_was_raised_is_read_again_under_a_newer_one() {
    let database = postgres::database().await;
    // With this lease time, waiting until it expires would not help.
    let workers = [join_with_lease(&database, "1", Duration::from_secs(3600)).await];
    settle(&workers, &[32]).await;
    let context = &workers[0].context;
    let (shard, epoch) = context.leases.readable("", BootInstant::now()).into_iter().next().unwrap();
    assert!(context.store.raise_epoch(context.worker, &shard, epoch, 40).await.unwrap());
    context.wakeups.heartbeat.notify_one();
    eventually("it is read again", PATIENCE, async || epoch_of(&workers[0], shard.number) > Some(40)).await;
    workers[0].shutdown().await.unwrap();
}

#[actix::test]
async fn shards_released_while_the_database_is_away_are_taken_soon_after() {
    let database = postgres::database().await;
    let mut url = url::Url::parse(&database.url).unwrap();
    let proxy = Proxy::to(url.port().unwrap()).await;
    url.set_port(Some(proxy.port())).unwrap();
    // Nothing is looked for again while this test waits.
    let sleepy = |worker: &mut WorkerSettings| {
        (worker.poll_interval, worker.lease) = (Duration::from_secs(3600), Duration::from_secs(3 * 3600));
    };
    let leaving = join_at(&database.url, "1", sleepy).await;
    settle(std::slice::from_ref(&leaving), &[32]).await;
    let staying = [join_at(url.as_str(), "2", sleepy).await];
    let has_joined = "SELECT count(*) FROM outbox_workers WHERE name = '2'";
    let client = database.connect().await;
    eventually("it has joined", PATIENCE, async || {
        client.query_one(has_joined, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    proxy.set(Passage::CutInRequest(0));
    leaving.shutdown().await.unwrap();
    proxy.set(Passage::Open);
    settle(&staying, &[32]).await;
    staying[0].shutdown().await.unwrap();
}
