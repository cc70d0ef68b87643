//! What Redis' errors mean. Only a named one is about the event; everything else means that Redis is unavailable.

use redis::RedisError;

use crate::backend::BackendError;

/// XADD's answer to an entry of more than 1 GiB: all that it refuses of an entry that is made of fields and values.
const ABOUT_THE_EVENT: &str = "Elements are too large to be stored";

pub(super) fn is_about_the_event(error: &str) -> bool {
    error.contains(ABOUT_THE_EVENT)
}

pub(super) fn unavailable(error: &RedisError) -> BackendError {
    BackendError::Unavailable(reason(error))
}

/// The driver's text, which holds no password.
pub(super) fn reason(error: &RedisError) -> String {
    format!("Redis: {error}")
}
