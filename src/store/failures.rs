//! The failures of an event as its row keeps them, in databases whose SQL does not add to the list.

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

const KEPT_ERRORS: usize = 10;
const KEPT_ERROR_CHARS: usize = 2000;

/// The part of an error that is kept.
pub(crate) fn shorten(error: &str) -> &str {
    error.char_indices().nth(KEPT_ERROR_CHARS).map_or(error, |(end, _)| &error[..end])
}

/// Adds a failure to the JSON array and keeps the last ones; a value that is not an array is replaced.
pub(crate) fn append_error(errors: Option<&str>, error: &str, now: i64) -> String {
    let mut kept: Vec<Value> = errors.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let at = DateTime::from_timestamp_micros(now).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Micros, true);
    kept.push(json!({ "at": at, "error": error }));
    kept.drain(..kept.len().saturating_sub(KEPT_ERRORS));
    Value::from(kept).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ten_errors_are_kept() {
        let mut errors = None;
        for number in 0..12 {
            errors = Some(append_error(errors.as_deref(), &format!("no. {number}"), 1_700_000_000_123_000));
        }
        let kept: Vec<Value> = serde_json::from_str(&errors.unwrap()).unwrap();
        assert_eq!(kept.len(), 10);
        assert_eq!(kept[0], json!({ "at": "2023-11-14T22:13:20.123000Z", "error": "no. 2" }));
        assert_eq!(kept[9]["error"], "no. 11");
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        assert_eq!(shorten(&"ü".repeat(3000)).chars().count(), KEPT_ERROR_CHARS);
        assert_eq!(shorten("short"), "short");
    }
}
