//! Handlers across processes: announcements, deliveries that are owed to them, and their answers.

mod announcements;
mod answers;
mod deliveries;
mod housekeeping;
mod owed;
#[cfg(test)]
mod tests;

pub(super) use self::announcements::{announce, drop_handler, see};
pub(super) use self::answers::{handled, rejected};
pub(super) use self::deliveries::{fetch, has_due};
pub(super) use self::housekeeping::{Rounds, finish_settled};
pub(super) use self::owed::{owed, owed_before};
