//! The rows of a settle, locked. Rows that another transaction holds are skipped.

use std::collections::{HashMap, HashSet};

use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use uuid::Uuid;

use super::MOST_IDS;
use crate::store::Settled;
use crate::store::mysql::clock::micros;
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::statement::{Statement, Value, list};

/// A locked row, in its newest version.
pub(in crate::store::mysql) struct Row {
    pub(in crate::store::mysql) seq: i64,
    pub(in crate::store::mysql) status: String,
    pub(in crate::store::mysql) published: bool,
    pub(super) event_type: String,
    /// JSON, if it is.
    pub(super) pending_handlers: Option<String>,
    pub(super) retry_count: i64,
    /// As a fetch reads it; a value that is not a time is the first one.
    pub(super) updated_at: i64,
    pub(super) last_error: String,
    pub(super) errors: Option<String>,
}

type Columns = (Text, BigInt, Text, Bool, Text, Nullable<Text>, BigInt, Nullable<BigInt>, Text, Nullable<Text>);
type Cells = (String, i64, String, bool, String, Option<String>, i64, Option<i64>, String, Option<String>);

impl Row {
    fn read(
        (id, seq, status, published, event_type, pending, retry_count, updated, last_error, errors): Cells,
    ) -> Option<(Uuid, Self)> {
        let row = Self {
            seq,
            status,
            published,
            event_type,
            pending_handlers: pending,
            retry_count,
            updated_at: updated.unwrap_or(i64::MIN),
            last_error,
            errors,
        };
        Some((id.parse().ok()?, row))
    }
}

/// The locked rows, and the others that exist.
pub(in crate::store::mysql) struct Found {
    rows: HashMap<Uuid, Row>,
    others: HashSet<(Uuid, i64)>,
}

impl Found {
    /// Locks the rows.
    pub(in crate::store::mysql) async fn lock(
        session: &mut Session<'_>,
        events: &[(Uuid, i64)],
    ) -> Result<Self, Failure> {
        let mut rows = HashMap::new();
        for part in events.chunks(MOST_IDS) {
            let sql = format!(
                "SELECT CAST(id AS char), seq, status, published_at IS NOT NULL, event_type, \
                    IF(JSON_VALID(pending_handlers), CAST(pending_handlers AS char), NULL), CAST(retry_count AS signed), {}, \
                    last_error, IF(JSON_VALID(errors), CAST(errors AS char), NULL) \
                 FROM outbox_events FORCE INDEX (PRIMARY) WHERE id IN {} FOR UPDATE SKIP LOCKED",
                micros!("updated_at"),
                list(part.len())
            );
            let locked: Vec<Cells> = session.load(Statement::<Columns>::built(sql, ids(part))).await?;
            rows.extend(locked.into_iter().filter_map(Row::read));
        }
        let others = find_others(session, events.iter().filter(|(id, _)| !rows.contains_key(id)).copied()).await?;
        Ok(Self { rows, others })
    }

    /// The event's row, unless it is gone, locked by another transaction, or a later event's.
    pub(in crate::store::mysql) fn row(&self, id: Uuid, seq: i64) -> Option<&Row> {
        self.rows.get(&id).filter(|row| row.seq == seq)
    }

    /// What a settle says that has recorded what it found.
    pub(in crate::store::mysql) fn outcome(&self, id: Uuid, seq: i64) -> Settled {
        match self.row(id, seq) {
            Some(_) => Settled::Recorded,
            None if self.others.contains(&(id, seq)) => Settled::Locked,
            None => Settled::Superseded,
        }
    }
}

/// Those of the events that exist, locked or not.
pub(in crate::store::mysql) async fn find_others(
    session: &mut Session<'_>,
    events: impl Iterator<Item = (Uuid, i64)>,
) -> Result<HashSet<(Uuid, i64)>, Failure> {
    let events: Vec<(Uuid, i64)> = events.collect();
    let mut found = HashSet::new();
    for part in events.chunks(MOST_IDS) {
        let sql = format!(
            "SELECT CAST(id AS char), seq FROM outbox_events FORCE INDEX (PRIMARY) WHERE id IN {}",
            list(part.len())
        );
        let rows: Vec<(String, i64)> = session.load(Statement::<(Text, BigInt)>::built(sql, ids(part))).await?;
        found.extend(rows.into_iter().filter_map(|(id, seq)| Some((id.parse().ok()?, seq))));
    }
    Ok(found)
}

fn ids(events: &[(Uuid, i64)]) -> Vec<Value> {
    events.iter().map(|(id, _)| Value::from(*id)).collect()
}
