//! For tests of applications (feature `testing`). See `docs/testing.md` for all of it in use.
//!
//! - [`Published`] and [`assert_published!`](crate::assert_published): which events a connection sees, also within the test's
//!   own transaction.
//! - [`run_handler`]: a handler actor with an event that no database has; [`NewEvent::preview`](crate::NewEvent::preview) makes
//!   the event.
//! - [`TestOutbox`]: an outbox in a SQLite file or a PostgreSQL schema of the test's own.
//! - [`advance`] and [`make_due`]: time passes for events that wait.

mod expected;
mod handling;
mod outbox;
mod published;
mod time;

pub use expected::Expected;
pub use handling::{handle_event, run_handler};
pub use outbox::TestOutbox;
pub use published::Published;
pub use time::{advance, make_due};
