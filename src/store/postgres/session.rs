//! What all connections of the outbox have in common: READ COMMITTED, whatever the default of the role or the database, and
//! a known schema.
//!
//! Under SERIALIZABLE the outbox's statements would make transactions of writers fail, and under REPEATABLE READ its
//! functions would not see what they waited for. The level is set in the connection's options, as the planner's are.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::Result;
use super::connect::{DriverError, Messages, Target, while_reading};
use super::errors::ConnectError;
use super::index_plans::PlannerOptions;
use super::schema::Schema;
use crate::error::StoreError;

const READ_COMMITTED: &str = "-c default_transaction_isolation=read\\ committed";

/// A connection, and what is known about it.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) messages: Messages,
    /// Whether the server accepted the planner's options.
    pub(super) index_plans: bool,
    pub(super) schema: Arc<Schema>,
}

impl Target {
    /// A connection, with planner options if the server accepts them.
    pub(super) async fn open_session(&self, planner: Option<PlannerOptions>) -> Result<Session> {
        if !self.tries_index_plans() {
            return self.open_plain().await;
        }
        let options = [READ_COMMITTED, planner.map_or("", |planner| planner.options)].join(" ");
        match self.open_with(options.trim_end()).await {
            Ok((client, messages)) => self.check(client, messages, planner).await,
            Err(error) if self.may_refuse_options(&error) => {
                let plain = self.open_plain().await?;
                self.index_plans.disable("refused");
                Ok(plain)
            }
            Err(error) => Err(self.not_connected(&error)),
        }
    }

    async fn open_plain(&self) -> Result<Session> {
        let (client, messages) = self.open_with("").await.map_err(|error| self.not_connected(&error))?;
        self.check(client, messages, None).await
    }

    async fn check(&self, client: Client, mut messages: Messages, planner: Option<PlannerOptions>) -> Result<Session> {
        let witness = planner.map_or("''".to_owned(), |planner| format!("current_setting('{}')", planner.witness));
        let question = format!("SELECT current_setting('default_transaction_isolation'), current_schema(), {witness}");
        let answer = ask(&client, &mut messages, &question).await.map_err(|error| self.connect_error(&error))?;
        let column = |number| answer.as_ref().and_then(|row| row.get(number));
        let index_plans = planner.is_some() && column(2) == Some("off");
        match planner {
            Some(_) if index_plans => self.index_plans.enable(),
            Some(_) => self.index_plans.disable("ignored"),
            None => self.index_plans.note_success(),
        }
        self.warn_of_isolation(column(0).unwrap_or_default());
        let schema = self.schema_or(column(1)).ok_or_else(|| self.no_schema())?;
        Ok(Session { client, messages, index_plans, schema })
    }

    /// Correct all the same, but with failures of transactions that are then retried.
    fn warn_of_isolation(&self, level: &str) {
        if level != "read committed" && !self.has_warned_of_isolation.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                default_transaction_isolation = level,
                "the outbox's transactions are not READ COMMITTED, as its connection options do not reach the server \
                 (through a pooler?): more transactions fail and are retried, also the writers'. Run ALTER ROLE … SET \
                 default_transaction_isolation = 'read committed' for the outbox's role"
            );
        }
    }

    /// Poolers give various reasons, or none. A network failure says nothing about the options.
    fn may_refuse_options(&self, error: &ConnectError) -> bool {
        let Some(error) = error.driver_error() else { return false };
        match error.code() {
            Some(state) => !is_about_the_server(state.code()),
            None => error.is_closed() && self.index_plans.is_refused_silently(),
        }
    }

    /// The schema in the settings, or the one that the first connection found; `found`: what this one finds.
    fn schema_or(&self, found: Option<&str>) -> Option<Arc<Schema>> {
        match (self.schema.get(), found) {
            (Some(schema), _) => Some(Arc::clone(schema)),
            (None, Some(found)) => Some(Arc::clone(self.schema.get_or_init(|| Arc::new(Schema::new(found))))),
            (None, None) => None,
        }
    }

    fn no_schema(&self) -> StoreError {
        self.unsuitable("no schema of its search_path exists: set `database.schema`")
    }
}

async fn ask(client: &Client, messages: &mut Messages, question: &str) -> Result<Option<SimpleQueryRow>, DriverError> {
    let answer = while_reading(messages, client.simple_query(question)).await?;
    Ok(answer.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }))
}

/// Whether the server would refuse plain connections too: authorization, no such database, no resources, shutdown.
fn is_about_the_server(sqlstate: &str) -> bool {
    ["28", "3D", "53", "57"].iter().any(|class| sqlstate.starts_with(class))
}
