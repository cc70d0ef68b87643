//! What stands before a handler's due deliveries: for each key, the first delivery that is not among those read, and the
//! first unsettled event.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use diesel::sql_types::{BigInt, Nullable, Text};
use uuid::Uuid;

use super::deliveries::Due;
use crate::store::Position;
use crate::store::mysql::clock::{micros, micros_or_first};
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::statement::{Statement, Value};

/// A lane and a key of it.
type Key = (String, String);

/// The due deliveries that were read.
pub(super) struct ReadDeliveries {
    ids: HashSet<(Uuid, i64)>,
    by_key: HashMap<Key, usize>,
}

impl ReadDeliveries {
    pub(super) fn new(due: &[Due]) -> Self {
        let mut by_key = HashMap::new();
        for due in due {
            *by_key.entry((due.lane.clone(), due.key.clone())).or_default() += 1;
        }
        Self { ids: due.iter().map(|due| (due.id, due.position.seq)).collect(), by_key }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct End {
    owed: Option<(Position, i64)>,
    open: Option<(Position, Option<i64>)>,
}

/// The ends of the keys that were asked about.
#[derive(Debug, Default)]
pub(super) struct Ends(HashMap<Key, End>);

/// The most keys in one statement.
const MOST_KEYS: usize = 100;

impl Ends {
    /// Reads the ends of these deliveries' keys, unless they were read before.
    pub(super) async fn find(
        &mut self,
        session: &mut Session<'_>,
        handler: &str,
        generations: &[i64],
        due: &[Due],
        read: &ReadDeliveries,
    ) -> Result<(), Failure> {
        let mut keys: Vec<Key> = Vec::new();
        for due in due.iter().filter(|due| !due.key.is_empty()) {
            let key = (due.lane.clone(), due.key.clone());
            if let Entry::Vacant(vacant) = self.0.entry(key.clone()) {
                vacant.insert(End::default());
                keys.push(key);
            }
        }
        for keys in keys.chunks(MOST_KEYS) {
            self.find_owed(session, (handler, generations), keys, read).await?;
            self.find_open(session, keys).await?;
        }
        Ok(())
    }

    async fn find_owed(
        &mut self,
        session: &mut Session<'_>,
        (handler, generations): (&str, &[i64]),
        keys: &[Key],
        read: &ReadDeliveries,
    ) -> Result<(), Failure> {
        let generations = generations.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        let part = |(n, key): (usize, &Key)| {
            format!(
                "(SELECT {n}, CAST(d.event_id AS char), {}, d.seq, {} \
                 FROM outbox_handler_deliveries d FORCE INDEX (outbox_handler_deliveries_keys) \
                 WHERE d.lane = ? AND d.partition_key = ? AND d.handler = ? AND d.generation IN ({generations}) \
                 ORDER BY d.scheduled_at, d.seq LIMIT {})",
                micros!("d.scheduled_at"),
                micros!("d.next_at"),
                read.by_key.get(key).copied().unwrap_or_default() + 1
            )
        };
        let parts: Vec<String> = keys.iter().enumerate().map(part).collect();
        let values = keys.iter().flat_map(|(lane, key)| [lane.as_str().into(), key.as_str().into(), handler.into()]);
        let values: Vec<Value> = values.collect();
        type Types = (BigInt, Text, BigInt, BigInt, BigInt);
        let query = Statement::<Types>::built(parts.join(" UNION ALL "), values);
        for (n, id, scheduled_at, seq, next_at) in session.load::<_, (i64, String, i64, i64, i64)>(query).await? {
            let id = Uuid::try_parse(&id).map_err(Failure::client)?;
            let position = Position { scheduled_at, seq };
            let Some(end) = self.end(keys, n).filter(|_| !read.ids.contains(&(id, seq))) else { continue };
            if end.owed.is_none_or(|(first, _)| position < first) {
                end.owed = Some((position, next_at));
            }
        }
        Ok(())
    }

    async fn find_open(&mut self, session: &mut Session<'_>, keys: &[Key]) -> Result<(), Failure> {
        let part = |n: usize| {
            format!(
                "(SELECT {n}, {}, e.seq, {} FROM outbox_events e FORCE INDEX (outbox_events_keys) \
                 WHERE e.publisher_backend = ? AND e.unsettled_key = ? ORDER BY e.scheduled_at, e.seq LIMIT 1)",
                micros_or_first!("e.scheduled_at"),
                micros!("e.retry_at")
            )
        };
        let parts: Vec<String> = (0..keys.len()).map(part).collect();
        let values: Vec<Value> =
            keys.iter().flat_map(|(lane, key)| [lane.as_str().into(), key.as_str().into()]).collect();
        type Types = (BigInt, BigInt, BigInt, Nullable<BigInt>);
        let query = Statement::<Types>::built(parts.join(" UNION ALL "), values);
        for (n, scheduled_at, seq, retry_at) in session.load::<_, (i64, i64, i64, Option<i64>)>(query).await? {
            if let Some(end) = self.end(keys, n) {
                end.open = Some((Position { scheduled_at, seq }, retry_at));
            }
        }
        Ok(())
    }

    fn end(&mut self, keys: &[Key], n: i64) -> Option<&mut End> {
        self.0.get_mut(keys.get(usize::try_from(n).ok()?)?)
    }

    /// The time until which a delivery has to wait; `None`: it need not wait.
    pub(super) fn put_off_to(&self, due: &Due) -> Option<i64> {
        let end = self.0.get(&(due.lane.clone(), due.key.clone()))?;
        let owed = end.owed.filter(|(position, _)| *position < due.position).map(|(_, next_at)| next_at);
        let open = end.open.filter(|(position, _)| *position < due.position);
        let open = open.map(|(_, retry_at)| retry_at.unwrap_or(due.next_at));
        owed.into_iter().chain(open).max()
    }
}
