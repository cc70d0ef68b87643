//! Creates and upgrades the tables. No transaction holds the statements of a version together, so each may be repeated, and an
//! interrupted migration goes on with the first version that is not recorded.

use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Integer, Nullable, Text};
use uuid::Uuid;

use super::adopt::Adoption;
use super::error::Failure;
use super::server::Server;
use super::session::Session;
use super::statement::Statement;
use crate::store::migrate::{
    Migration, MigrationPlan, MigrationProgress, MigrationStep, ProgressFn, find_obstacle, find_pending,
};

const MIGRATIONS: [Migration; 5] = [
    Migration { version: 1, sql: include_str!("../../../migrations/mysql/0001_outbox.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/mysql/0002_leases.sql") },
    Migration { version: 3, sql: include_str!("../../../migrations/mysql/0003_handlers.sql") },
    Migration { version: 4, sql: include_str!("../../../migrations/mysql/0004_operating.sql") },
    Migration { version: 5, sql: include_str!("../../../migrations/mysql/0005_scheduled_at.sql") },
];

/// The name of the server's lock that one migration of a database holds at a time.
const LOCK: &str = "SELECT GET_LOCK(CONCAT('outbox ', LEFT(SHA2(DATABASE(), 256), 40)), 5)";
const UNLOCK: &str = "DO RELEASE_LOCK(CONCAT('outbox ', LEFT(SHA2(DATABASE(), 256), 40)))";

/// The work of a migration in one database.
pub(super) struct Pending {
    server: Server,
    migrations: Vec<&'static Migration>,
    /// The adoption of a table that another program made, or the objections.
    adoption: Option<Result<Adoption, String>>,
}

impl Pending {
    pub(super) async fn find(session: &mut Session<'_>) -> Result<Self, Failure> {
        let server = Server::ask(session).await?;
        let migrations = find_pending(&MIGRATIONS, &find_applied(session).await?);
        // An interrupted migration has left a table with our columns.
        let is_foreign = has_table(session, "outbox_events").await? && !has_seq(session).await?;
        let adoption = match is_foreign {
            true => Some(Adoption::find(session, server, create_events()).await?),
            false => None,
        };
        Ok(Self { server, migrations, adoption })
    }

    pub(super) fn problem(&self) -> Option<&'static str> {
        self.server.problem()
    }

    /// Why the table cannot be adopted.
    pub(super) fn objections(&self) -> Option<&str> {
        self.adoption.as_ref()?.as_ref().err().map(String::as_str)
    }

    pub(super) fn plan(&self) -> MigrationPlan {
        let statements = self.migrations.iter().flat_map(|migration| migration.statements());
        let adoption = self.adoption().map(Adoption::steps).unwrap_or_default();
        let steps = statements.map(|statement| MigrationStep::new(self.server.adapt(statement)));
        let steps = adoption.into_iter().chain(steps).collect();
        MigrationPlan { steps, adopts: self.adoption.is_some(), ..MigrationPlan::default() }
    }

    fn adoption(&self) -> Option<&Adoption> {
        self.adoption.as_ref()?.as_ref().ok()
    }

    /// Runs the migrations, each of which is recorded when its statements are done; returns what was done.
    pub(super) async fn run(&self, session: &mut Session<'_>, watch: &ProgressFn) -> Result<MigrationPlan, Failure> {
        session.be_patient().await?;
        let done = self.run_patiently(session, watch).await;
        let usual = session.be_as_usual().await;
        let plan = done?;
        usual.map(|()| plan)
    }

    async fn run_patiently(&self, session: &mut Session<'_>, watch: &ProgressFn) -> Result<MigrationPlan, Failure> {
        let total = self.migrations.len() as u64;
        let mut taken_up = 0;
        if let Some(adoption) = self.adoption() {
            watch(MigrationProgress { what: "adopting the table", done: 0, total });
            taken_up = adoption.run(session).await?;
        }
        for (done, migration) in self.migrations.iter().enumerate() {
            for statement in migration.statements() {
                let what = statement.lines().find(|line| !line.starts_with("--")).unwrap_or_default();
                watch(MigrationProgress { what, done: done as u64, total });
                session.run_long(&self.server.adapt(statement)).await?;
            }
            let record = "INSERT IGNORE INTO outbox_migrations (version) VALUES (?)";
            session.execute(Statement::<()>::new(record, [i64::from(migration.version).into()])).await?;
        }
        Ok(MigrationPlan { taken_up, ..self.plan() })
    }
}

/// The statement that creates the table of events.
fn create_events() -> &'static str {
    let mut statements = MIGRATIONS.iter().flat_map(Migration::statements);
    statements.find(|statement| statement.contains("EXISTS outbox_events (")).unwrap_or_default()
}

/// Whether this session got the lock.
pub(super) async fn lock(session: &mut Session<'_>) -> Result<bool, Failure> {
    let got: Option<i64> = session.load_one(sql::<Nullable<BigInt>>(LOCK)).await?;
    Ok(got == Some(1))
}

pub(super) async fn unlock(session: &mut Session<'_>) -> Result<(), Failure> {
    session.run(UNLOCK).await
}

/// The outbox's own id, or why the tables cannot be used.
pub(super) async fn read_outbox_id(session: &mut Session<'_>) -> Result<Result<Uuid, &'static str>, Failure> {
    if let Some(obstacle) = find_obstacle(&MIGRATIONS, &find_applied(session).await?) {
        return Ok(Err(obstacle));
    }
    let id: String = session.load_one(sql::<Text>("SELECT CAST(id AS char) FROM outbox_meta")).await?;
    Uuid::try_parse(&id).map(Ok).map_err(Failure::client)
}

async fn find_applied(session: &mut Session<'_>) -> Result<Vec<i32>, Failure> {
    if !has_table(session, "outbox_migrations").await? {
        return Ok(Vec::new());
    }
    session.load(sql::<Integer>("SELECT version FROM outbox_migrations ORDER BY version")).await
}

pub(super) async fn has_table(session: &mut Session<'_>, name: &str) -> Result<bool, Failure> {
    const QUERY: &str =
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    let found: i64 = session.load_one(Statement::<BigInt>::new(QUERY, [name.into()])).await?;
    Ok(found > 0)
}

async fn has_seq(session: &mut Session<'_>) -> Result<bool, Failure> {
    const QUERY: &str = "SELECT COUNT(*) FROM information_schema.columns \
        WHERE table_schema = DATABASE() AND table_name = 'outbox_events' AND column_name = 'seq'";
    let found: i64 = session.load_one(sql::<BigInt>(QUERY)).await?;
    Ok(found > 0)
}
