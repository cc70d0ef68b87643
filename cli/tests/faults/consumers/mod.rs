//! Faults of consumers, which record the effect of each event in a database of their own: examples/inbox_consumer.rs.

mod database;
mod phase;
mod program;
mod rules;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::block_in_place;

use self::database::Effects;
pub(crate) use self::phase::{Guarantee, KINDS};
use crate::deployment::Deployment;
use crate::support::postgres;
use crate::support::process::{Running, Signal};
use crate::support::proxy::Passage;
use crate::support::unique;
use crate::worker_slots::{Worker, WorkerSlot};

/// Consumers that always run.
pub(crate) const CONSUMERS: usize = 3;
/// Further consumers that start and stop.
pub(crate) const GUESTS: usize = 1;
pub(crate) const PARTITIONS: u32 = 16;

/// The way to the effects between faults: handlers take a while, so that a fault meets some of them.
pub(crate) const SLOW: Passage = Passage::Delay(Duration::from_millis(8));

/// The consumers of one group, a proxy between each and its servers, and their database.
pub(crate) struct Consumers {
    /// A slot's proxy to PostgreSQL leads to the effects.
    pub(crate) slots: Vec<WorkerSlot>,
    /// A fault locks the server, so that it is undone before the next fault of the server begins.
    pub(crate) postgres: Mutex<postgres::Server>,
    pub(crate) effects: Effects,
    is_without_inbox: AtomicBool,
}

impl Consumers {
    pub(crate) async fn new(deployment: &Deployment) -> Self {
        let postgres = block_in_place(postgres::Server::start);
        let effects = Effects::new(deployment, &postgres).await;
        let redis = deployment.redis.lock().await.port();
        let mut slots = Vec::new();
        for number in 0..CONSUMERS + GUESTS {
            let slot = WorkerSlot::new(number, postgres.port(), redis).await;
            program::configure(deployment, &slot);
            slot.to_postgres.lock().await.set(SLOW);
            slots.push(slot);
        }
        Self { slots, postgres: Mutex::new(postgres), effects, is_without_inbox: AtomicBool::new(false) }
    }

    /// The consumers that are started from now on note nothing in the inbox.
    pub(crate) fn go_without_inbox(&self) {
        self.is_without_inbox.store(true, Ordering::Relaxed);
    }

    pub(crate) async fn dump(&self) -> String {
        self.effects.dump().await
    }
}

impl Deployment {
    /// Starts a consumer. Its process has the slot's settings.
    pub(crate) fn consumer(&self, slot: &WorkerSlot) -> Worker {
        let consumers = self.consumers();
        let mut command = program::command(self, slot);
        command.env("EFFECTS_URL", consumers.effects.address(slot));
        if consumers.is_without_inbox.load(Ordering::Relaxed) {
            command.env("WITHOUT_INBOX", "1");
        }
        let running = Running::spawn(&mut command);
        self.processes.lock().unwrap().push(running.id());
        Worker { name: unique(&format!("consumer-{}", slot.number)), running }
    }

    pub(crate) async fn start_consumers(&self) {
        for slot in &self.consumers().slots[..CONSUMERS] {
            *slot.worker.lock().await = Some(self.consumer(slot));
        }
    }

    /// Locks the slot and its consumer, which is replaced if it has ended by itself.
    pub(crate) async fn consumer_at(&self, slot: usize) -> (&WorkerSlot, MutexGuard<'_, Option<Worker>>) {
        let slot = &self.consumers().slots[slot];
        let mut consumer = slot.worker.lock().await;
        if let Some(ended) = consumer.take_if(|consumer| !consumer.running.is_running()) {
            self.note_death(ended);
            *consumer = Some(self.consumer(slot));
        }
        (slot, consumer)
    }

    /// Ends all consumers gracefully.
    pub(crate) async fn stop_consumers(&self) {
        let stopping = (0..self.consumers().slots.len()).map(async |slot| {
            let (_, mut consumer) = self.consumer_at(slot).await;
            self.end(&mut consumer, Signal::TERM).await;
        });
        join_all(stopping).await;
    }
}
