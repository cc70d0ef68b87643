//! Faults of Redis. It never loses acknowledged writes.

use rand::Rng;
use rand::rngs::StdRng;
use redis::aio::MultiplexedConnection;
use tokio::task::block_in_place;

use super::pass;
use crate::deployment::{Deployment, PASSWORD};

async fn say(redis: &mut MultiplexedConnection, command: &str) {
    let mut words = command.split(' ');
    let mut request = ::redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        request.arg(word);
    });
    request.query_async::<()>(redis).await.unwrap_or_else(|error| panic!("{command}: {error}"));
}

pub(super) async fn restart(deployment: &Deployment, rng: &mut StdRng) {
    let mut server = deployment.redis.lock().await;
    let orderly = rng.random();
    block_in_place(|| if orderly { server.stop() } else { server.kill() });
    pass(rng, 0, 2_500).await;
    block_in_place(|| server.start_again());
}

pub(super) async fn kill_the_clients(deployment: &Deployment, _: &mut StdRng) {
    let _server = deployment.redis.lock().await;
    say(&mut deployment.redis().await, "CLIENT KILL TYPE normal SKIPME yes").await;
}

pub(super) async fn change_the_password(deployment: &Deployment, rng: &mut StdRng) {
    let _server = deployment.redis.lock().await;
    let mut redis = deployment.redis().await;
    say(&mut redis, "CONFIG SET requirepass another").await;
    say(&mut redis, "CLIENT KILL TYPE normal SKIPME yes").await;
    pass(rng, 500, 4_000).await;
    say(&mut redis, &format!("CONFIG SET requirepass {PASSWORD}")).await;
}

pub(super) async fn run_out_of_memory(deployment: &Deployment, rng: &mut StdRng) {
    let _server = deployment.redis.lock().await;
    let mut redis = deployment.redis().await;
    say(&mut redis, "CONFIG SET maxmemory-policy noeviction").await;
    let now = used_memory(&mut redis).await;
    // Immediately, or in the middle of a later batch.
    let most = if rng.random() { 1 } else { now + rng.random_range(0..50_000) };
    say(&mut redis, &format!("CONFIG SET maxmemory {most}")).await;
    pass(rng, 500, 4_000).await;
    say(&mut redis, "CONFIG SET maxmemory 0").await;
}

async fn used_memory(redis: &mut MultiplexedConnection) -> u64 {
    let info: String = ::redis::cmd("INFO").arg("memory").query_async(redis).await.unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

pub(super) async fn refuse_writes(deployment: &Deployment, rng: &mut StdRng) {
    let _server = deployment.redis.lock().await;
    let mut redis = deployment.redis().await;
    let (refuse, accept) = if rng.random() {
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE")
    } else {
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0")
    };
    say(&mut redis, refuse).await;
    pass(rng, 500, 4_000).await;
    say(&mut redis, accept).await;
}
