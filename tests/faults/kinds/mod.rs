//! The kinds of fault. Each does its harm and undoes it, so that everything works again when it returns.

mod network;
mod postgres;
mod redis;
mod workers;

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;

use crate::scene::Scene;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// SIGKILL of a worker
    Kill,
    /// SIGTERM of a worker
    Terminate,
    /// SIGSTOP of a worker for longer than its lease, then SIGCONT
    Stop,
    /// A worker under a clock that is an hour off
    Clock,
    /// Workers added and removed
    Membership,
    /// A worker's backend in PostgreSQL terminated
    PostgresBackend,
    /// PostgreSQL stopped, fast or immediately, and started again
    PostgresRestart,
    /// The workers' password in PostgreSQL changed and changed back
    PostgresPassword,
    /// A long transaction that pins the horizon
    Horizon,
    /// A table locked for seconds
    Lock,
    /// VACUUM, slow or FULL
    Vacuum,
    /// Redis stopped or killed, and started again
    RedisRestart,
    /// Every client's connection to Redis killed
    RedisClients,
    /// Redis' password changed and changed back
    RedisPassword,
    /// Redis out of memory
    Memory,
    /// Redis read-only, or without the replicas that it asks for
    ReadOnly,
    /// Connections cut in the middle of a request or a reply
    Cut,
    /// Requests that go through and whose replies do not
    LostReply,
    /// Requests or replies that come seconds later
    Stall,
    /// Replies that come late, each by a time of its own
    Delay,
    /// What a worker sent arrives when it is dead and its share is another's
    Late,
}

impl Kind {
    pub(crate) const ALL: [Self; 21] = [
        Self::Kill,
        Self::Terminate,
        Self::Stop,
        Self::Clock,
        Self::Membership,
        Self::PostgresBackend,
        Self::PostgresRestart,
        Self::PostgresPassword,
        Self::Horizon,
        Self::Lock,
        Self::Vacuum,
        Self::RedisRestart,
        Self::RedisClients,
        Self::RedisPassword,
        Self::Memory,
        Self::ReadOnly,
        Self::Cut,
        Self::LostReply,
        Self::Stall,
        Self::Delay,
        Self::Late,
    ];

    pub(crate) async fn inflict(self, scene: &Scene, rng: &mut StdRng) {
        match self {
            Self::Kill => workers::kill(scene, rng).await,
            Self::Terminate => workers::terminate(scene, rng).await,
            Self::Stop => workers::stop_for_longer_than_the_lease(scene, rng).await,
            Self::Clock => workers::set_a_clock_wrong(scene, rng).await,
            Self::Membership => workers::add_or_remove(scene, rng).await,
            Self::PostgresBackend => postgres::terminate_a_backend(scene, rng).await,
            Self::PostgresRestart => postgres::restart(scene, rng).await,
            Self::PostgresPassword => postgres::change_the_password(scene, rng).await,
            Self::Horizon => postgres::pin_the_horizon(scene, rng).await,
            Self::Lock => postgres::lock_a_table(scene, rng).await,
            Self::Vacuum => postgres::vacuum(scene, rng).await,
            Self::RedisRestart => redis::restart(scene, rng).await,
            Self::RedisClients => redis::kill_the_clients(scene, rng).await,
            Self::RedisPassword => redis::change_the_password(scene, rng).await,
            Self::Memory => redis::run_out_of_memory(scene, rng).await,
            Self::ReadOnly => redis::refuse_writes(scene, rng).await,
            Self::Cut => network::cut(scene, rng).await,
            Self::LostReply => network::lose_replies(scene, rng).await,
            Self::Stall => network::stall(scene, rng).await,
            Self::Delay => network::delay(scene, rng).await,
            Self::Late => network::deliver_late_what_a_dead_worker_sent(scene, rng).await,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().unwrap().get_name())
    }
}

/// Lets between so many milliseconds go by.
async fn pass(rng: &mut StdRng, least: u64, most: u64) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(least..=most))).await;
}
