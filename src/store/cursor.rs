//! Positions in the order of creation.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A position in the order of creation. Its text holds the database's own microseconds and the event's id; parse only what
/// the same outbox printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CreatedCursor {
    pub(crate) created_at: i64,
    pub(crate) id: Uuid,
}

/// A text that is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not valid; use `next` of the previous page")]
pub struct InvalidCursor;

/// Digits of the largest number of microseconds.
const LONGEST_NUMBER: usize = 19;

impl fmt::Display for CreatedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.created_at, self.id)
    }
}

impl FromStr for CreatedCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (created_at, id) = text.split_once('_')?;
            let is_long = created_at.trim_start_matches('-').len() > LONGEST_NUMBER;
            let created_at = created_at.parse().ok().filter(|_| !is_long).map(moment_within)?;
            let parsed: Uuid = id.parse().ok()?;
            (parsed.to_string() == id).then_some(Self { created_at, id: parsed })
        };
        parsed().ok_or(InvalidCursor)
    }
}

/// The nearest time that PostgreSQL can compare with, including its infinities.
fn moment_within(micros: i128) -> i64 {
    const BEGINNING: i64 = -211_813_488_000_000_000;
    const END: i64 = 9_223_371_331_200_000_000;
    match i64::try_from(micros) {
        Ok(infinity @ (i64::MIN | i64::MAX)) => infinity,
        Ok(micros) => micros.clamp(BEGINNING, END - 1),
        Err(_) if micros < 0 => i64::MIN,
        Err(_) => i64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let read = |text: &str| text.parse::<CreatedCursor>();
        let cursor = CreatedCursor { created_at: -5, id: Uuid::from_u128(7) };
        assert_eq!(read(&cursor.to_string()), Ok(cursor));
        let nil = Uuid::nil();
        let too_long = format!("99999999999999999999_{nil}");
        for wrong in [
            "",
            "_",
            "5",
            "5_",
            "x_00000000-0000-0000-0000-000000000007",
            &too_long,
            "0_0",
            &format!("0_{}", nil.simple()),
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let moment = |text: &str| read(&format!("{text}_{nil}")).map(|cursor| cursor.created_at);
        assert_eq!(moment("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(moment("-9999999999999999999"), Ok(i64::MIN));
        assert_eq!(moment("-900000000000000000"), moment("-211813488000000000"));
    }
}
