//! Failovers to a standby.

use std::collections::HashMap;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::task::block_in_place;
use uuid::Uuid;

use super::{long, pass};
use crate::deployment::Deployment;
use crate::reconcile::Losses;
use crate::support::postgres::replication::Replication;
use crate::support::postgres::{self, Server, Stop};

/// Commits wait for a standby that is frozen or stopped; the primary dies, and the standby is promoted.
pub(super) async fn to_a_stalled_synchronous_standby(deployment: &Deployment, rng: &mut StdRng) {
    let mut primary = deployment.postgres.lock().await;
    let mut standby = primary.standby(Replication::Synchronous).await;
    pass(rng, 500, 3_000).await;
    let frozen = rng.random();
    block_in_place(|| if frozen { standby.freeze() } else { standby.stop(Stop::Immediate) });
    long::pass_long(deployment, rng).await;
    block_in_place(|| {
        primary.stop(Stop::Immediate);
        if frozen { standby.thaw() } else { standby.start_again() }
    });
    standby.promote().await;
    deployment.lead_to(&standby).await;
    *primary = standby;
}

/// A lagging standby is promoted. Only the commits that it lacks may be lost.
pub(super) async fn to_a_lagging_standby(deployment: &Deployment, rng: &mut StdRng) {
    let mut primary = deployment.postgres.lock().await;
    let mut standby = primary.standby(Replication::Asynchronous).await;
    pass(rng, 500, 3_000).await;
    standby.set("primary_conninfo", "''").await;
    pass(rng, 200, 3_000).await;
    block_in_place(|| primary.stop(Stop::Immediate));
    standby.promote().await;
    let new = events(deployment, &standby).await;
    deployment.lead_to(&standby).await;
    std::mem::swap(&mut *primary, &mut standby);
    let mut old = standby;
    // No client can reach it any more.
    block_in_place(|| old.start_again());
    let losses = Losses::between(&events(deployment, &old).await, &new);
    deployment.notes().losses.add(losses);
}

/// Each event, and whether it is recorded as published.
async fn events(deployment: &Deployment, server: &Server) -> HashMap<Uuid, bool> {
    let sql = postgres::connect(&server.url(deployment.database())).await;
    let rows = sql.query("SELECT id, is_published FROM written", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
