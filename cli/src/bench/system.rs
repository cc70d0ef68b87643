//! An outbox system in this process, as in an application.

use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::oneshot;

use super::env::BenchEnv;
use actix_outbox::Settings;
use actix_outbox::SystemError;
use actix_outbox::{Builder, Outbox, OutboxSystem};

/// A running system on its own thread; shut down when dropped.
pub(super) struct System {
    pub(super) outbox: Outbox,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl System {
    /// Starts a system that works in this process.
    pub(super) async fn working(env: &BenchEnv) -> anyhow::Result<Self> {
        Self::start(env.settings(&["default"]), false).await
    }

    /// Starts a system that only publishes; another process works.
    pub(super) async fn publishing(env: &BenchEnv) -> anyhow::Result<Self> {
        Self::start(env.settings(&["default"]), true).await
    }

    /// Starts a system. `publish_only`: as in an application that has its worker in another process.
    pub(super) async fn start(settings: Settings, publish_only: bool) -> anyhow::Result<Self> {
        let (started, outbox) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let builder = OutboxSystem::builder(settings).publish_only(publish_only);
            actix_rt::System::new().block_on(run(builder, started, stopped));
        });
        let system = outbox.await.context("the thread of an outbox system ended")?;
        Ok(Self { outbox: system?, stop: Some(stop), thread: Some(thread) })
    }
}

async fn run(builder: Builder, started: oneshot::Sender<Result<Outbox, SystemError>>, stopped: oneshot::Receiver<()>) {
    let system = builder.start().await;
    let running = system.as_ref().ok().cloned();
    // If the caller was interrupted, the sender of `stopped` is dropped and it returns immediately.
    drop(started.send(system));
    if let Some(outbox) = running {
        drop(stopped.await);
        drop(outbox.shutdown().await);
    }
}

impl Drop for System {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Its connections must end before the schema is removed.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
