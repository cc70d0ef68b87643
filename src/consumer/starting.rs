//! Starts a consumer, keeps its tasks running, and ends them.

use std::sync::Arc;
use std::time::Duration;

use actix::{Arbiter, System};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::acknowledging::acknowledge;
use super::builder::ConsumerBuilder;
use super::context::ConsumerContext;
use super::dispatcher::dispatch;
use super::handle::OutboxConsumer;
use super::partitions::{give_back, keep_leases, read_partitions};
use super::tasks::{read, renew};
use crate::backend::event_source::{ConsumerSource, EventSource};
#[cfg(feature = "nats")]
use crate::backend::nats::source::NatsSource;
use crate::backend::redis::source::RedisSource;
use crate::error::{SettingsError, SystemError};
use crate::handlers::{Subscribe, Subscription, check_handler_name};
use crate::runtime::{RuntimeGuard, process_name};
use crate::settings::Settings;

/// The pause before the tasks are started again after a panic.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// How long the last calls to the server may take.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

impl ConsumerBuilder {
    /// Starts the consumer inside the running actix system. A server that cannot be reached yet is waited for.
    ///
    /// # Errors
    /// [`SystemError::Settings`]: the settings do not describe a consumer that can run. [`SystemError::HandlerNameTaken`]: two
    /// handlers have one name. [`SystemError::NoActixSystem`]: this thread runs no actix system.
    /// [`SystemError::Runtime`]: threads cannot be started.
    pub async fn start(self) -> Result<OutboxConsumer, SystemError> {
        if System::try_current().is_none() || Arbiter::try_current().is_none() {
            return Err(SystemError::NoActixSystem);
        }
        self.settings.check()?;
        let consumer = self.settings.consumer(&self.name)?.clone();
        let source: Arc<dyn EventSource> = Arc::<dyn ConsumerSource>::from(source_of(&self.settings, &self.name)?);
        let started = self.starters.into_iter().map(|start| start());
        let handlers = subscriptions(self.subscriptions.into_iter().chain(started))?;
        let context = Arc::new(ConsumerContext::new(self.name, consumer, source, handlers, self.limit));
        launch(context)
    }
}

/// The streams of a consumer. Nothing is connected.
pub(super) fn source_of(settings: &Settings, name: &str) -> Result<Box<dyn ConsumerSource>, SettingsError> {
    let consumer = settings.consumer(name)?;
    let group = consumer.group.clone().unwrap_or_else(|| name.to_owned());
    let member = consumer.name.clone().unwrap_or_else(process_name);
    let server = settings.server_of(consumer);
    let source: Result<Box<dyn ConsumerSource>, String> = match server.backend.as_str() {
        #[cfg(feature = "nats")]
        "nats" => NatsSource::new(&server, consumer, group, member).map(|source| Box::new(source) as _),
        _ => RedisSource::new(&server, consumer, group, member).map(|source| Box::new(source) as _),
    };
    source.map_err(|problem| SettingsError::Invalid {
        key: format!("consumers.{name}"),
        origin: "the settings".to_owned(),
        problem,
    })
}

fn subscriptions(all: impl Iterator<Item = Subscribe>) -> Result<Vec<Arc<Subscription>>, SystemError> {
    let mut handlers: Vec<Arc<Subscription>> = Vec::new();
    for subscription in all {
        check_handler_name(&subscription.name)?;
        if handlers.iter().any(|handler| handler.name() == subscription.name) {
            return Err(SystemError::HandlerNameTaken { name: subscription.name });
        }
        handlers.push(Arc::new(subscription.into()));
    }
    Ok(handlers)
}

fn launch(context: Arc<ConsumerContext>) -> Result<OutboxConsumer, SystemError> {
    if context.quota.as_ref().is_some_and(|quota| quota.available_permits() == 0) {
        context.stop();
    }
    let runtime = RuntimeGuard::new()?;
    let (report, ended) = watch::channel(false);
    let handle = runtime.handle().clone();
    let running = handle.spawn(run(Arc::clone(&context)));
    // Ends with actix' system.
    actix::spawn(async move {
        // A panic in this task has been logged.
        let _ = running.await;
        report.send_replace(true);
        drop(runtime);
    });
    Ok(OutboxConsumer { context, runtime: handle, ended })
}

/// Runs the tasks until the consumer is to stop, and then ends them.
async fn run(context: Arc<ConsumerContext>) {
    loop {
        let limited = async {
            context.stopped().await;
            tokio::time::sleep(context.settings.shutdown_timeout).await;
        };
        tokio::select! {
            lived = live(&context) => match lived {
                Some(()) => break,
                None => {
                    tracing::error!(consumer = context.name, "a task of the consumer died; starting all again");
                    context.clear();
                    context.pause(RESTART_PAUSE).await;
                }
            },
            () = limited => {
                context.abandon();
                break;
            }
        }
        if context.is_stopping() {
            break;
        }
    }
    if tokio::time::timeout(FAREWELL, leave(&context)).await.is_err() {
        tracing::warn!(consumer = context.name, "the group was not left in time; others take its entries later");
    }
}

/// One life of the tasks. `None` if one of them died.
async fn live(context: &Arc<ConsumerContext>) -> Option<()> {
    let (read_entries, entries) = mpsc::channel(1);
    let (handled, acknowledged) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(read(Arc::clone(context), read_entries.clone()));
    tasks.spawn(acknowledge(Arc::clone(context), acknowledged));
    let endless = [
        tasks.spawn(read_partitions(Arc::clone(context), read_entries)),
        tasks.spawn(keep_leases(Arc::clone(context))),
        tasks.spawn(renew(Arc::clone(context))),
    ];
    let mut dispatching = JoinSet::new();
    dispatching.spawn(dispatch(Arc::clone(context), entries, handled));
    let mut is_over = None;
    loop {
        tokio::select! {
            Some(ended) = dispatching.join_next() => {
                if ended.is_err() {
                    break;
                }
                is_over = Some(());
                endless.iter().for_each(AbortHandle::abort);
            }
            Some(ended) = tasks.join_next() => match ended {
                Ok(()) => {}
                Err(error) if error.is_cancelled() => {}
                Err(_) => break,
            },
            else => return is_over,
        }
    }
    // None of them adds an entry after this.
    tasks.shutdown().await;
    dispatching.shutdown().await;
    None
}

/// Gives what was not handled to the other consumers. Partitions of which handlers still have events are left until the leases end.
async fn leave(context: &ConsumerContext) {
    give_back(context).await;
    let left = match context.source.leases() {
        Some(leases) if !context.is_abandoned() => leases.leave().await,
        _ => Ok(()),
    };
    // What is not left now is taken by others after `reclaim_after`, or when the leases end.
    for result in [left, context.source.leave().await] {
        if let Err(error) = result {
            tracing::debug!(%error, "the group is not left properly");
        }
    }
}
