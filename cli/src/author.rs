//! Who runs this program, for the record of operators' changes.

/// The system's user, as the author of a change.
pub(crate) fn actor() -> String {
    match whoami::username() {
        Ok(user) => format!("command line ({user})"),
        Err(_) => "command line".to_owned(),
    }
}

/// This machine's name.
pub(crate) fn host() -> String {
    whoami::hostname().unwrap_or_default()
}
