//! The fields of a stream entry: those that django-broadcaster writes, and `seq`.

use std::borrow::Cow;

use crate::cloud_event::{object_pairs, push_isoformat, to_json};
use crate::event::OutboxEvent;

/// The most fields in `publisher_config`: the number of a script's arguments is limited.
const MAX_CONFIG_PAIRS: usize = 500;

/// The field that is the event's own whatever `publisher_config` says: consumers tell a replay by it.
const SEQ: &str = "seq";

/// A field of a stream entry: its name and its value.
pub(crate) type Field<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The fields of an event's stream entry.
#[derive(Debug)]
pub(crate) struct EntryFields<'a> {
    pub(crate) fields: Vec<Field<'a>>,
    /// Whether `publisher_config` has a pair named `seq`, which is not among them.
    pub(crate) ignores_seq: bool,
}

/// The fields of the event's stream entry, in django-broadcaster's order, with `seq` before those of `publisher_config`.
///
/// # Errors
/// The reason why `publisher_config` cannot be written into an entry.
pub(crate) fn entry_fields(event: &OutboxEvent) -> Result<EntryFields<'_>, String> {
    let mut timestamp = String::with_capacity(32);
    push_isoformat(&mut timestamp, event.created_at);
    let mut fields: Vec<Field<'_>> = vec![
        (Cow::Borrowed("event_id"), Cow::Owned(event.id.to_string())),
        (Cow::Borrowed("event_type"), Cow::Borrowed(&event.event_type)),
        (Cow::Borrowed("source"), Cow::Borrowed(&event.source)),
        (Cow::Borrowed("timestamp"), Cow::Owned(timestamp)),
        (Cow::Borrowed("cloud_event"), Cow::Owned(to_json(event))),
        (Cow::Borrowed(SEQ), Cow::Owned(event.seq.to_string())),
    ];
    let (config, mut ignores_seq) = (event.publisher_config.as_str(), false);
    if config == "{}" {
        return Ok(EntryFields { fields, ignores_seq });
    }
    let pairs = object_pairs(config).map_err(|_| "publisher_config is not a JSON object".to_owned())?;
    if pairs.len() > MAX_CONFIG_PAIRS {
        return Err(format!("publisher_config has {} fields; the limit is {MAX_CONFIG_PAIRS}", pairs.len()));
    }
    for (name, value) in pairs {
        if name == SEQ {
            ignores_seq = true;
            continue;
        }
        let value = field_value(value.get())
            .ok_or_else(|| format!("publisher_config: the value of {name:?} is neither a string nor a number"))?;
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => fields.push((name, value)),
        }
    }
    Ok(EntryFields { fields, ignores_seq })
}

/// A JSON value as redis-py sends what Python reads from it.
fn field_value(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes().first()? {
        b'"' => match raw.strip_prefix('"')?.strip_suffix('"') {
            Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
            _ => serde_json::from_str(raw).ok().map(Cow::Owned),
        },
        b'-' | b'0'..=b'9' if raw.contains(['.', 'e', 'E']) => Some(Cow::Owned(python_float(raw.parse().ok()?))),
        b'-' if raw == "-0" => Some(Cow::Borrowed("0")),
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(raw)),
        _ => None,
    }
}

/// A float as Python's `repr` prints it: the shortest digits, an exponent below 1e-4 and from 1e16 on.
pub(crate) fn python_float(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse().unwrap_or(0_i32) {
        -4..16 if value.fract() == 0.0 => format!("{value}.0"),
        -4..16 => value.to_string(),
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
    }
}
