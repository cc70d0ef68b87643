//! What a receiver's answer means for an event.

use std::time::{Duration, SystemTime};

use hyper::header::RETRY_AFTER;
use hyper::{HeaderMap, StatusCode};

/// The outcome of a request for its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    /// The host accepts nothing now; it may have said for how long.
    Unavailable {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// Another try may help.
    Rejected(String),
    /// No other try can help.
    Refused(String),
    /// Nor can one of any other event.
    Gone(String),
}

/// By the status, and `Retry-After` where there is one.
pub(super) fn of(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Answer {
    let reason = format!("the receiver answered {status}");
    match status.as_u16() {
        200..=299 => Answer::Accepted,
        300..=399 => Answer::Rejected(format!("{reason}; redirects are not followed")),
        408 | 425 | 429 | 500..=599 => Answer::Unavailable { reason, retry_after: retry_after(headers, now) },
        410 => Answer::Gone(reason),
        _ => Answer::Refused(reason),
    }
}

/// Seconds, or a date; see RFC 9110, 10.2.3.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: Option<&str>) -> Answer {
        let mut headers = HeaderMap::new();
        retry_after.map(|text| headers.insert(RETRY_AFTER, text.parse().unwrap()));
        let now = httpdate::parse_http_date("Sun, 29 Nov 2026 12:00:00 GMT").unwrap();
        of(StatusCode::from_u16(status).unwrap(), &headers, now)
    }

    #[test]
    fn a_status_means_what_the_contract_says() {
        for status in [200, 201, 202, 204] {
            assert_eq!(answer(status, None), Answer::Accepted);
        }
        for status in [301, 302, 307, 308] {
            assert!(matches!(answer(status, None), Answer::Rejected(_)), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(answer(status, None), Answer::Unavailable { retry_after: None, .. }), "{status}");
        }
        for status in [400, 401, 403, 404, 405, 409, 413, 415, 422, 451] {
            assert!(matches!(answer(status, None), Answer::Refused(_)), "{status}");
        }
        assert!(matches!(answer(410, None), Answer::Gone(_)));
    }

    #[test]
    fn a_receiver_says_for_how_long_in_seconds_or_by_a_date() {
        for (text, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 29 Nov 2026 12:01:30 GMT", Some(90)),
            ("Sunday, 29-Nov-26 12:01:30 GMT", Some(90)),
            ("Sun, 29 Nov 2026 11:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("99999999999999999999999", None),
        ] {
            let Answer::Unavailable { retry_after, .. } = answer(503, Some(text)) else { panic!("{text}") };
            assert_eq!(retry_after.map(|wait| wait.as_secs()), seconds, "{text}");
        }
    }
}
