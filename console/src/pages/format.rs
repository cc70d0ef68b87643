//! Times, numbers and texts as pages show them.

use actix_outbox::Status;
use chrono::SecondsFormat;
use maud::html;

pub(super) use crate::responses::shortened;

/// In the order in which pages show them.
pub(super) const STATUSES: [Status; 5] =
    [Status::Pending, Status::Retry, Status::Failed, Status::Published, Status::Processing];

/// A time as text, with the element's `datetime` for browsers.
pub(super) fn time(time: chrono::DateTime<chrono::Utc>) -> maud::Markup {
    let exact = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    html! { time datetime=(exact) { (time.format("%Y-%m-%d %H:%M:%S")) " UTC" } }
}

pub(super) fn status(status: Status) -> maud::Markup {
    html! { span class={ "status " (status) } { (status) } }
}

pub(super) fn events_count(count: usize) -> String {
    if count == 1 {
        "1 event".to_owned()
    } else {
        format!("{} events", grouped(i64::try_from(count).unwrap_or(i64::MAX)))
    }
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
    fn thousands_are_told_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-12_345, "-12,345"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), text);
        }
    }
}
