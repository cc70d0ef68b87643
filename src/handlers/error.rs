//! What a handler answers if it could not handle an event.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::backoff::NextTry;

/// Why a handler could not handle an event, and when it is worth another try. The reason is stored in the event's
/// `last_error`; it is for operators, without secrets or payload.
///
/// Any error or text converts into it with `?` or `into()`, and is retried as [`retry`](Self::retry) is.
///
/// ```
/// use std::time::Duration;
///
/// use actix_outbox::HandlerError;
///
/// fn charge(answer: u16) -> Result<(), HandlerError> {
///     match answer {
///         200 => Ok(()),
///         404 => Err(HandlerError::permanent("the customer does not exist")),
///         429 => Err(HandlerError::after(Duration::from_secs(60), "too many requests")),
///         _ => Err("the bank is unavailable")?,
///     }
/// }
/// # assert!(charge(200).is_ok() && charge(500).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    pub(crate) reason: String,
    pub(crate) next_try: NextTry,
}

impl HandlerError {
    /// The event is retried after the time that `retry_backoff` gives, until its retries are spent.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), next_try: NextTry::ByBackoff }
    }

    /// The event is retried after this time, ten years at most, instead of the backoff's. It spends a retry, too.
    pub fn after(delay: Duration, reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), next_try: NextTry::After(delay) }
    }

    /// Why the event was not handled.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether no other try can help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.next_try == NextTry::Never
    }

    /// The time after which the handler wants the event again, if it said so.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.next_try {
            NextTry::After(delay) => Some(delay),
            NextTry::ByBackoff | NextTry::Never => None,
        }
    }

    /// No other try can help: the event becomes `failed` now, unless another handler of it wants to be asked again.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), next_try: NextTry::Never }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retry(error.into())
    }
}
