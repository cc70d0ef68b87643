//! An outbox system inside of this process, as an application has one.

use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::oneshot;

use super::env::BenchEnv;
use crate::error::SystemError;
use crate::settings::Settings;
use crate::system::{Builder, Outbox, OutboxSystem};

/// A running system, on a thread of its own; shut down when dropped.
pub(super) struct System {
    pub(super) outbox: Outbox,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl System {
    /// One that works here.
    pub(super) async fn working(env: &BenchEnv) -> anyhow::Result<Self> {
        Self::start(env.settings(&["default"]), false).await
    }

    /// One that only publishes: another process works.
    pub(super) async fn publishing(env: &BenchEnv) -> anyhow::Result<Self> {
        Self::start(env.settings(&["default"]), true).await
    }

    /// `publish_only`: as an application has it beside a worker of its own.
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
    // Whoever started it may have been interrupted; then nobody stops it, and `stopped` says so at once.
    drop(started.send(system));
    if let Some(outbox) = running {
        drop(stopped.await);
        drop(outbox.shutdown().await);
    }
}

impl Drop for System {
    fn drop(&mut self) {
        drop(self.stop.take());
        // What it holds in the schema must be gone before the schema is.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
