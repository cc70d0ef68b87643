//! Handlers across processes: announcements, deliveries that are owed to them, and their answers.

mod announcements;
mod answers;
mod deliveries;
mod ends;
mod events;
mod housekeeping;
mod owed;
mod owing;
mod recording;
mod rejections;
mod role;

pub(super) use self::housekeeping::{Rounds, finish_settled};
