//! Handlers that do as little as they can.

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, ResponseFuture, WrapFuture};
use actix_outbox::inbox::{InboxError, InboxKey, note_many};
use actix_outbox::{HandleEvent, HandlerError};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use tokio::sync::oneshot;

type Answer = Result<(), HandlerError>;

/// Does nothing.
pub(super) struct NoOp;

impl Actor for NoOp {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for NoOp {
    type Result = Answer;

    fn handle(&mut self, _: HandleEvent, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

/// Notes the events that wait in one transaction, and answers for all of them.
pub(super) struct Noting {
    /// `None` while a transaction is running.
    connection: Option<AsyncPgConnection>,
    waiting: Vec<(InboxKey, oneshot::Sender<Answer>)>,
    most: usize,
}

impl Noting {
    pub(super) fn new(connection: AsyncPgConnection, most: usize) -> Self {
        Self { connection: Some(connection), waiting: Vec::new(), most }
    }

    fn note(&mut self, ctx: &mut Context<Self>) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(mut connection) = self.connection.take() else { return };
        let count = self.waiting.len().min(self.most);
        let (keys, answers): (Vec<_>, Vec<_>) = self.waiting.drain(..count).unzip();
        let work = async move {
            let noted = connection
                .transaction::<_, InboxError<diesel::result::Error>, _>(async |conn| note_many(conn, keys).await)
                .await;
            for answer in answers {
                // A caller that has stopped waiting is asked again.
                let _ = answer.send(noted.as_ref().map(drop).map_err(|error| HandlerError::retry(error)));
            }
            connection
        };
        ctx.spawn(work.into_actor(self).map(|connection, noting, ctx| {
            noting.connection = Some(connection);
            noting.note(ctx);
        }));
    }
}

impl Actor for Noting {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Noting {
    type Result = ResponseFuture<Answer>;

    fn handle(&mut self, message: HandleEvent, ctx: &mut Self::Context) -> Self::Result {
        let (answer, noted) = oneshot::channel();
        self.waiting.push((InboxKey::from(&message), answer));
        if self.waiting.len() == 1 && self.connection.is_some() {
            // After the messages that are in the mailbox by then.
            ctx.run_later(std::time::Duration::ZERO, |noting, ctx| noting.note(ctx));
        }
        Box::pin(async move { noted.await.unwrap_or_else(|_| Err(HandlerError::retry("not noted"))) })
    }
}
