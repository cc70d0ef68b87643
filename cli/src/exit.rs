//! Exit codes: 0 done, 1 failed, 2 bad usage or settings.

use std::io::{self, Write};
use std::process::ExitCode;

use actix_outbox::admin::AdminError;
use actix_outbox::{InvalidEvent, SettingsError, SystemError};

pub(super) const FAILED: u8 = 1;
pub(super) const USAGE: u8 = 2;

/// An invalid argument, found after the arguments were parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

/// Prints the error to stderr and returns the exit code.
pub(super) fn code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Err(error) if !is_broken_pipe(&error) => {
            // If stderr is closed, the error cannot be reported.
            drop(writeln!(io::stderr(), "error: {error:#}"));
            ExitCode::from(if is_usage(&error) { USAGE } else { FAILED })
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Whether the reader of stdout has closed it, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<UsageError>()
            || cause.is::<SettingsError>()
            || cause.is::<InvalidEvent>()
            || matches!(cause.downcast_ref(), Some(SystemError::Settings(_)))
            || matches!(cause.downcast_ref(), Some(AdminError::Settings(_)))
    })
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;
    use actix_outbox::StoreError;

    fn settings() -> SettingsError {
        SettingsError::Missing { key: "k".to_owned(), remedy: "r".to_owned() }
    }

    #[test]
    fn bad_settings_and_bad_arguments_are_bad_usage() {
        assert!(is_usage(&settings().into()));
        assert!(is_usage(&SystemError::Settings(settings()).into()));
        assert!(is_usage(&AdminError::Settings(settings()).into()));
        assert!(is_usage(&Err::<(), _>(settings()).context("outer").unwrap_err()));
        assert!(is_usage(&InvalidEvent { field: "id".to_owned(), problem: "is bad".to_owned() }.into()));
        assert!(is_usage(&UsageError("no".to_owned()).into()));
    }

    #[test]
    fn what_went_wrong_on_the_way_is_a_failure() {
        assert!(!is_usage(&StoreError::NotFound(uuid::Uuid::nil()).into()));
        assert!(!is_usage(&anyhow!("x")));
        assert!(is_broken_pipe(&io::Error::from(io::ErrorKind::BrokenPipe).into()));
        assert!(!is_broken_pipe(&anyhow!("x")));
    }
}
