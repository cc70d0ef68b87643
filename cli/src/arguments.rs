//! Arguments that several commands have, and their parsers.

use std::time::Duration;

use actix_outbox::{DURATION_FORMATS, Status, parse_duration};
use chrono::{DateTime, Utc};
use clap::ValueEnum;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A table.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
}

/// `NAME=VALUE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) value: String,
}

pub(super) fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Pair { name: name.to_owned(), value: value.to_owned() }),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("write {DURATION_FORMATS}"))
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_millis(1) { Err("must be at least 1ms".to_owned()) } else { Ok(duration) }
}

pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|error| format!("{error}; write an RFC 3339 time such as 2026-01-31T12:00:00Z"))
}

/// Parses a time, or how long ago it was.
pub(super) fn past(text: &str) -> Result<DateTime<Utc>, String> {
    let ago = parse_duration(text).and_then(|span| chrono::TimeDelta::from_std(span).ok());
    match ago.and_then(|span| Utc::now().checked_sub_signed(span)) {
        Some(then) => Ok(then),
        None => time(text).map_err(|error| format!("{error}, or how long ago, such as 90m or 2d")),
    }
}

pub(super) fn id(text: &str) -> Result<uuid::Uuid, String> {
    text.parse().map_err(|_| "write a UUID such as 0197a3b2-0000-7000-8000-000000000001".to_owned())
}

pub(super) fn status(text: &str) -> Result<Status, String> {
    text.parse().map_err(|_| "write pending, processing, retry, published or failed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_a_name_and_any_value() {
        assert_eq!(pair("a=b=c"), Ok(Pair { name: "a".to_owned(), value: "b=c".to_owned() }));
        assert_eq!(pair("a="), Ok(Pair { name: "a".to_owned(), value: String::new() }));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }

    #[test]
    fn times_are_rfc_3339_and_become_utc() {
        assert_eq!(time("2026-01-31T12:00:00+01:00").unwrap().to_rfc3339(), "2026-01-31T11:00:00+00:00");
        assert!(time("tomorrow").unwrap_err().ends_with("write an RFC 3339 time such as 2026-01-31T12:00:00Z"));
        assert!(time("2026-01-31").is_err());
    }

    #[test]
    fn a_past_time_is_a_time_or_a_span() {
        assert_eq!(past("2026-01-31T12:00:00Z"), time("2026-01-31T12:00:00Z"));
        let then = past("1h").unwrap();
        let ago = (Utc::now() - then).num_seconds();
        assert!((3600..3660).contains(&ago), "{ago}");
        assert!(past("yesterday").unwrap_err().ends_with("or how long ago, such as 90m or 2d"));
    }

    #[test]
    fn an_interval_is_not_nothing() {
        assert_eq!(interval("1ms"), Ok(Duration::from_millis(1)));
        assert!(interval("0").is_err() && interval("soon").is_err());
    }
}
