//! The handlers of a mixed load: three services with partly the same handlers, and guests without any.

use std::collections::HashMap;

use uuid::Uuid;

use super::plan::Plan;
use crate::support::{PATIENCE, eventually};

pub(crate) const HANDLED_TYPE: &str = "thing.handled";
pub(crate) const BILLED_TYPE: &str = "thing.billed";

/// A handler by its name, and the types of its events.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) types: &'static [&'static str],
}

pub(crate) const ALL: [Kind; 3] = [
    Kind { name: "mailer", types: &[HANDLED_TYPE] },
    Kind { name: "biller", types: &[BILLED_TYPE] },
    Kind { name: "auditor", types: &[HANDLED_TYPE, BILLED_TYPE] },
];

/// The events that each handler handled, in order.
pub(crate) type Handled = HashMap<&'static str, Vec<Uuid>>;

impl Kind {
    pub(crate) fn wants(&self, plan: &Plan) -> bool {
        self.types.contains(&plan.event_type)
    }

    /// The file in which the handler records its events.
    pub(crate) fn notes(&self) -> String {
        format!("handled-by-{}", self.name)
    }
}

/// The handlers of the service in a slot. A new deployment adds a handler and removes it again; each handler has a service
/// that always runs it.
pub(crate) fn of_service(slot: usize, deployment: usize) -> &'static [&'static str] {
    match (slot, deployment % 2) {
        (0, _) => &["mailer"],
        (1, 0) => &["biller", "mailer"],
        (1, _) => &["biller"],
        (2, 0) => &["auditor"],
        (2, _) => &["auditor", "biller"],
        _ => &[],
    }
}

/// Events committed after this wait for all of them.
pub(crate) async fn wait_until_announced(client: &tokio_postgres::Client) {
    eventually("every handler is registered", PATIENCE, async || {
        let row = client.query_one("SELECT count(*) FROM outbox_handlers", &[]).await.unwrap();
        row.get::<_, i64>(0) == ALL.len() as i64
    })
    .await;
}
