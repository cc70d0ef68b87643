//! `Outbox::process_pending`: a worker that exists for one call.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::builder::Builder;
use super::context::{Base, SystemContext};
use super::handle::Outbox;
use crate::error::SystemError;

/// How often it is checked whether the system that it works for is shutting down.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

impl Outbox {
    /// Delivers what is due, `limit` events at most, and returns how many were delivered: for a cron job, or for a serverless
    /// function whose system was built with [`publish_only`](crate::Builder::publish_only). In a system that delivers anyway it
    /// is a second worker for a while.
    ///
    /// It is a worker that takes leases at the beginning and returns them at the end, so the guarantees are those of every
    /// worker, and any number of calls may run at the same time, in any number of processes. It sends to the publishers in the
    /// settings and calls this system's handlers. An event counts when its outcome is recorded, whichever it is.
    ///
    /// As [`drained`](Self::drained) does, it waits for backends that are unavailable and for other workers: limit it with
    /// `tokio::time::timeout`. When the call is dropped, what is in flight is finished and nothing else is started.
    ///
    /// ```no_run
    /// # async fn turn(outbox: &actix_outbox::Outbox) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let delivered = tokio::time::timeout(Duration::from_secs(25), outbox.process_pending(1_000)).await??;
    /// println!("{delivered} events delivered");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SystemError::Settings`]: the publishers in the settings cannot be used. [`SystemError::ShutdownTimeout`]: what was in
    /// flight was not finished in time. [`SystemError::Stopped`]: the system was shut down.
    pub async fn process_pending(&self, limit: usize) -> Result<usize, SystemError> {
        self.addr()?;
        if limit == 0 {
            return Ok(0);
        }
        let (done, result) = oneshot::channel();
        let context = Arc::clone(&self.context);
        self.context.arbiter.spawn(work(context, limit, done));
        result.await.unwrap_or(Err(SystemError::Stopped))
    }
}

async fn work(context: Arc<SystemContext>, limit: usize, mut done: oneshot::Sender<Result<usize, SystemError>>) {
    let worker = match start(&context, limit).await {
        Ok(worker) => worker,
        Err(error) => {
            let _ = done.send(Err(error));
            return;
        }
    };
    let is_aborted = tokio::select! {
        () = worker.drained() => false,
        () = done.closed() => true,
        () = stopping(&context) => true,
    };
    let finished = worker.shutdown().await;
    let delivered = worker.context.quota.as_ref().map_or(0, |quota| quota.recorded());
    let _ = done.send(match finished {
        Ok(()) if is_aborted => Err(SystemError::Stopped),
        finished => finished.map(|()| delivered),
    });
}

/// A worker on this system's database, with its connections and handlers.
async fn start(context: &SystemContext, limit: usize) -> Result<Outbox, SystemError> {
    let settings = context.settings.clone();
    context.backends.check(&settings)?;
    let base = Base { outbox: context.outbox, store: Arc::clone(&context.store), runtime: Arc::clone(&context.guard) };
    let builder = Builder { limit: Some(limit), backends: (*context.backends).clone(), ..Builder::default() };
    Ok(builder.launch_on(base, settings, context.subscriptions()).await?.0)
}

async fn stopping(context: &SystemContext) {
    while !context.liveness.is_stopping() {
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}
