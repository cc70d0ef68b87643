//! Prints each event.

use std::io;

use actix::{Actor, Context, Handler, ResponseFuture};
use actix_outbox::{HandleEvent, HandlerError, OutboxEvent};
use tokio::sync::mpsc;

use crate::output;

pub(super) struct Print {
    failed: mpsc::UnboundedSender<io::Error>,
}

impl Print {
    pub(super) fn new(failed: mpsc::UnboundedSender<io::Error>) -> Self {
        Self { failed }
    }
}

impl Actor for Print {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Print {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let failed = self.failed.clone();
        Box::pin(async move {
            // A reader of the output may let it wait for as long as it likes, as a pager does.
            let written = tokio::task::spawn_blocking(move || line(&message.event)).await?;
            written.map_err(|error| {
                let reason = HandlerError::retry(format_args!("cannot write: {error}"));
                // The program ends already if this is not received.
                let _ = failed.send(error);
                reason
            })
        })
    }
}

/// The event's CloudEvent in one line. JSON has no line ends but in texts, where they are escaped, and between its parts, where
/// a producer may have put them.
pub(super) fn line(event: &OutboxEvent) -> io::Result<()> {
    output::line(output::one_line_json(&event.to_cloud_event_json()))
}
