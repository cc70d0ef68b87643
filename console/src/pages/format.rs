//! Times, numbers and texts as pages show them.

use actix_outbox::Status;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use maud::{Markup, html};

pub(super) use crate::responses::shortened;

/// In the order in which pages show them.
pub(super) const STATUSES: [Status; 5] =
    [Status::Pending, Status::Retry, Status::Failed, Status::Published, Status::Processing];

/// A time in UTC; a script shows it in the reader's zone. Pointing at it shows it exactly, in UTC.
pub(super) fn time(time: DateTime<Utc>) -> Markup {
    let exact = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    html! {
        time datetime=(exact) title=(time.format("%Y-%m-%d %H:%M:%S%.6f UTC")) { (time.format("%Y-%m-%d %H:%M:%S")) " UTC" }
    }
}

/// A text that may be a time.
pub(super) fn recorded(text: &str) -> Markup {
    match DateTime::parse_from_rfc3339(text) {
        Ok(at) => time(at.to_utc()),
        Err(_) => html! { (shortened(text)) },
    }
}

/// A time as the label of an axis whose periods are this long.
pub(super) fn short_time(time: DateTime<Utc>, period: TimeDelta) -> Markup {
    let (kind, format) = if period > TimeDelta::hours(1) { ("day", "%m-%d") } else { ("clock", "%H:%M") };
    html! { time datetime=(time.to_rfc3339_opts(SecondsFormat::Secs, true)) data-show=(kind) { (time.format(format)) } }
}

/// A length of time.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 0.9995 => format!("{:.0} ms", seconds * 1_000.0),
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        seconds if seconds < 3_600.0 => format!("{:.1} min", seconds / 60.0),
        seconds if seconds < 86_400.0 => format!("{:.1} h", seconds / 3_600.0),
        seconds => format!("{:.1} days", seconds / 86_400.0),
    }
}

/// A text with its times as times, and what is in backticks as code.
pub(super) fn prose(text: &str) -> Markup {
    parts(text, |_| false)
}

/// A sentence of the program itself: like [`prose`], and commands that need no id of an event can be copied.
pub(super) fn advice(text: &str) -> Markup {
    parts(text, |code| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || " -_.,:/=".contains(c);
        code.starts_with("outbox ") && !code.starts_with("outbox events ") && code.chars().all(is_plain)
    })
}

fn parts(text: &str, is_copied: impl Fn(&str) -> bool) -> Markup {
    html! {
        @for (n, part) in shortened(text).split('`').enumerate() {
            @if n.is_multiple_of(2) { (with_times(part)) } @else { code data-copy[is_copied(part)] { (part) } }
        }
    }
}

fn with_times(text: &str) -> Markup {
    html! { @for word in text.split_inclusive(' ') { (word_or_time(word)) } }
}

fn word_or_time(word: &str) -> Markup {
    // A filter has its times as `since=2026-01-31T12:00:00+00:00`.
    let (name, rest) = word.split_at(word.rfind('=').map_or(0, |place| place + 1));
    // In a sentence there is perhaps a full stop or the like after the zone.
    let end = ["Z", "+00:00"].iter().find_map(|zone| Some(rest.find(zone)? + zone.len()));
    let (head, tail) = rest.split_at(end.unwrap_or(0));
    match DateTime::parse_from_rfc3339(head) {
        Ok(at) => html! { (name) (time(at.to_utc())) (tail) },
        Err(_) => html! { (word) },
    }
}

/// An event's id; on narrow screens its end, which differs where ids begin with the time.
pub(super) fn id(id: uuid::Uuid) -> Markup {
    let text = id.to_string();
    let (begin, end) = text.split_at(text.len() - 12);
    html! { code class="id" title=(text) { span class="begin" { (begin) } (end) } }
}

pub(super) fn status(status: Status) -> Markup {
    html! { span class={ "status " (status) } { (status) } }
}

pub(super) fn events_count(count: usize) -> String {
    if count == 1 { "1 event".to_owned() } else { format!("{} events", number(count)) }
}

/// A count with a comma between thousands.
pub(super) fn number<T: TryInto<i64>>(count: T) -> String {
    grouped(count.try_into().unwrap_or(i64::MAX))
}

/// A number with a comma between thousands.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_times_and_commands() {
        let text = advice(
            "It failed at 2026-01-31T12:00:00.5Z: <gone>. `outbox migrate` and `outbox events retry` help; a Zebra does not.",
        );
        let expected = "It failed at <time datetime=\"2026-01-31T12:00:00.500000Z\" title=\"2026-01-31 12:00:00.500000 UTC\">\
            2026-01-31 12:00:00 UTC</time>: &lt;gone&gt;. <code data-copy>outbox migrate</code> and <code>outbox events retry</code> help; a Zebra does not.";
        assert_eq!(text.into_string(), expected);
        let refused = prose("`outbox migrate`; `outbox x; curl y`").into_string();
        assert_eq!(refused, "<code>outbox migrate</code>; <code>outbox x; curl y</code>");
        assert!(!advice("`outbox x; curl y`").into_string().contains("data-copy"));
        let filter = prose("status=failed created_since=2026-01-31T12:00:00+00:00 key=Z").into_string();
        assert!(
            filter.starts_with("status=failed created_since=<time ") && filter.ends_with("UTC</time> key=Z"),
            "{filter}"
        );
    }

    #[test]
    fn a_length_of_time_has_the_unit_that_fits() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.0123, "12 ms"),
            (0.9996, "1.0 s"),
            (59.9, "59.9 s"),
            (90.0, "1.5 min"),
            (90_000.0, "1.0 days"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn thousands_are_told_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-12_345, "-12,345"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), text);
        }
    }
}
