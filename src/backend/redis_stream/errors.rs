//! What Redis' errors mean. Only a named few are about the event; everything else means that Redis is unavailable.

use redis::RedisError;

use crate::backend::BackendError;

/// Parts of error texts that speak of one entry's content.
const ABOUT_THE_EVENT: [&str; 3] =
    ["string exceeds maximum allowed size", "wrong number of arguments", "too many results to unpack"];

pub(super) fn is_about_the_event(error: &str) -> bool {
    ABOUT_THE_EVENT.iter().any(|part| error.contains(part))
}

/// The driver's text, which holds no address and no password.
pub(super) fn unavailable(error: &RedisError) -> BackendError {
    BackendError::Unavailable(format!("Redis: {error}"))
}
