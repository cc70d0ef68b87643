//! Conditions on a position in a lane's order, with the values of `position`.

/// The positions after one, or with `">="` from one on.
macro_rules! after {
    ($comparison:literal) => {
        concat!(
            "e.scheduled_at >= ",
            $crate::store::mysql::clock::time!(),
            " AND (e.scheduled_at > ",
            $crate::store::mysql::clock::time!(),
            " OR e.seq ",
            $comparison,
            " ?)"
        )
    };
}
pub(super) use after;

/// The positions before one.
macro_rules! before {
    () => {
        concat!(
            "e.scheduled_at <= ",
            $crate::store::mysql::clock::time!(),
            " AND (e.scheduled_at < ",
            $crate::store::mysql::clock::time!(),
            " OR e.seq < ?)"
        )
    };
}
pub(in crate::store::mysql) use before;

use crate::store::Position;
use crate::store::mysql::clock::limited;
use crate::store::mysql::statement::Value;

/// The values of [`after`] and of [`before`].
pub(in crate::store::mysql) fn position(position: Position) -> [Value; 3] {
    let scheduled_at = limited(position.scheduled_at);
    [scheduled_at.into(), scheduled_at.into(), position.seq.into()]
}
