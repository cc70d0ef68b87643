//! Deliveries that are owed to handlers.

use std::collections::HashMap;
use std::time::Duration;

use diesel::sql_types::{BigInt, Nullable, Text};

use crate::store::mysql::clock::micros;
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::statement::{Statement, Value};
use crate::store::{MOST_COUNTED, NOT_COVERED, OwedHandler};

/// Deliveries of a dropped handler do not count.
macro_rules! current {
    () => {
        "(d.generation = 0 OR EXISTS (SELECT 1 FROM outbox_handlers h WHERE h.name = d.handler \
         AND h.generation = d.generation))"
    };
}

/// The most keys in one statement.
const MOST_KEYS: usize = 100;

/// Goes from one handler's name to the next, so that the cost is one lookup for each handler, however much is owed.
pub(super) async fn owed_before(
    session: &mut Session<'_>,
    lane: &str,
    keys: &[String],
) -> Result<HashMap<String, Vec<String>>, Failure> {
    let mut owed: HashMap<String, Vec<String>> = HashMap::new();
    for keys in keys.chunks(MOST_KEYS) {
        let mut places: Vec<(&str, String)> =
            keys.iter().filter(|key| !key.is_empty()).map(|key| (key.as_str(), String::new())).collect();
        while !places.is_empty() {
            places = next_owed(session, lane, &places).await?;
            for (key, handler) in &places {
                owed.entry((*key).to_owned()).or_default().push(handler.clone());
            }
        }
    }
    Ok(owed)
}

/// For each key, the next handler after this one; keys without another one are left out.
async fn next_owed<'k>(
    session: &mut Session<'_>,
    lane: &str,
    places: &[(&'k str, String)],
) -> Result<Vec<(&'k str, String)>, Failure> {
    let part = |n: usize| {
        format!(
            "(SELECT {n}, d.handler FROM outbox_handler_deliveries d FORCE INDEX (outbox_handler_deliveries_keys) \
             WHERE d.lane = ? AND d.partition_key = ? AND d.handler > ? AND {} ORDER BY d.handler LIMIT 1)",
            current!()
        )
    };
    let parts: Vec<String> = (0..places.len()).map(part).collect();
    let values = places.iter().flat_map(|(key, after)| [lane.into(), (*key).into(), after.as_str().into()]);
    let query = Statement::<(BigInt, Text)>::built(parts.join(" UNION ALL "), values.collect::<Vec<Value>>());
    let found = session.load::<_, (i64, String)>(query).await?.into_iter();
    Ok(found.filter_map(|(n, handler)| Some((places.get(usize::try_from(n).ok()?)?.0, handler))).collect())
}

pub(super) async fn owed(session: &mut Session<'_>) -> Result<Vec<OwedHandler>, Failure> {
    let mut handlers = Vec::new();
    for name in read_names(session).await? {
        let handler = owed_to(session, name).await?;
        if handler.owed > 0 || handler.seen_for.is_some() {
            handlers.push(handler);
        }
    }
    Ok(handlers)
}

/// The names of handlers that are announced or have deliveries.
async fn read_names(session: &mut Session<'_>) -> Result<Vec<String>, Failure> {
    const NEXT: &str = "SELECT MIN(handler) FROM outbox_handler_deliveries WHERE handler > ?";
    let mut names: Vec<String> = session.load(Statement::<Text>::new("SELECT name FROM outbox_handlers", [])).await?;
    let mut last = String::new();
    while let Some(next) = session.load_one(Statement::<Nullable<Text>>::new(NEXT, [last.as_str().into()])).await? {
        last = next;
        names.push(last.clone());
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

type AnnouncedRow = (String, i64, i64);
type CountedRow = (i64, Option<i64>, Option<i64>, i64);

async fn owed_to(session: &mut Session<'_>, name: String) -> Result<OwedHandler, Failure> {
    const ANNOUNCED: &str =
        concat!("SELECT CAST(types AS char), owed_for, ", micros!("seen_at"), " FROM outbox_handlers WHERE name = ?");
    const COUNT: &str = concat!(
        "SELECT COUNT(*), ",
        micros!("MIN(c.created_at)"),
        ", CAST(SUM(c.last_error = ?) AS signed), ",
        micros!("SYSDATE(6)"),
        " FROM (SELECT d.created_at, d.last_error \
           FROM outbox_handler_deliveries d FORCE INDEX (outbox_handler_deliveries_due) WHERE d.handler = ? AND ",
        current!(),
        " LIMIT ?) c"
    );
    let query = Statement::<(Text, BigInt, BigInt)>::new(ANNOUNCED, [name.as_str().into()]);
    let announced: Option<AnnouncedRow> = session.load(query).await?.into_iter().next();
    let values: [Value; 3] = [NOT_COVERED.into(), name.as_str().into(), (MOST_COUNTED + 1).into()];
    let query = Statement::<(BigInt, Nullable<BigInt>, Nullable<BigInt>, BigInt)>::new(COUNT, values);
    let (owed, since, not_covered, now): CountedRow = session.load_one(query).await?;
    let span = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    let (types, owed_for, seen_at) = announced.map_or((None, 0, None), |(types, owed_for, seen_at)| {
        (serde_json::from_str(&types).ok(), owed_for, Some(seen_at))
    });
    Ok(OwedHandler {
        name,
        types: types.unwrap_or_default(),
        owed: owed.min(MOST_COUNTED),
        more_owed: owed > MOST_COUNTED,
        not_covered: not_covered.unwrap_or_default(),
        oldest: since.map(|since| span(now - since)),
        seen_for: seen_at.map(|seen_at| span(now - seen_at)),
        owed_for: span(owed_for),
        expired: seen_at.is_some_and(|seen_at| seen_at.saturating_add(owed_for) <= now),
    })
}
