//! The other end: handler actors for the events in streams, with retries, dead letters and order per key.
//!
//! One consumer is a set of tasks around a [`source`](crate::backend::event_source): one reads entries, as many as there is
//! room for ([`held`]); the [`dispatcher`] delivers them ([`delivery`]), those of a key one after the other ([`keys`]), and loads those again
//! ([`loading`]) whose events it has dropped meanwhile; one acknowledges
//! what is handled ([`acknowledging`]), and one renews what is handled for long ([`tasks`]); two more read partitions and keep their leases
//! ([`partitions`]). [`starting`] starts them, and again after a panic.

mod acknowledging;
mod builder;
mod context;
mod dead_letters;
mod delivery;
mod dispatcher;
mod handle;
mod health;
mod held;
mod keys;
mod loading;
mod partitions;
mod starting;
mod status;
mod tail;
mod tasks;
#[cfg(test)]
mod tests;
#[cfg(feature = "http-backend")]
mod webhook;

pub use builder::ConsumerBuilder;
pub use dead_letters::{DeadLetters, LetterAction, LetterFacts, LetterId, LettersChanged};
pub use handle::OutboxConsumer;
pub use health::ConsumerHealth;
pub use status::{ConsumerStatus, StreamStatus};
pub use tail::StreamTail;
#[cfg(feature = "http-backend")]
pub use webhook::WebhookHandler;
