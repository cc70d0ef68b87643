//! Wake-ups between processes: NOTIFY after the commit, LISTEN on a connection of its own.
//!
//! The channel's name contains the outbox's id, so that several outboxes in one database do not wake each other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use diesel_async::SimpleAsyncConnection;
use futures_util::{FutureExt, TryStreamExt};
use tokio_postgres::{AsyncMessage, Client};
use uuid::Uuid;

use super::connect::{Messages, while_reading};
use super::connections::{ConnectionPermit, Opened};
use super::leases::quote;
use super::{PostgresStore, Result, STATEMENT_LIMIT, trigger};
use crate::error::StoreError;
use crate::store::migrate::MigrationPlan;
use crate::store::{Listener, Notification, NotifyStore, Wakeup};

/// A subscription that has received nothing for this long sends itself a notification.
const SILENCE: Duration = Duration::from_secs(5);

/// The time limit for that notification.
const ECHO_LIMIT: Duration = Duration::from_secs(5);

const LISTEN: &str = "listen";

#[async_trait]
impl NotifyStore for PostgresStore {
    async fn announce(&self, outbox: Uuid, sender: Uuid, wakeup: &Wakeup) -> Result<()> {
        notify(self, &channel(outbox), &wakeup.payloads(sender)).await
    }

    async fn subscribe(&self, outbox: Uuid, reader: Uuid, least_silence: Duration) -> Result<Box<dyn Listener + '_>> {
        let mut listener = PostgresListener::open(self, outbox, reader).await?;
        listener.silence = SILENCE.max(least_silence);
        match listener.probe().await {
            Err(StoreError::Timeout { operation: LISTEN, .. }) => Err(self.not_delivered()),
            Err(error) => Err(error),
            Ok(_) => Ok(Box::new(listener)),
        }
    }

    async fn plan_trigger(&self, wanted: bool) -> Result<MigrationPlan> {
        trigger::plan(&self.target, wanted).await
    }

    async fn set_trigger(&self, wanted: bool) -> Result<MigrationPlan> {
        trigger::set(&self.target, wanted).await
    }
}

fn channel(outbox: Uuid) -> String {
    format!("outbox_{}", outbox.simple())
}

/// Notifies in one simple query, over the pool: a listener must not receive only what its own connection sends.
async fn notify(store: &PostgresStore, channel: &str, payloads: &[String]) -> Result<()> {
    if payloads.is_empty() {
        return Ok(());
    }
    let payloads: Vec<String> = payloads.iter().map(|payload| quote(payload)).collect();
    // Not NOTIFY itself, for which no privilege can be revoked.
    let sql = format!("SELECT pg_notify('{channel}', p) FROM unnest(ARRAY[{}]) AS p", payloads.join(", "));
    store.run("notify other processes", |conn| async move { conn.batch_execute(&sql).await }.boxed()).await
}

impl PostgresStore {
    /// The error if nothing arrives: through a pooler in transaction mode LISTEN succeeds, but no notification ever comes.
    fn not_delivered(&self) -> StoreError {
        let reason = if Arc::ptr_eq(&self.target, &self.listening.target) {
            "notifications do not arrive over this connection (is it a pooler in transaction mode?); set \
             database.listen_url to the server's own address"
        } else {
            "notifications do not arrive at database.listen_url (is it a pooler in transaction mode, or another database?)"
        };
        StoreError::Query { operation: LISTEN, reason: reason.to_owned(), transient: false }
    }
}

/// A connection that listens. Notifications wait in its socket, so none accumulate in this process.
struct PostgresListener<'a> {
    store: &'a PostgresStore,
    /// Kept because dropping it would end the connection.
    _client: Client,
    messages: Messages,
    _permit: ConnectionPermit,
    /// The channel for its own notifications.
    echo: String,
    reader: Uuid,
    silence: Duration,
}

impl<'a> PostgresListener<'a> {
    async fn open(store: &'a PostgresStore, outbox: Uuid, reader: Uuid) -> Result<Self> {
        let Opened { client, mut messages, permit, .. } = store.listening.open().await?;
        let echo = format!("outbox_echo_{}", Uuid::new_v4().simple());
        let statement = format!("LISTEN {}; LISTEN {echo}", channel(outbox));
        let answered = tokio::time::timeout(STATEMENT_LIMIT, async {
            while_reading(&mut messages, client.batch_execute(&statement)).await
        });
        match answered.await {
            Ok(Ok(())) => {
                Ok(Self { store, _client: client, messages, _permit: permit, echo, reader, silence: SILENCE })
            }
            Ok(Err(error)) => Err(store.listening.target.driver_error(LISTEN, &error)),
            Err(_) => Err(StoreError::Timeout { operation: LISTEN, limit: STATEMENT_LIMIT }),
        }
    }

    /// The next notification; `None`: one of its own.
    async fn receive(&mut self) -> Result<Option<Notification>> {
        loop {
            let message = self
                .messages
                .try_next()
                .await
                .map_err(|error| self.store.listening.target.driver_error(LISTEN, &error))?;
            match message {
                Some(AsyncMessage::Notification(said)) if said.channel() == self.echo => return Ok(None),
                Some(AsyncMessage::Notification(said)) => {
                    return Ok(Some(Notification::from_payload(said.payload(), self.reader)));
                }
                Some(_) => {}
                None => return Err(self.store.listening.target.unreachable("the listening connection was closed")),
            }
        }
    }

    /// Sends itself a notification over another connection, and waits for it or for an earlier one: neither a dead peer nor
    /// a pooler reports itself. Over its own connection it would receive it even through a pooler.
    async fn probe(&mut self) -> Result<Option<Notification>> {
        notify(self.store, &self.echo, &[String::new()]).await?;
        let heard = tokio::time::timeout(ECHO_LIMIT, self.receive()).await;
        heard.unwrap_or(Err(StoreError::Timeout { operation: LISTEN, limit: ECHO_LIMIT }))
    }
}

#[async_trait]
impl Listener for PostgresListener<'_> {
    async fn next(&mut self) -> Result<Notification> {
        loop {
            let heard = match tokio::time::timeout(self.silence, self.receive()).await {
                Ok(heard) => heard?,
                Err(_) => self.probe().await?,
            };
            if let Some(heard) = heard {
                return Ok(heard);
            }
        }
    }
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
