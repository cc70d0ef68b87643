//! The runtime of a system of actors, and the name of its process.

use tokio::runtime::{Handle, Runtime};

use crate::error::SystemError;

/// The system's own runtime: database and network run here, independent of actix' arbiters.
pub(crate) struct RuntimeGuard(Option<Runtime>);

impl RuntimeGuard {
    pub(crate) fn new() -> Result<Self, SystemError> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("outbox-io")
            .enable_all()
            .build()
            .map_err(SystemError::Runtime)?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("taken only by drop"),
        }
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A runtime must not be dropped in an async context.
            runtime.shutdown_background();
        }
    }
}

/// Host and process id, by which an operator finds the process.
pub(crate) fn process_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}
