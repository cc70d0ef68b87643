//! Handler actors: what they receive and answer, and how they are called. The worker and the consumer call them alike.

mod attempt;
mod error;
mod event_types;
mod message;
mod recipient;
mod subscribe;
mod subscription;
mod timer;
mod typed;

pub use attempt::Attempt;
pub use error::HandlerError;
pub use event_types::EventTypes;
pub use message::HandleEvent;
pub use subscribe::Subscribe;
pub(crate) use subscribe::check_handler_name;
pub(crate) use subscription::{Outcome, Subscription};
pub use typed::HandleTyped;
