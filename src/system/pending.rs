//! `Outbox::process_pending`: a worker that exists for one call.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::builder::Builder;
use super::context::SystemContext;
use super::handle::Outbox;
use crate::error::SystemError;

/// How often it is checked whether the system that it works for is shutting down.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

impl Outbox {
    /// Delivers what is due, `limit` events at most, and returns how many were delivered: for a cron job, or for a serverless
    /// function whose system was built with [`publish_only`](crate::Builder::publish_only). In a system that delivers anyway it
    /// is a second worker for a while.
    ///
    /// It is a worker that takes leases at the beginning and returns them at the end, with connections of its own, so the
    /// guarantees are those of every worker, and any number of calls may run at the same time, in any number of processes. It
    /// sends to the publishers in the settings and calls this system's handlers. An event counts when its outcome is recorded,
    /// whichever it is.
    ///
    /// As [`drained`](Self::drained) does, it waits for backends that are unavailable and for other workers: limit it with
    /// `tokio::time::timeout`. An event whose outcome the database refuses to record is left, with a warning in the log, and does
    /// not count: the next worker records it, or sends it again to a backend without a journal. When the call is dropped, what is in flight is finished and nothing else is started;
    /// [`shutdown`](Self::shutdown) waits for that.
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
    /// [`SystemError::Settings`]: the publishers in the settings cannot be used. [`SystemError::Store`]: this process lacks a
    /// right of a worker. [`SystemError::ShutdownTimeout`]: what was in flight was not finished in time.
    /// [`SystemError::Stopped`]: the system was shut down.
    pub async fn process_pending(&self, limit: usize) -> Result<usize, SystemError> {
        self.addr()?;
        if limit == 0 {
            return Ok(0);
        }
        let (done, result) = oneshot::channel();
        let call = Call { context: Arc::clone(&self.context), _running: Arc::clone(&self.context.calls) };
        self.context.arbiter.spawn(call.run(limit, done));
        result.await.unwrap_or(Err(SystemError::Stopped))
    }
}

/// One call; the system waits for its end.
struct Call {
    context: Arc<SystemContext>,
    _running: Arc<()>,
}

impl Call {
    async fn run(self, limit: usize, mut done: oneshot::Sender<Result<usize, SystemError>>) {
        let started = tokio::select! {
            started = self.start(limit) => started,
            () = self.given_up(&mut done) => Err(SystemError::Stopped),
        };
        let outcome = match started {
            Ok(worker) => self.work(&worker, &mut done).await,
            Err(error) => Err(error),
        };
        drop(self);
        // The caller may have given up.
        let _ = done.send(outcome);
    }

    /// A worker on this system's database, with its handlers.
    async fn start(&self, limit: usize) -> Result<Outbox, SystemError> {
        let builder = Builder {
            settings: Some(self.context.settings.clone()),
            limit: Some(limit),
            backends: (*self.context.backends).clone(),
            shared: self.context.subscriptions(),
            ..Builder::default()
        };
        Ok(builder.launch().await?.0)
    }

    async fn work(
        &self,
        worker: &Outbox,
        done: &mut oneshot::Sender<Result<usize, SystemError>>,
    ) -> Result<usize, SystemError> {
        let is_given_up = tokio::select! {
            _ = worker.drained() => false,
            () = self.given_up(done) => true,
        };
        worker.shutdown().await?;
        if is_given_up {
            return Err(SystemError::Stopped);
        }
        Ok(worker.context.quota.as_ref().map_or(0, |quota| quota.recorded()))
    }

    /// Waits until the caller no longer waits, or the system is shutting down.
    async fn given_up(&self, done: &mut oneshot::Sender<Result<usize, SystemError>>) {
        let stopping = async {
            while !self.context.liveness.is_stopping() {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
        };
        tokio::select! {
            () = done.closed() => {}
            () = stopping => {}
        }
    }
}
