//! Handlers across processes: announcements, deliveries that are owed to them, and their answers.

mod announcements;
mod answers;
mod deliveries;
mod ends;
mod housekeeping;
mod owed;
mod owing;
mod rejections;
mod role;
mod rows;

pub(super) use self::housekeeping::{Rounds, finish_settled};
