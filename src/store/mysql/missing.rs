//! The roles that are not written yet: each answers with an error that says so.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::session::on_session;
use super::{MysqlStore, SHARDS, fetch};
use crate::error::StoreError;
use crate::store::{
    Acceptance, Blockers, Care, DispatchStore, DueLanes, FailureRecord, FetchRequest, FetchResult, FetchedRow,
    Heartbeat, LaneName, LeaseSnapshot, LeaseStore, PredecessorQuery, Result, RoutedEvent, Settled, SettledEvent,
    Shard,
};

fn missing(operation: &'static str) -> StoreError {
    let reason = "it is not supported on MariaDB and MySQL yet".to_owned();
    StoreError::Query { operation, reason, transient: false }
}

/// Leases, on a connection of their own.
pub(super) struct MysqlLeases;

#[async_trait]
impl LeaseStore for MysqlLeases {
    async fn beat(&mut self, _: &Heartbeat) -> Result<LeaseSnapshot> {
        Err(missing("beat"))
    }

    async fn has_free(&mut self, _: &[LaneName]) -> Result<bool> {
        Err(missing("has_free"))
    }

    async fn acquire(&mut self, _: Uuid, _: &LaneName, _: usize, _: Duration) -> Result<Vec<(Shard, i64)>> {
        Err(missing("acquire"))
    }

    async fn release(&mut self, _: Uuid, _: &[(Shard, i64)]) -> Result<()> {
        Err(missing("release"))
    }

    async fn leave(&mut self, _: Uuid) -> Result<()> {
        Err(missing("leave"))
    }
}

#[async_trait]
impl DispatchStore for MysqlStore {
    fn shards(&self) -> i16 {
        SHARDS
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<FetchResult> {
        on_session!(self.pool, "fetch due events", |session| fetch::fetch(session, request))
    }

    async fn blockers(&self, lane: &str, failed_blocks: bool, questions: &[PredecessorQuery]) -> Result<Blockers> {
        on_session!(self.pool, "find blockers", |session| fetch::find_blockers(session, lane, failed_blocks, questions))
    }

    async fn mark_failed_as_sent(&self, _: &[(Uuid, i64)]) -> Result<Vec<Settled>> {
        Err(missing("mark_failed_as_sent"))
    }

    async fn find_unsettled(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>> {
        on_session!(self.pool, "find unsettled events", |session| fetch::find_unsettled(session, lane, sent))
    }

    async fn settle_published(&self, _: &[Acceptance], _: Care) -> Result<Vec<SettledEvent>> {
        Err(missing("settle_published"))
    }

    async fn settle_rescheduled(&self, _: Uuid, _: &[FailureRecord]) -> Result<Vec<SettledEvent>> {
        Err(missing("settle_rescheduled"))
    }

    async fn route(&self, _: Uuid, _: &[RoutedEvent]) -> Result<Vec<Settled>> {
        Err(missing("route"))
    }

    async fn raise_epoch(&self, _: Uuid, _: &Shard, _: i64, _: i64) -> Result<bool> {
        Err(missing("raise_epoch"))
    }

    async fn due_lanes(&self, lanes: &[(LaneName, Vec<i16>)]) -> Result<DueLanes> {
        on_session!(self.pool, "find lanes with due events", |session| fetch::due_lanes(session, lanes))
    }

    async fn has_due(&self, lanes: &[LaneName], failed_blocks: &[LaneName]) -> Result<bool> {
        on_session!(self.pool, "check for due events", |session| fetch::has_due(session, lanes, failed_blocks))
    }
}
