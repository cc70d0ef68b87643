//! Conditions on a position in a lane's order.

/// The positions before one, with the values of [`position`].
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
use crate::store::mysql::clock::{FIRST_TIME, limited, time};
use crate::store::mysql::statement::Value;

/// The positions after one, or with `">="` from one on, with the values of the condition. A time that does not exist, such as a
/// zero date, is before all others.
pub(super) fn after(comparison: &str, from: Position) -> (String, Vec<Value>) {
    match from {
        Position::START => ("TRUE".to_owned(), Vec::new()),
        Position { scheduled_at: i64::MIN, seq } => {
            (format!("(e.scheduled_at >= {FIRST_TIME} OR e.seq {comparison} ?)"), vec![seq.into()])
        }
        _ => {
            let time = time!();
            let condition = format!("e.scheduled_at >= {time} AND (e.scheduled_at > {time} OR e.seq {comparison} ?)");
            (condition, position(from).into())
        }
    }
}

/// The values of [`before`].
pub(in crate::store::mysql) fn position(position: Position) -> [Value; 3] {
    let scheduled_at = limited(position.scheduled_at);
    [scheduled_at.into(), scheduled_at.into(), position.seq.into()]
}
