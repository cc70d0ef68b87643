//! What PostgreSQL's error codes say about a statement.

/// Classes about the state of the server or the connection, not about a statement's values: warnings, connection,
/// transaction state, a statement that is no longer kept, authorization, no such database, rollback, resources, object
/// state, intervention, system errors.
const STATE_CLASSES: [&str; 11] = ["01", "08", "25", "26", "28", "3D", "40", "53", "55", "57", "58"];

/// Whether the error is about the statement's values.
pub(crate) fn is_refusal(sqlstate: &str) -> bool {
    !STATE_CLASSES.iter().any(|class| sqlstate.starts_with(class))
}
