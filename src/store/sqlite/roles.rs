//! The roles of the store, by the modules that fulfil them.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::SqliteConnection;
use diesel::result::Error;
use uuid::Uuid;

use super::connection::Connection;
use super::error::describe_failure;
use super::leases::SqliteLeases;
use super::row::Row;
use super::{
    LEASES_BUSY_TIMEOUT, SqliteStore, admin, audit, change, claimed, data, fetch, handlers, history, inbox, leases,
    migrations, order, overview, pauses, queue_position, retention, route, row, settle, waits,
};
use crate::blocking;
use crate::error::{PublishError, StoreError};
use crate::event::{OutboxEvent, Status};
use crate::publish::{InsertResult, NewEvent, prepare_all};
use crate::store::inbox::missing;
use crate::store::migrate::{MigrationPlan, ProgressFn};
use crate::store::{
    Acceptance, Action, AdminStore, Announcement, ApplicationKind, ApplicationTarget, AuditEntry, AuditNote, AuditRow,
    BackendPause, Backlog, Blocker, Blockers, Care, CountMode, DataPart, DatabaseFacts, DeliveryRequest, DispatchStore,
    DueLanes, EventCounts, EventFilter, EventWriter, ExpiredBatch, FailureRecord, FetchRequest, FetchResult,
    FetchedDelivery, FetchedRow, HandledDelivery, HandlerStore, HistoryBucket, LaneClaim, LaneName, LeaseStore,
    MaintenanceStore, NewPause, NotInserted, NotifyStore, OutcomeCounts, OwedHandler, Page, PredecessorQuery,
    QueuePosition, RejectedDelivery, Resolution, Result, RetentionCursor, RetentionCutoff, RoutedEvent, ScanPage,
    SchemaStore, Settled, SettledEvent, Shard, Store, TakeEvents, Unreadable, UnrecordedEvents, Wait, WaitQuery,
    WorkerRow,
};

#[async_trait]
impl SchemaStore for SqliteStore {
    async fn outbox_id(&self) -> Result<Uuid> {
        let id = self.reader.run("read the outbox's id", migrations::read_outbox_id).await?;
        id.map_err(|state| self.location.not_migrated(state))
    }

    async fn plan_migration(&self) -> Result<MigrationPlan> {
        if !self.location.exists() {
            return Ok(migrations::plan_all());
        }
        self.reader.run("plan the migration", migrations::plan).await
    }

    async fn migrate(&self, _watch: &ProgressFn) -> Result<MigrationPlan> {
        let target = self.location.target.clone();
        self.writer
            .run_in_any_file("migrate", move |connection| {
                migrations::migrate(connection).map_err(|error| describe_failure(&target, "migrate", error))
            })
            .await
    }

    async fn plan_inbox(&self) -> Result<MigrationPlan> {
        if !self.location.exists() {
            return Ok(inbox::plan_all());
        }
        let location = self.location.clone();
        self.reader.run_as(inbox::MIGRATE, move |connection| inbox::plan(connection, &location)).await
    }

    async fn migrate_inbox(&self) -> Result<MigrationPlan> {
        let location = self.location.clone();
        self.writer.run_in_any_file(inbox::MIGRATE, move |connection| inbox::migrate(connection, &location)).await
    }
}

#[async_trait]
impl EventWriter for SqliteStore {
    async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<OutboxEvent>, PublishError> {
        self.writer
            .run_as("write events", |connection| {
                connection.immediate_transaction(|connection| blocking::publish_many(connection, events))
            })
            .await
    }

    async fn insert_each(&self, events: TakeEvents) -> Result<Vec<InsertResult>, NotInserted> {
        let write = |connection: &mut SqliteConnection| {
            connection
                .immediate_transaction(|connection| Ok(blocking::insert_ready(connection, prepare_all(events())?)?))
        };
        self.writer.run_as("write events", write).await.map_err(|error| match error {
            PublishError::Store(StoreError::Timeout { .. } | StoreError::Unreachable { .. }) => {
                NotInserted::InDoubt(error)
            }
            _ => NotInserted::Answered(error),
        })
    }

    async fn refusal(&self, events: Vec<NewEvent>) -> Option<StoreError> {
        let insert_and_roll_back = |connection: &mut SqliteConnection| {
            let said = connection.immediate_transaction(|connection| {
                blocking::insert_ready(connection, prepare_all(events).unwrap_or_default())?;
                Err::<(), _>(Error::RollbackTransaction)
            });
            Ok(said.err().filter(|error| !matches!(error, Error::RollbackTransaction)))
        };
        let said = self.writer.run("write events", insert_and_roll_back).await.ok()??;
        let failure = describe_failure(&self.location.target, "write events", said);
        matches!(failure, StoreError::Query { transient: false, .. }).then_some(failure)
    }
}

#[async_trait]
impl DispatchStore for SqliteStore {
    fn shards(&self) -> i16 {
        1
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<FetchResult> {
        let request = request.clone();
        self.reader.run("fetch due events", move |connection| fetch::fetch_due(connection, &request)).await
    }

    async fn blockers(&self, lane: &str, failed_blocks: bool, questions: &[PredecessorQuery]) -> Result<Blockers> {
        let (lane, questions) = (lane.to_owned(), questions.to_vec());
        self.reader
            .run("find blockers", move |connection| order::find_blockers(connection, &lane, failed_blocks, &questions))
            .await
    }

    async fn mark_failed_as_sent(&self, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>> {
        let sent = sent.to_vec();
        self.writer
            .run("mark failed events as sent", move |connection| settle::mark_failed_as_sent(connection, &sent))
            .await
    }

    async fn find_unsettled(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>> {
        let (lane, sent) = (lane.to_owned(), sent.to_vec());
        self.reader
            .run("find unsettled events", move |connection| fetch::find_unsettled(connection, &lane, &sent))
            .await
    }

    async fn settle_published(&self, events: &[Acceptance], _: Care) -> Result<Vec<SettledEvent>> {
        const OPERATION: &str = "record published events";
        let record = |deletes: bool| {
            let mut events = events.to_vec();
            events.iter_mut().for_each(|event| event.deletes &= deletes);
            self.writer.run(OPERATION, move |connection| settle::record_accepted(connection, &events))
        };
        deleting_if_allowed(events.iter().any(|event| event.deletes), record).await
    }

    async fn settle_rescheduled(&self, owner: Uuid, events: &[FailureRecord]) -> Result<Vec<SettledEvent>> {
        let events = events.to_vec();
        self.writer
            .run("record retries and failures", move |connection| {
                settle::record_rescheduled(connection, owner, &events)
            })
            .await
    }

    async fn route(&self, owner: Uuid, events: &[RoutedEvent]) -> Result<Vec<Settled>> {
        let events = events.to_vec();
        self.writer.run("route events", move |connection| route::route(connection, owner, &events)).await
    }

    async fn raise_epoch(&self, owner: Uuid, shard: &Shard, epoch: i64, above: i64) -> Result<bool> {
        let shard = shard.clone();
        self.writer
            .run("raise an epoch", move |connection| leases::raise_epoch(connection, owner, &shard, epoch, above))
            .await
    }

    async fn due_lanes(&self, lanes: &[(LaneName, Vec<i16>)]) -> Result<DueLanes> {
        let lanes: Vec<LaneName> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
        self.reader.run("find lanes with due events", move |connection| order::due_lanes(connection, lanes)).await
    }

    async fn has_due(
        &self,
        lanes: &[LaneName],
        failed_blocks: &[LaneName],
        unrecorded: &UnrecordedEvents,
    ) -> Result<bool> {
        let (lanes, failed_blocks, unrecorded) = (lanes.to_vec(), failed_blocks.to_vec(), unrecorded.clone());
        self.reader
            .run("check for due events", move |connection| {
                order::has_due(connection, &lanes, &failed_blocks, &unrecorded)
            })
            .await
    }
}

/// Runs `change(true)` if rows are deleted. If the database refuses all of it, runs `change(false)`: a deferred foreign key is
/// checked when the transaction commits, which does not show whose row it is about.
async fn deleting_if_allowed<T, F>(deletes: bool, change: impl Fn(bool) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    match change(deletes).await {
        Err(StoreError::Query { transient: false, .. }) if deletes => change(false).await,
        changed => changed,
    }
}

#[async_trait]
impl HandlerStore for SqliteStore {
    async fn announce(&self, handlers: &[Announcement]) -> Result<()> {
        let handlers = handlers.to_vec();
        self.writer.run("announce handlers", move |connection| handlers::announce(connection, &handlers)).await
    }

    async fn see_handlers(&self, names: &[String]) -> Result<()> {
        let names = names.to_vec();
        self.writer.run("mark handlers as seen", move |connection| handlers::see(connection, &names)).await
    }

    async fn drop_handler(&self, name: &str) -> Result<usize> {
        const BATCH: i64 = 1_000;
        let handler = name.to_owned();
        let dropping = move |connection: &mut SqliteConnection| handlers::drop_announcement(connection, &handler);
        let up_to = self.writer.run("drop a handler", dropping).await?;
        let mut ended = 0;
        loop {
            let handler = name.to_owned();
            let end = move |connection: &mut SqliteConnection| handlers::end(connection, &handler, (0, up_to), BATCH);
            match self.writer.run("end deliveries", end).await? {
                0 => return Ok(ended),
                batch => ended += batch,
            }
        }
    }

    async fn fetch_deliveries(&self, request: &DeliveryRequest) -> Result<Vec<FetchedDelivery>> {
        let request = request.clone();
        let handler = request.handler.clone();
        let handlers::Found { deliveries, gone, waiting } =
            self.reader.run("fetch deliveries", move |connection| handlers::fetch(connection, &request)).await?;
        if !gone.is_empty() || !waiting.is_empty() {
            let cleanup = move |connection: &mut SqliteConnection| {
                handlers::record_handled(connection, &gone)?;
                handlers::postpone(connection, &handler, &waiting)
            };
            self.writer.run("postpone deliveries", cleanup).await?;
        }
        Ok(deliveries)
    }

    async fn settle_handled(&self, handled: &[HandledDelivery], _: Care) -> Result<Vec<Settled>> {
        const OPERATION: &str = "record handlers' answers";
        let record = |deletes: bool| {
            let mut handled = handled.to_vec();
            handled.iter_mut().for_each(|answer| answer.deletes &= deletes);
            self.writer.run(OPERATION, move |connection| handlers::record_handled(connection, &handled))
        };
        deleting_if_allowed(handled.iter().any(|answer| answer.deletes), record).await
    }

    async fn settle_rejected_deliveries(&self, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Vec<Settled>> {
        let rejected = rejected.to_vec();
        self.writer
            .run("record rejections by handlers", move |connection| {
                handlers::record_rejected(connection, owner, &rejected)
            })
            .await
    }

    async fn has_due_deliveries(&self, handlers: &[String]) -> Result<bool> {
        let handlers = handlers.to_vec();
        self.reader.run("check for due deliveries", move |connection| handlers::has_due(connection, &handlers)).await
    }

    async fn owed_before(&self, lane: &str, keys: &[String]) -> Result<HashMap<String, Vec<String>>> {
        let (lane, keys) = (lane.to_owned(), keys.to_vec());
        self.reader
            .run("find handlers owed a key's events", move |connection| handlers::owed_before(connection, &lane, &keys))
            .await
    }

    async fn owed(&self) -> Result<Vec<OwedHandler>> {
        self.reader.run("count owed deliveries", handlers::owed).await
    }
}

#[async_trait]
impl MaintenanceStore for SqliteStore {
    async fn finish_settled(&self) -> Result<usize> {
        let rounds = self.rounds.clone();
        self.writer.run("finish settled events", move |connection| handlers::finish_settled(connection, &rounds)).await
    }

    async fn repair_missing_seq(&self) -> Result<usize> {
        self.writer.run("repair missing seq", admin::repair_missing_seq).await
    }

    async fn delete_expired(
        &self,
        expiry: RetentionCutoff,
        failed_blocks: &[LaneName],
        after: RetentionCursor,
    ) -> Result<ExpiredBatch> {
        const OPERATION: &str = "delete old events";
        let delete = |together: bool| {
            let failed_blocks = failed_blocks.to_vec();
            self.writer.run(OPERATION, move |connection| {
                retention::delete_expired(connection, expiry, &failed_blocks, after, together)
            })
        };
        deleting_if_allowed(true, delete).await
    }

    async fn delete_old_audit(&self) -> Result<usize> {
        self.writer.run("delete old changes of operators", audit::delete_old).await
    }

    async fn delete_handled(&self, kept: Duration) -> Result<usize> {
        const DELETE: &str = "delete old notes of the inbox";
        let deleted = self.writer.run(DELETE, move |connection| inbox::delete_older(connection, kept)).await;
        match deleted {
            Ok(Some(deleted)) => Ok(deleted),
            Ok(None) | Err(StoreError::NotMigrated { .. }) => Err(missing(&*self.location.target)),
            Err(error) => Err(error),
        }
    }

    async fn add_to_history(&self, outcomes: &[(String, OutcomeCounts)]) -> Result<()> {
        let outcomes = outcomes.to_vec();
        self.writer.run("write the history", move |connection| history::add(connection, &outcomes)).await
    }
}

#[async_trait]
impl AdminStore for SqliteStore {
    async fn find(&self, id: Uuid) -> Result<Option<OutboxEvent>> {
        const OPERATION: &str = "find an event";
        let row = self.reader.run(OPERATION, move |connection| admin::find_event(connection, row::COLUMNS, id)).await?;
        row.map(Row::decode).transpose().map_err(|reason| {
            let reason = format!("the row of event {id} is not a valid event: {reason}");
            StoreError::Query { operation: OPERATION, reason, transient: false }
        })
    }

    fn epoch(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    async fn scan(&self, filter: &EventFilter, page: Page, most: i64) -> Result<ScanPage> {
        let filter = filter.clone();
        self.reader.run("scan events", move |connection| admin::scan_events(connection, &filter, page, most)).await
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        self.load_columns(row::COLUMNS, ids).await
    }

    async fn load_without_data(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        self.load_columns(row::COLUMNS_WITHOUT_DATA, ids).await
    }

    async fn load_checked(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        self.load_columns(row::COLUMNS_WITH_DATA_CHECKED, ids).await
    }

    async fn data_part(&self, id: Uuid, from: i32, length: i32) -> Result<Option<DataPart>> {
        let read = move |connection: &mut SqliteConnection| data::read(connection, id, from, length);
        self.reader.run("read an event's data", read).await
    }

    async fn change(&self, change: &Action, ids: &[Uuid], note: &AuditNote) -> Result<Vec<Uuid>> {
        let (change, ids, note) = (change.clone(), ids.to_vec(), note.clone());
        self.writer.run("change events", move |connection| change::change(connection, &change, &ids, &note)).await
    }

    #[cfg(feature = "consumer")]
    async fn record(&self, row: AuditRow) -> Result<()> {
        self.writer.run("record an operator's change", move |connection| audit::record(connection, &row)).await
    }

    async fn audit(&self, before: Option<i64>, limit: i64) -> Result<Vec<AuditEntry>> {
        self.reader.run("read operators' changes", move |connection| audit::read(connection, before, limit)).await
    }

    async fn lanes_of(&self, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>> {
        let ids = ids.to_vec();
        self.reader.run("read events' backends", move |connection| claimed::lanes_of(connection, &ids)).await
    }

    async fn delete(
        &self,
        claim: &LaneClaim,
        statuses: &[Status],
        ids: &[Uuid],
        note: &AuditNote,
    ) -> Result<Option<Vec<Uuid>>> {
        let (claim, statuses, ids, note) = (claim.clone(), statuses.to_vec(), ids.to_vec(), note.clone());
        let delete =
            move |connection: &mut SqliteConnection| claimed::delete(connection, &claim, &statuses, &ids, &note);
        self.writer.run("delete events", delete).await
    }

    async fn transfer(
        &self,
        claim: &LaneClaim,
        to: &str,
        statuses: &[Status],
        ids: &[Uuid],
        note: &AuditNote,
    ) -> Result<Option<Vec<Uuid>>> {
        let (claim, to, statuses, ids, note) =
            (claim.clone(), to.to_owned(), statuses.to_vec(), ids.to_vec(), note.clone());
        let transfer =
            move |connection: &mut SqliteConnection| claimed::transfer(connection, &claim, &to, &statuses, &ids, &note);
        self.writer.run("move events", transfer).await
    }

    async fn pauses(&self) -> Result<Vec<BackendPause>> {
        self.reader.run("read pauses", pauses::read).await
    }

    async fn pause(&self, pause: &NewPause, row: Option<AuditRow>) -> Result<bool> {
        let pause = pause.clone();
        self.writer.run("pause a backend", move |connection| pauses::pause(connection, &pause, row.as_ref())).await
    }

    async fn resume(&self, backend: &str, host: Option<&str>, row: AuditRow) -> Result<bool> {
        let (backend, host) = (backend.to_owned(), host.map(str::to_owned));
        let resume =
            move |connection: &mut SqliteConnection| pauses::resume(connection, &backend, host.as_deref(), &row);
        self.writer.run("resume a backend", resume).await
    }

    async fn overview(&self, _: CountMode) -> Result<EventCounts> {
        self.reader.run("count events", overview::overview).await
    }

    async fn due(&self) -> Result<Vec<Backlog>> {
        self.reader.run("count due events", overview::due).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        self.reader.run("read workers", overview::workers).await
    }

    async fn queue_position(&self, id: Uuid) -> Result<Option<QueuePosition>> {
        self.reader.run("read a queue position", move |connection| queue_position::queue_position(connection, id)).await
    }

    async fn blocker(&self, lane: &str, failed_blocks: bool, query: PredecessorQuery) -> Result<Option<Blocker>> {
        let blockers = self.blockers(lane, failed_blocks, std::slice::from_ref(&query)).await?;
        Ok(blockers.get(&query.key).cloned())
    }

    /// Its settings are the file's own, and set when it is opened.
    async fn inspect(&self) -> Result<DatabaseFacts> {
        Ok(DatabaseFacts::default())
    }

    async fn history(&self, span: Resolution, since: Duration) -> Result<Vec<HistoryBucket>> {
        self.reader.run("read the history", move |connection| history::read(connection, span, since)).await
    }

    async fn sample_waits(&self, query: WaitQuery) -> Result<Vec<Wait>> {
        self.reader.run("sample waits", move |connection| waits::sample(connection, &query)).await
    }
}

impl Store for SqliteStore {
    fn leases(&self) -> Box<dyn LeaseStore> {
        Box::new(SqliteLeases(Connection::new(&self.location, LEASES_BUSY_TIMEOUT)))
    }

    fn notify_store(&self) -> Option<&dyn NotifyStore> {
        None
    }

    fn application_target(&self) -> ApplicationTarget {
        ApplicationTarget(ApplicationKind::Sqlite(self.location.clone()))
    }
}
