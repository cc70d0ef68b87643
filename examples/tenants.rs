//! Multi-tenant: a schema for each tenant, with an outbox of its own. A tenant's events, workers, leases and wake-ups are as
//! separate as in a database of its own; here one process runs an `OutboxSystem` for each. Ends by itself.
//!
//! ```sh
//! export DATABASE_URL=postgres://localhost/app
//! export OUTBOX__PUBLISHERS__DEFAULT__BACKEND=local     # for handlers alone
//! cargo run --example tenants
//! ```
//!
//! The schemas `tenant_acme` and `tenant_globex` are created in that database. `outbox worker` serves a tenant likewise, with
//! `OUTBOX__DATABASE__SCHEMA=tenant_acme`. Each system has a thread, a heartbeat and a few connections, and the metrics of one
//! process are summed: for hundreds of tenants use one outbox, and name the tenant in an extension of the event.

use std::collections::BTreeMap;

use actix::prelude::*;
use actix_outbox::{
    EventTypes, HandleEvent, HandlerError, LoadOptions, NewEvent, Outbox, OutboxSystem, Settings, Subscribe,
};
use diesel::sql_types::Text;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

const TENANTS: [&str; 2] = ["acme", "globex"];

/// Handles the events of one tenant.
struct Mailer {
    tenant: &'static str,
}

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Mailer {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        println!("{}: welcome, {}", self.tenant, message.event.subject);
        Ok(())
    }
}

fn schema(tenant: &str) -> String {
    format!("tenant_{tenant}")
}

/// The outbox of a tenant, and a worker for it.
async fn start(mut settings: Settings, pool: &Pool<AsyncPgConnection>, tenant: &'static str) -> anyhow::Result<Outbox> {
    settings.database.schema = Some(schema(tenant));
    settings.database.connections = Some(2); // of the worker; the default is four for each processor
    let outbox = OutboxSystem::builder(settings)
        .migrate(true) // creates the schema, and the outbox's tables in it
        .subscribe(Subscribe::new("mailer", EventTypes::All, Mailer { tenant }.start().recipient()))
        .start()
        .await?;
    let users = format!("CREATE TABLE IF NOT EXISTS {}.users (name text PRIMARY KEY)", schema(tenant));
    pool.get().await?.batch_execute(&users).await?;
    Ok(outbox)
}

/// Stores a user and an event in the tenant's schema, both or neither. A name that is taken changes nothing.
async fn create_user(pool: &Pool<AsyncPgConnection>, outbox: &Outbox, tenant: &str, name: &str) -> anyhow::Result<()> {
    outbox
        .transaction(&mut pool.get().await?, async |conn| {
            // Until the transaction ends, the search path decides whose `users` and whose outbox are written.
            let path = diesel::sql_query("SELECT set_config('search_path', $1, true)");
            path.bind::<Text, _>(schema(tenant)).execute(conn).await?;
            let insert = diesel::sql_query("INSERT INTO users (name) VALUES ($1) ON CONFLICT DO NOTHING");
            if insert.bind::<Text, _>(name).execute(conn).await? == 1 {
                let event = NewEvent::new("user.created", "user-service").subject(name).partition_key(name);
                actix_outbox::publish(conn, event).await?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}

#[actix::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::load(&LoadOptions::from_process())?;
    let pool = settings.database.pool::<AsyncPgConnection>(16)?; // one for all tenants
    let mut tenants = BTreeMap::new();
    for tenant in TENANTS {
        tenants.insert(tenant, start(settings.clone(), &pool, tenant).await?);
    }
    // A request names its tenant, for example by its host.
    for (tenant, user) in [("acme", "Ada"), ("globex", "Grace"), ("acme", "Alan")] {
        create_user(&pool, &tenants[tenant], tenant, user).await?;
    }
    for outbox in tenants.into_values() {
        outbox.drained().await;
        outbox.shutdown().await?;
    }
    Ok(())
}
