//! The kinds of fault. Each causes the fault and undoes it before it returns.

mod consumers;
mod failover;
mod long;
mod network;
mod postgres;
mod redis;
mod upgrade;
mod workers;

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;

use crate::deployment::{Deployment, Pace};

/// The longest duration of the other faults.
const SHORT: Duration = Duration::from_secs(10);

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
    /// Redis read-only, or without the replicas that it requires
    ReadOnly,
    /// Connections cut in the middle of a request or a reply
    Cut,
    /// Requests that are delivered and whose replies are lost
    LostReply,
    /// Requests or replies that are delayed by seconds
    Stall,
    /// Replies that are delayed by different times
    Delay,
    /// A worker's requests arrive after it is dead and another worker owns its shards
    Late,
    /// PostgreSQL frozen for longer than every limit
    PostgresFrozen,
    /// Redis frozen for longer than every limit
    RedisFrozen,
    /// Events, leases or heartbeats locked for longer than every limit
    LongLock,
    /// Rows of each locked for longer than every limit
    RowLock,
    /// A snapshot held for longer than every limit
    LongHorizon,
    /// A synchronous standby that stalls, and is then promoted
    SyncFailover,
    /// A failover to an asynchronous standby that lags
    LaggingFailover,
    /// Workers of an older version next to these, and back; OUTBOX_FAULTS_OLDER names its program
    Upgrade,
    /// One of three NATS servers killed, and started again
    NatsRestart,
    /// The stream's leader moved to another NATS server
    LeaderMoved,
    /// A stream of JetStream that takes no more messages
    StreamFull,
    /// The right to publish into the stream taken and given back
    RightTaken,
    /// SIGKILL of a consumer
    ConsumerKill,
    /// SIGTERM of a consumer
    ConsumerTerminate,
    /// SIGSTOP of a consumer for longer than its lease and `reclaim_after`, then SIGCONT
    ConsumerStop,
    /// A consumer's connections to Redis or to its database cut, or requests or replies held or lost
    ConsumerCut,
    /// A consumer's requests arrive after it is dead and others have its partitions
    ConsumerLate,
    /// A fourth consumer added and removed
    ConsumerMembership,
    /// The consumers' database stopped, fast or immediately, and started again
    EffectsRestart,
}

impl Kind {
    /// Those with Redis.
    pub(crate) const ALL: [Self; 29] = [
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
        Self::PostgresFrozen,
        Self::RedisFrozen,
        Self::LongLock,
        Self::RowLock,
        Self::LongHorizon,
        Self::SyncFailover,
        Self::LaggingFailover,
        Self::Upgrade,
    ];

    /// Whether it lasts longer than every limit in the code.
    pub(crate) fn is_long(self) -> bool {
        matches!(self, Self::PostgresFrozen | Self::RedisFrozen | Self::LongLock | Self::RowLock | Self::LongHorizon)
            || self.is_for_itself()
    }

    /// Whether it replaces the server, or all workers.
    pub(crate) fn is_for_itself(self) -> bool {
        matches!(self, Self::SyncFailover | Self::LaggingFailover | Self::Upgrade)
    }

    /// Whether it needs JetStream in Redis' place.
    pub(crate) fn is_of_nats(self) -> bool {
        matches!(self, Self::NatsRestart | Self::LeaderMoved | Self::StreamFull | Self::RightTaken)
    }

    /// Whether it needs consumers.
    pub(crate) fn is_of_consumers(self) -> bool {
        matches!(
            self,
            Self::ConsumerKill
                | Self::ConsumerTerminate
                | Self::ConsumerStop
                | Self::ConsumerCut
                | Self::ConsumerLate
                | Self::ConsumerMembership
                | Self::EffectsRestart
        )
    }

    /// Why it cannot run here.
    pub(crate) fn is_missing(self) -> Option<&'static str> {
        if self.is_of_nats() {
            return Some("it is of the phase `nats`");
        }
        if self.is_of_consumers() {
            return Some("it is of the phase `consumers`");
        }
        let missing = self == Self::Upgrade && upgrade::older_program().is_none();
        missing.then_some("OUTBOX_FAULTS_OLDER does not name the program of an older version")
    }

    /// How long it may last.
    pub(crate) fn longest(self, pace: Pace) -> Duration {
        // A standby is created and promoted.
        let replacing = Duration::from_secs(if self.is_for_itself() { 15 } else { 0 });
        if self.is_long() { pace.long().1 + replacing } else { SHORT }
    }

    pub(crate) async fn inflict(self, deployment: &Deployment, rng: &mut StdRng) {
        match self {
            Self::Kill => workers::kill(deployment, rng).await,
            Self::Terminate => workers::terminate(deployment, rng).await,
            Self::Stop => workers::stop_for_longer_than_the_lease(deployment, rng).await,
            Self::Clock => workers::set_a_clock_wrong(deployment, rng).await,
            Self::Membership => workers::add_or_remove(deployment, rng).await,
            Self::PostgresBackend => postgres::terminate_a_backend(deployment, rng).await,
            Self::PostgresRestart => postgres::restart(deployment, rng).await,
            Self::PostgresPassword => postgres::change_the_password(deployment, rng).await,
            Self::Horizon => postgres::pin_the_horizon(deployment, rng).await,
            Self::Lock => postgres::lock_a_table(deployment, rng).await,
            Self::Vacuum => postgres::vacuum(deployment, rng).await,
            Self::RedisRestart => redis::restart(deployment, rng).await,
            Self::RedisClients => redis::kill_the_clients(deployment, rng).await,
            Self::RedisPassword => redis::change_the_password(deployment, rng).await,
            Self::Memory => redis::run_out_of_memory(deployment, rng).await,
            Self::ReadOnly => redis::refuse_writes(deployment, rng).await,
            Self::Cut => network::cut(deployment, rng).await,
            Self::LostReply => network::lose_replies(deployment, rng).await,
            Self::Stall => network::stall(deployment, rng).await,
            Self::Delay => network::delay(deployment, rng).await,
            Self::Late => network::deliver_late_what_a_dead_worker_sent(deployment, rng).await,
            Self::PostgresFrozen => long::freeze_postgres(deployment, rng).await,
            Self::RedisFrozen => long::freeze_redis(deployment, rng).await,
            Self::LongLock => long::lock_a_table(deployment, rng).await,
            Self::RowLock => long::lock_rows(deployment, rng).await,
            Self::LongHorizon => long::hold_a_snapshot(deployment, rng).await,
            Self::SyncFailover => failover::to_a_stalled_synchronous_standby(deployment, rng).await,
            Self::LaggingFailover => failover::to_a_lagging_standby(deployment, rng).await,
            Self::Upgrade => upgrade::roll(deployment, rng).await,
            Self::NatsRestart | Self::LeaderMoved | Self::StreamFull | Self::RightTaken => {
                unreachable!("{self} needs JetStream")
            }
            Self::ConsumerKill => consumers::kill(deployment, rng).await,
            Self::ConsumerTerminate => consumers::terminate(deployment, rng).await,
            Self::ConsumerStop => consumers::stop(deployment, rng).await,
            Self::ConsumerCut => consumers::cut(deployment, rng).await,
            Self::ConsumerLate => consumers::deliver_late_what_a_dead_one_sent(deployment, rng).await,
            Self::ConsumerMembership => consumers::add_or_remove(deployment, rng).await,
            Self::EffectsRestart => consumers::restart_the_database(deployment, rng).await,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().unwrap().get_name())
    }
}

/// Waits for a random number of milliseconds in this range.
async fn pass(rng: &mut StdRng, least: u64, most: u64) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(least..=most))).await;
}
