//! Connections on which a statement that is planned once stays right.
//!
//! What a worker reads with is kept by the server, and with it the plan. One that is made while the table is empty may read
//! all of it, which costs nothing then, and would do so with a million rows (R4). So the connections for reading rule out
//! every way but that by an index, in its order. They say so as they connect: a pooler that hands connections around would
//! give a later SET to whoever comes next. Where that is refused or not heeded, statements are planned anew each time.

use std::sync::atomic::Ordering;

use tokio_postgres::Client;

use super::connect::Target;
use crate::error::StoreError;

/// A plan that cannot do without one of them counts as dear, so that it would be compiled, too.
const STEERED: &str = "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_sort=off \
    -c enable_incremental_sort=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off \
    -c max_parallel_workers_per_gather=0";

impl Target {
    /// Whether a statement may be kept from call to call.
    pub(super) fn is_steered(&self) -> bool {
        self.steered.load(Ordering::Relaxed)
    }

    /// A connection for reading.
    pub(super) async fn connect_steered(&self) -> Result<Client, StoreError> {
        if self.is_steered() {
            let mut config = self.config.clone();
            let options = [self.config.get_options().unwrap_or_default(), STEERED].join(" ");
            config.options(options.trim_start());
            match self.connect_with(&config).await? {
                Ok(client) if self.heeds(&client).await? => return Ok(client),
                Ok(_) => self.give_up_steering("they are not heeded"),
                Err(error) if is_about_the_server(&error) => return Err(self.connect_error(&error)),
                // Poolers name various reasons, or none.
                Err(_) => {
                    let client = self.connect().await?;
                    self.give_up_steering("they are refused");
                    return Ok(client);
                }
            }
        }
        self.connect().await
    }

    async fn heeds(&self, client: &Client) -> Result<bool, StoreError> {
        let answer = client.simple_query("SELECT current_setting('enable_sort')").await;
        let answer = answer.map_err(|error| self.connect_error(&error))?;
        Ok(answer.iter().any(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("off"),
            _ => false,
        }))
    }

    fn give_up_steering(&self, why: &str) {
        self.steered.store(false, Ordering::Relaxed);
        tracing::debug!(
            why,
            "options of a connection do not reach the server, as through a pooler; each statement is planned anew"
        );
    }
}

/// It would refuse a connection without options as well: authorization, no such database, no resources, shutting down.
fn is_about_the_server(error: &tokio_postgres::Error) -> bool {
    let classes = ["28", "3D", "53", "57"];
    error.code().is_some_and(|code| classes.iter().any(|class| code.code().starts_with(class)))
}
