//! Times and sizes in the notation of settings.

use std::time::Duration;

/// The durations that [`parse_duration`] accepts, for messages: "a time such as …".
pub const DURATION_FORMATS: &str = "a time such as \"100ms\", \"5s\", \"1m\", \"1h\" or \"7d\", or a number of seconds";

/// Valid sizes, for messages.
pub(crate) const SIZE: &str = "a size such as \"64KB\" or \"16MiB\", or a number of bytes";

/// Ten years: adding this to any time in use does not overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);

/// Parses a duration as settings write it: `100ms`, `1.5s`, `7d`, or a plain number of seconds; at most ten years. `None`:
/// it is none of these.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        "d" => number * 86_400.0,
        _ => return None,
    };
    seconds_to_duration(seconds)
}

/// Converts seconds. `None`: negative, not a number, or longer than [`LONGEST`].
pub(crate) fn seconds_to_duration(seconds: f64) -> Option<Duration> {
    let exact = Duration::try_from_secs_f64(seconds).ok()?;
    // The databases store microseconds; rounding also removes the error that a float adds to "0.1s".
    let duration = Duration::from_micros(u64::try_from((exact.as_nanos() + 500) / 1_000).ok()?);
    (duration <= LONGEST).then_some(duration)
}

/// Parses `64KB`, `16MiB`, or a plain number of bytes; `KB` is 1,000 bytes, `KiB` 1,024.
pub(crate) fn parse_size(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => number,
        "kb" => number * 1e3,
        "mb" => number * 1e6,
        "gb" => number * 1e9,
        "kib" => number * 1024.0,
        "mib" => number * 1024.0 * 1024.0,
        "gib" => number * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let whole = bytes.round();
    ((whole - bytes).abs() < 1e-6 && (0.0..1e15).contains(&whole)).then_some(whole as usize)
}

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        for (text, millis) in [
            ("100ms", 100),
            ("5s", 5_000),
            ("1m", 60_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("5", 5_000),
            ("0.1", 100),
            ("1.5s", 1_500),
            (" 2 s ", 2_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("250us"), Some(Duration::from_micros(250)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "s", "-1s", "5 parsecs", "1h30m", "nan", "inf", "1e3", "1.2.3s", "99999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(seconds_to_duration(f64::NAN), None);
        assert_eq!(seconds_to_duration(-0.5), None);
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("16MiB", 16 << 20),
            ("1MiB", 1 << 20),
            ("64KB", 64_000),
            ("64KiB", 65_536),
            ("1 gib", 1 << 30),
            ("0.5MiB", 1 << 19),
            ("100", 100),
            ("100B", 100),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5", "1XB", "99999999GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
