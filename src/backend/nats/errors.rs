//! The meaning of JetStream's errors, by their numbers. None of them blames an event of a batch for certain.

use std::error::Error;
use std::fmt::Display;

use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;

use crate::backend::BackendError;
use crate::backend::session::Unavailable;

/// The last message of the subject is another one than the write names. The second number is of servers whose text does
/// not name the sequence.
const WRONG_LAST_SEQUENCE: [u64; 2] = [10_071, 10_164];

/// The batch has a message that the stream has, by its `Nats-Msg-Id`.
const DUPLICATE_MESSAGE: u64 = 10_201;

/// A message of the batch did not reach the stream: this user may not publish it, or the stream does not take its subject.
const INCOMPLETE: u64 = 10_176;

/// A message is larger than the stream permits.
const TOO_LARGE: u64 = 10_054;

/// Why a batch, or a single message, was not stored.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A newer session has one of the journals, or a journal is gone.
    Fenced,
    /// The stream has one of the messages.
    Duplicate,
    /// It was refused, or its outcome is unknown.
    Unavailable(Unavailable),
}

impl From<jetstream::Error> for Refusal {
    fn from(error: jetstream::Error) -> Self {
        let ErrorCode(code) = error.error_code();
        if WRONG_LAST_SEQUENCE.contains(&code) {
            return Self::Fenced;
        }
        if code == DUPLICATE_MESSAGE {
            return Self::Duplicate;
        }
        let is_its_state = ![INCOMPLETE, TOO_LARGE].contains(&code);
        Self::Unavailable(Unavailable { reason: format!("JetStream: {error}"), is_its_state })
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self::Unavailable(Unavailable { reason: reason_of_request(&error), is_its_state: is_a_state(&error) })
    }
}

fn is_a_state(error: &RequestError) -> bool {
    error.kind() == RequestErrorKind::NoResponders
}

fn reason_of_request(error: &RequestError) -> String {
    match error.kind() {
        RequestErrorKind::NoResponders => {
            "NATS: no server answers: JetStream is off for this account, or its stream has no leader now".to_owned()
        }
        RequestErrorKind::TimedOut => "NATS: no answer in time".to_owned(),
        _ => format!("NATS: {error}"),
    }
}

/// A refusal by the server, or a failure of the client.
pub(super) fn unavailable(what: &str, error: &(impl Display + ?Sized)) -> BackendError {
    BackendError::Unavailable(format!("NATS: {what}: {error}"))
}

/// An error with the one that caused it, which the client's own texts leave out.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let reason = inner.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = inner.source();
    }
    text
}
