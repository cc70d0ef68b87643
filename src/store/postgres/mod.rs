//! The outbox in PostgreSQL.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use deadpool::managed::Object;
use diesel::result::QueryResult;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use self::connections::{Connections, Pool, Sweep, no_connection};
use super::migrate::{MigrationPlan, ProgressFn};
use super::{
    Acceptance, Action, Announcement, Backlog, Blocker, Care, CountMode, DeliveryRequest, EventCounts, EventFilter,
    FailureRecord, FetchRequest, FetchResult, FetchedDelivery, FetchedRow, HistoryBucket, LaneName, LeaseStore,
    NotInserted, NotifyStore, OutcomeCounts, OwedHandler, Page, PredecessorQuery, QueuePosition, RejectedDelivery,
    Resolution, Result, RetentionCutoff, ScanPage, Settled, SettledEvent, Shard, Store, TakeEvents, Unreadable,
    WorkerRow,
};
use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;
use crate::publish::{InsertResult, NewEvent};

mod admin;
mod adopt;
mod change;
mod connect;
mod connections;
mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
mod handlers;
mod history;
mod index_plans;
pub(crate) mod insert;
mod leases;
mod migrate;
mod notify;
mod overview;
#[cfg(test)]
mod plans_tests;
#[cfg(test)]
mod primary_tests;
mod pulse;
mod queue_position;
mod refusal;
pub(crate) mod row;
mod settle;
mod statement;
mod trigger;

pub(crate) use connect::Target;
use settle::{SettlePool, Settling};

/// The number of shards in a lane; `outbox_shard` masks with one less.
pub(crate) const SHARDS: i16 = 32;

/// The default number of connections for fetching, settling and publishing.
fn connections_for_this_machine() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors * 4).clamp(8, 32)
}

/// With more, the write-ahead log is the bottleneck, not the connections.
const MOST_SETTLES: usize = 8;

/// A time limit that no statement of ours reaches on a healthy server. A statement that does is abandoned together with its
/// connection, so that its late reply is never read.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// The limit for statements of operators, which may read the whole table.
const LONG_STATEMENT_LIMIT: Duration = Duration::from_secs(600);

/// Connections to one database.
pub(crate) struct PostgresStore {
    target: Arc<Target>,
    pool: Pool,
    /// For the statements that a worker repeats all the time; see `index_plans`.
    reading: Pool,
    settling: Settling,
    listening: Connections,
    /// The progress of the janitor's rounds.
    rounds: handlers::Rounds,
}

impl PostgresStore {
    /// Prepares pools; the first statement connects.
    pub(crate) fn new(target: Target, connections: Option<usize>) -> Result<Self> {
        let target = Arc::new(target);
        let connections = connections.unwrap_or_else(connections_for_this_machine);
        let reading = (connections / 2).max(1);
        let rest = connections.saturating_sub(reading);
        let settles = (rest / 2).clamp(1, MOST_SETTLES);
        let writing = rest.saturating_sub(settles).max(1);
        let pool = new_pool(&target, Connections::new(&target, writing), writing)?;
        let reading =
            new_pool(&target, Connections::with_planner_options(&target, reading, index_plans::READING), reading)?;
        let settling = Settling::new(SettlePool::new(&target, settles, &pool)?);
        let listening = Connections::new(&target, 1);
        Ok(Self { target, pool, reading, settling, listening, rounds: handlers::Rounds::default() })
    }

    /// Runs statements on a pooled connection, with a time limit.
    async fn run<T: Send>(
        &self,
        operation: &'static str,
        statements: impl for<'c> FnOnce(&'c mut AsyncPgConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
    ) -> Result<T> {
        self.run_within(STATEMENT_LIMIT, operation, statements).await
    }

    /// Runs statements on a pooled connection for reading, with a time limit.
    async fn read<T: Send>(
        &self,
        operation: &'static str,
        statements: impl for<'c> FnOnce(&'c mut AsyncPgConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
    ) -> Result<T> {
        self.read_within(STATEMENT_LIMIT, operation, statements).await
    }

    async fn read_within<T: Send>(
        &self,
        limit: Duration,
        operation: &'static str,
        statements: impl for<'c> FnOnce(&'c mut AsyncPgConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
    ) -> Result<T> {
        run_on(&self.target, &self.reading, limit, operation, statements).await
    }

    async fn run_within<T: Send>(
        &self,
        limit: Duration,
        operation: &'static str,
        statements: impl for<'c> FnOnce(&'c mut AsyncPgConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
    ) -> Result<T> {
        run_on(&self.target, &self.pool, limit, operation, statements).await
    }
}

async fn run_on<T: Send>(
    target: &Target,
    pool: &Pool,
    limit: Duration,
    operation: &'static str,
    statements: impl for<'c> FnOnce(&'c mut AsyncPgConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
) -> Result<T> {
    let _given_up = Sweep(pool);
    let mut conn = pool.get().await.map_err(|error| no_connection(target, error))?;
    conn.set_busy(true);
    let sent = Instant::now();
    let Ok(answer) = tokio::time::timeout(limit, statements(&mut conn)).await else {
        return Err(StoreError::Timeout { operation, limit });
    };
    conn.set_busy(false);
    if !PoolableConnection::is_broken(&mut **conn) {
        target.pulse.note_statement(sent);
    }
    let answer = answer.map_err(|error| target.query_error(operation, &error));
    if answer.as_ref().is_err_and(StoreError::is_transient) {
        drop(Object::take(conn));
    }
    answer
}

fn new_pool(target: &Target, manager: Connections, connections: usize) -> Result<Pool> {
    Pool::builder(manager)
        .max_size(connections)
        .runtime(deadpool::Runtime::Tokio1)
        .wait_timeout(Some(STATEMENT_LIMIT))
        .create_timeout(Some(connect::CONNECT_LIMIT * 2))
        .build()
        .map_err(|error| target.unreachable(error))
}

#[async_trait]
impl Store for PostgresStore {
    fn max_concurrent_settles(&self) -> usize {
        self.settling.pool.max_size()
    }

    fn shards(&self) -> i16 {
        SHARDS
    }

    async fn outbox_id(&self) -> Result<Uuid> {
        migrate::outbox_id(self).await
    }

    async fn plan_migration(&self) -> Result<MigrationPlan> {
        migrate::plan(&self.target).await
    }

    async fn migrate(&self, watch: &ProgressFn) -> Result<MigrationPlan> {
        migrate::migrate(&self.target, watch).await
    }

    async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<OutboxEvent>, PublishError> {
        admin::insert(self, events).await
    }

    async fn insert_each(&self, events: TakeEvents) -> Result<Vec<InsertResult>, NotInserted> {
        admin::insert_each(self, events).await
    }

    async fn refusal(&self, events: Vec<NewEvent>) -> Option<StoreError> {
        refusal::refusal(self, events).await
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<FetchResult> {
        fetch::fetch(self, request).await
    }

    async fn blockers(
        &self,
        lane: &str,
        failed_blocks: bool,
        questions: &[PredecessorQuery],
    ) -> Result<HashMap<String, Blocker>> {
        fetch::blockers(self, lane, failed_blocks, questions).await
    }

    async fn mark_failed_as_sent(&self, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>> {
        settle::sent_but_failed(self, sent).await
    }

    async fn find_unsettled(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>> {
        fetch::find_unsettled(self, lane, sent).await
    }

    async fn settle_published(&self, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>> {
        settle::published(self, events, care).await
    }

    async fn settle_rescheduled(&self, owner: Uuid, events: &[FailureRecord]) -> Result<Vec<SettledEvent>> {
        settle::rescheduled(self, owner, events).await
    }

    async fn announce(&self, handlers: &[Announcement]) -> Result<()> {
        handlers::announce(self, handlers).await
    }

    async fn see_handlers(&self, names: &[String]) -> Result<()> {
        handlers::see(self, names).await
    }

    async fn drop_handler(&self, name: &str) -> Result<usize> {
        handlers::drop_handler(self, name).await
    }

    async fn fetch_deliveries(&self, request: &DeliveryRequest) -> Result<Vec<FetchedDelivery>> {
        handlers::fetch(self, request).await
    }

    async fn settle_handled(&self, handled: &[(String, Uuid, i64)], care: Care) -> Result<Vec<Settled>> {
        handlers::handled(self, handled, care).await
    }

    async fn settle_rejected_deliveries(&self, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Vec<Settled>> {
        handlers::rejected(self, owner, rejected).await
    }

    async fn has_due_deliveries(&self, handlers: &[String]) -> Result<bool> {
        handlers::has_due(self, handlers).await
    }

    async fn owed_before(&self, lane: &str, keys: &[String]) -> Result<HashMap<String, Vec<String>>> {
        handlers::owed_before(self, lane, keys).await
    }

    async fn owed(&self) -> Result<Vec<OwedHandler>> {
        handlers::owed(self).await
    }

    async fn finish_settled(&self) -> Result<usize> {
        handlers::finish_settled(self).await
    }

    async fn raise_epoch(&self, owner: Uuid, shard: &Shard, epoch: i64, above: i64) -> Result<bool> {
        settle::raise_epoch(self, owner, shard, epoch, above).await
    }

    async fn has_due(&self, lanes: &[LaneName], failed_blocks: &[LaneName]) -> Result<bool> {
        fetch::has_due(self, lanes, failed_blocks).await
    }

    async fn repair_missing_seq(&self) -> Result<usize> {
        admin::repair_missing_seq(self).await
    }

    async fn delete_expired(&self, expiry: RetentionCutoff, failed_blocks: &[LaneName]) -> Result<usize> {
        admin::delete_expired(self, expiry, failed_blocks).await
    }

    async fn add_to_history(&self, outcomes: &[(String, OutcomeCounts)]) -> Result<()> {
        history::add(self, outcomes).await
    }

    async fn history(&self, span: Resolution, since: Duration) -> Result<Vec<HistoryBucket>> {
        history::read(self, span, since).await
    }

    async fn find(&self, id: Uuid) -> Result<Option<OutboxEvent>> {
        admin::find(self, id).await
    }

    fn epoch(&self) -> DateTime<Utc> {
        const YEAR_2000: i64 = 946_684_800;
        DateTime::from_timestamp_secs(YEAR_2000).unwrap_or(DateTime::UNIX_EPOCH)
    }

    async fn scan(&self, filter: &EventFilter, page: Page, most: i64) -> Result<ScanPage> {
        admin::scan(self, filter, page, most).await
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        admin::load(self, row::COLUMNS, ids).await
    }

    async fn load_without_data(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        admin::load(self, &row::COLUMNS_WITHOUT_DATA, ids).await
    }

    async fn change(&self, change: &Action, ids: &[Uuid]) -> Result<Vec<Uuid>> {
        change::change(self, change, ids).await
    }

    async fn overview(&self, counting: CountMode) -> Result<EventCounts> {
        overview::overview(self, counting).await
    }

    async fn due(&self) -> Result<Vec<Backlog>> {
        overview::due(self).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        overview::workers(self).await
    }

    async fn queue_position(&self, id: Uuid) -> Result<Option<QueuePosition>> {
        queue_position::queue_position(self, id).await
    }

    fn leases(&self) -> Box<dyn LeaseStore> {
        Box::new(leases::PostgresLeases::new(Arc::clone(&self.target)))
    }

    fn notify_store(&self) -> Option<&dyn NotifyStore> {
        Some(self)
    }
}
