//! Runs a command for each event.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use actix_outbox::{HandleEvent, HandlerError, OutboxEvent};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::mpsc;

pub(super) struct Execute {
    words: Arc<[String]>,
    failed: mpsc::UnboundedSender<io::Error>,
    limit: Duration,
}

impl Execute {
    pub(super) fn new(words: Vec<String>, limit: Duration, failed: mpsc::UnboundedSender<io::Error>) -> Self {
        Self { words: words.into(), limit, failed }
    }
}

impl Actor for Execute {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Execute {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let (words, limit, failed) = (Arc::clone(&self.words), self.limit, self.failed.clone());
        Box::pin(async move {
            // A command that takes longer is killed: the event is delivered again.
            match tokio::time::timeout(limit, execute(&words, &message.event)).await {
                Ok(Ok(status)) if status.success() => Ok(()),
                Ok(Ok(status)) => Err(HandlerError::retry(format_args!("the command ended with {status}"))),
                Ok(Err(error)) => {
                    let reason = HandlerError::retry(format_args!("the command cannot be run: {error}"));
                    if [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied].contains(&error.kind()) {
                        // No event can be handled: the program ends. If this is not received, it ends already.
                        let _ = failed.send(io::Error::new(error.kind(), format!("--exec {}: {error}", words[0])));
                    }
                    Err(reason)
                }
                Err(_) => Err(HandlerError::retry(format_args!("the command was killed after {limit:?}"))),
            }
        })
    }
}

async fn execute(words: &[String], event: &OutboxEvent) -> io::Result<ExitStatus> {
    let [program, arguments @ ..] = words else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).kill_on_drop(true);
    command.env("OUTBOX_EVENT_ID", event.cloud_event_id()).env("OUTBOX_EVENT_TYPE", &event.event_type);
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        let written = input.write_all(event.to_cloud_event_json().as_bytes()).await;
        // A command need not read its input.
        written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
    }
    child.wait().await
}
