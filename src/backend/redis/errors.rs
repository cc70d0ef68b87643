//! The meaning of Redis' errors. Only one named error is about the event; any other means that Redis is unavailable.

use redis::RedisError;

use crate::backend::BackendError;
use crate::backend::session::Unavailable;

/// The code of errors that have none of their own.
const NO_CODE: &str = "ERR";

/// The code of a command that needs more memory than is left.
const NO_MEMORY: &str = "OOM";

/// The code of a command for a key of another type.
const WRONG_TYPE: &str = "WRONGTYPE";

/// The code of a command that the user has no right to, or not for this key.
#[cfg(feature = "consumer")]
const NO_RIGHT: &str = "NOPERM";

/// The code of a script for keys in several slots of a Redis Cluster, and what to do.
const OTHER_SLOT: &str = "CROSSSLOT";
const SAME_SLOT: &str =
    " (in a Redis Cluster, `stream_name` needs a hash tag that all its names have, as in {shop}.events.{type})";

/// XADD's error for an entry of more than 1 GiB: the only one that it has for an entry that is made of fields and values.
const ABOUT_THE_EVENT: &str = "Elements are too large to be stored";

pub(super) fn is_about_the_event(error: &str) -> bool {
    error.contains(ABOUT_THE_EVENT)
}

/// An error in a script's answer, which begins with its code.
pub(super) fn of_a_script(error: &str) -> Unavailable {
    Unavailable { reason: format!("Redis: {error}"), is_its_state: names_a_state(code(error)) }
}

pub(super) fn is_out_of_memory(error: &str) -> bool {
    code(error) == NO_MEMORY
}

pub(super) fn is_about_the_key(error: &str) -> bool {
    code(error) == WRONG_TYPE
}

/// Whether a command or a script needs a group that does not exist; a stream that is deleted while a consumer waits for its
/// entries is `UNBLOCKED`.
#[cfg(feature = "consumer")]
pub(super) fn is_missing_group(error: &RedisError) -> bool {
    matches!(whole_code(error).as_deref(), Some("NOGROUP" | "UNBLOCKED"))
}

#[cfg(feature = "consumer")]
pub(super) fn is_existing_group(error: &RedisError) -> bool {
    error.code() == Some("BUSYGROUP")
}

/// Whether a command is refused for its key: the same command for another key may succeed.
#[cfg(feature = "consumer")]
pub(super) fn is_refused_for_its_key(error: &RedisError) -> bool {
    matches!(whole_code(error).as_deref(), Some(WRONG_TYPE | NO_RIGHT))
}

/// Whether a command that adds something is refused because the server has no memory for it.
#[cfg(feature = "consumer")]
pub(super) fn is_out_of_memory_for(error: &RedisError) -> bool {
    whole_code(error).as_deref() == Some(NO_MEMORY)
}

/// The code of an error, also of a command in a script, or of the first one in a pipeline.
#[cfg(feature = "consumer")]
fn whole_code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors();
    let first = errors.as_ref().and_then(|errors| errors.first()).map(|(_, error)| error);
    let (own, detail) =
        first.map_or_else(|| (error.code(), error.detail()), |error| (Some(error.code()), error.details()));
    match (own?, detail) {
        (NO_CODE, Some(detail)) => Some(code(detail).to_owned()),
        (own, _) => Some(own.to_owned()),
    }
}

fn code(error: &str) -> &str {
    // Before Redis 7 an error in a script begins with its place, and may have another text before that.
    let behind_place = error.rsplit_once("@user_script:").and_then(|(_, rest)| rest.trim_start().split_once(": "));
    let error = behind_place.map_or(error, |(_, error)| error);
    let code = error.trim_start_matches('-').split(' ').next().unwrap_or_default();
    let is_a_code = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_a_code { code } else { NO_CODE }
}

/// Whether a code names a state of Redis in which it refuses all clients: `OOM`, `READONLY`, `LOADING`, `MISCONF` ….
fn names_a_state(code: &str) -> bool {
    code != NO_CODE
}

/// Like [`unavailable`], for a call that sent events.
pub(super) fn unavailable_for_events(error: &RedisError) -> Unavailable {
    let is_its_state = error.code().is_some_and(names_a_state);
    let advice = if error.code() == Some(OTHER_SLOT) { SAME_SLOT } else { "" };
    Unavailable { reason: format!("{}{advice}", reason(error)), is_its_state }
}

pub(super) fn unavailable(error: &RedisError) -> BackendError {
    BackendError::Unavailable(reason(error))
}

/// The driver's text, which holds no password.
pub(super) fn reason(error: &RedisError) -> String {
    format!("Redis: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_in_the_errors_of_all_versions() {
        for (error, expected) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
            ("-READONLY You can't write against a read only replica.", "READONLY"),
            ("@user_script: 33: -OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
            ("@user_script: 7: The user executing the script can't run this command or subcommand", "ERR"),
            (
                "Error running script (call to f_1b2c): @user_script:5: -NOGROUP No such key 'events' or consumer group 'mailer'",
                "NOGROUP",
            ),
            ("Wrong number of args calling Redis command From Lua script", "ERR"),
        ] {
            assert_eq!(code(error), expected, "{error}");
        }
    }
}
