//! The consumers' database: the table of effects, and the inbox.

use std::collections::HashSet;

use tokio_postgres::Client;
use uuid::Uuid;

use crate::deployment::Deployment;
use crate::support::postgres::{self, Database};
use crate::worker_slots::WorkerSlot;

/// The table of examples/inbox_consumer.rs.
const TABLE: &str = "CREATE TABLE effects (position bigserial PRIMARY KEY, process int, event_id uuid, key text,
    at timestamptz DEFAULT clock_timestamp())";

pub(crate) struct Effects {
    database: Database,
    /// The address, except for its port.
    path: String,
}

impl Effects {
    pub(super) async fn new(deployment: &Deployment, server: &postgres::Server) -> Self {
        let database = server.database().await;
        let mut migrate = deployment.operate(&["migrate", "--inbox", "--database-url", &database.url]);
        let migrated = migrate.output().unwrap();
        assert!(migrated.status.success(), "outbox migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        database.connect().await.batch_execute(TABLE).await.unwrap();
        let path = format!("{}?sslmode=disable", database.name);
        Self { database, path }
    }

    /// The address for the consumers in this slot.
    pub(super) fn address(&self, slot: &WorkerSlot) -> String {
        format!("postgres://outbox@127.0.0.1:{}/{}", slot.ports.0, self.path)
    }

    pub(crate) async fn connect(&self) -> Client {
        self.database.connect().await
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.connect().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// The events whose effect there is, in the order of the effects.
    pub(crate) async fn events(&self) -> Vec<Uuid> {
        let rows = self.connect().await.query("SELECT event_id FROM effects ORDER BY position", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub(super) async fn dump(&self) -> String {
        let effects =
            "SELECT concat_ws(' ', position, process, event_id, at::time, key) FROM effects ORDER BY position";
        let rows = self.connect().await.query(effects, &[]).await.unwrap();
        let effects: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        format!("=== the effects\n{}\n", effects.join("\n"))
    }
}

/// The events without their repetitions, and how many there are of these.
pub(super) fn first_effects(events: &[Uuid]) -> (Vec<Uuid>, usize) {
    let mut met = HashSet::new();
    let first: Vec<Uuid> = events.iter().filter(|id| met.insert(**id)).copied().collect();
    let repeated = events.len() - first.len();
    (first, repeated)
}

#[test]
fn repetitions_are_counted_and_left_out() {
    let ids = [1, 2, 1, 3, 2, 2].map(Uuid::from_u128);
    assert_eq!(first_effects(&ids), ([1, 2, 3].map(Uuid::from_u128).to_vec(), 3));
}
