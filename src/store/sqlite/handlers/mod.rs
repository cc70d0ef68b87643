//! Handlers across processes: announcements, deliveries that are owed to them, and their answers.

mod announcements;
mod answers;
mod deliveries;
mod housekeeping;
mod owed;
mod owing;

pub(super) use self::announcements::{announce, drop_announcement, see};
pub(super) use self::answers::{end, record_handled, record_rejected};
pub(super) use self::deliveries::{Found, fetch, has_due, postpone};
pub(super) use self::housekeeping::{Rounds, finish_settled};
pub(super) use self::owed::{owed, owed_before};
pub(super) use self::owing::{Announced, Owing, decide};
