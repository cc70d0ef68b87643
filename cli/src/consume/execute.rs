//! Runs a command for each event.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use actix_outbox::{HandleEvent, HandlerError, OutboxEvent};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

pub(super) struct Execute {
    words: Arc<[String]>,
    limit: Duration,
}

impl Execute {
    pub(super) fn new(words: Vec<String>, limit: Duration) -> Self {
        Self { words: words.into(), limit }
    }
}

impl Actor for Execute {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Execute {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let (words, limit) = (Arc::clone(&self.words), self.limit);
        Box::pin(async move {
            // A command that takes longer is killed: the event is delivered again.
            match tokio::time::timeout(limit, execute(&words, &message.event)).await {
                Ok(ended) => match ended? {
                    status if status.success() => Ok(()),
                    status => Err(HandlerError::retry(format_args!("the command ended with {status}"))),
                },
                Err(_) => Err(HandlerError::retry(format_args!("the command was killed after {limit:?}"))),
            }
        })
    }
}

async fn execute(words: &[String], event: &OutboxEvent) -> std::io::Result<ExitStatus> {
    let [program, arguments @ ..] = words else { return Err(std::io::ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).kill_on_drop(true);
    command.env("OUTBOX_EVENT_ID", event.cloud_event_id()).env("OUTBOX_EVENT_TYPE", &event.event_type);
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        let written = input.write_all(event.to_cloud_event_json().as_bytes()).await;
        // A command need not read its input.
        written.or_else(|error| if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
    }
    child.wait().await
}
