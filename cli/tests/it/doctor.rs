//! `outbox doctor` finds faults that a test plants, and is silent without any.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::postgres::{self, Server};
use crate::support::process::Running;
use crate::support::{PATIENCE, clock, eventually, redis};
use crate::test_outbox::TestOutbox;

/// A server as in production, not as fast as possible.
const SOUND: &[(&str, &str)] = &[("fsync", "on"), ("full_page_writes", "on")];

pub(crate) struct Patient {
    pub(crate) test: TestOutbox,
    redis: redis::Server,
    _postgres: Server,
}

impl Patient {
    pub(crate) async fn new() -> Self {
        let postgres = Server::start_with(SOUND);
        let redis = redis::Server::start(redis::Server::DURABLE);
        let test = TestOutbox::on(postgres.database().await, redis.url()).await;
        Self { test, redis, _postgres: postgres }
    }

    fn command(&self) -> Command {
        self.test.outbox(&self.test.settings().write(), &["doctor", "--format", "json", "--long-transaction", "1s"])
    }

    async fn examine(&self) -> (Option<i32>, Vec<Value>) {
        examine(self.command()).await
    }

    pub(crate) async fn sql(&self, statements: &str) {
        self.test.sql().await.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    async fn redis(&self, command: &str) {
        let mut words = command.split('|');
        let mut request = ::redis::cmd(words.next().unwrap());
        request.arg(words.collect::<Vec<_>>());
        let mut connection = redis::connect(&self.redis.url()).await;
        request.query_async::<()>(&mut connection).await.unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    /// Asserts that the doctor names this check and nothing else, and exits as it matters.
    async fn assert_found(&self, check: &str, severity: &str) {
        let (code, found) = self.examine().await;
        assert_is(code, &found, check, severity);
    }

    async fn assert_well(&self, after: &str) {
        let (code, found) = self.examine().await;
        assert_eq!((code, found), (Some(0), Vec::new()), "after {after}");
    }
}

async fn examine(mut command: Command) -> (Option<i32>, Vec<Value>) {
    let mut program = Running::spawn(&mut command);
    let code = program.wait_exit(PATIENCE).await.code();
    let found = serde_json::from_str(&program.stdout());
    (code, found.unwrap_or_else(|error| panic!("{error}: {} {}", program.stdout(), program.stderr())))
}

#[track_caller]
fn assert_is(code: Option<i32>, found: &[Value], check: &str, severity: &str) {
    let [finding] = found else { panic!("{check}: {found:#?}") };
    assert_eq!((&finding["check"], &finding["severity"]), (&check.into(), &severity.into()), "{finding}");
    assert_eq!(code, Some(i32::from(severity == "danger")), "{finding}");
    assert!(!finding["advice"].as_str().unwrap().is_empty(), "{finding}");
}

/// Check, severity, what plants the fault and what removes it. `{db}` and `{role}` are the database and its role.
const DATABASE_FAULTS: &[(&str, &str, &str, &str)] = &[
    (
        "synchronous_commit",
        "advice",
        "ALTER DATABASE {db} SET synchronous_commit = off",
        "ALTER DATABASE {db} RESET ALL",
    ),
    (
        "standby",
        "danger",
        "ALTER SYSTEM SET synchronous_standby_names = 'gone'",
        "ALTER SYSTEM RESET synchronous_standby_names",
    ),
    ("timeouts", "advice", "ALTER DATABASE {db} SET statement_timeout = '5s'", "ALTER DATABASE {db} RESET ALL"),
    ("timeouts", "advice", "ALTER DATABASE {db} SET idle_session_timeout = '1h'", "ALTER DATABASE {db} RESET ALL"),
    ("track_activities", "advice", "ALTER DATABASE {db} SET track_activities = off", "ALTER DATABASE {db} RESET ALL"),
    ("autovacuum", "danger", "ALTER SYSTEM SET autovacuum = off", "ALTER SYSTEM RESET autovacuum"),
    (
        "autovacuum",
        "danger",
        "ALTER TABLE outbox_events SET (autovacuum_enabled = off)",
        "ALTER TABLE outbox_events RESET (autovacuum_enabled)",
    ),
    (
        "indexes",
        "danger",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'outbox_events_keys'::regclass",
        "UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'outbox_events_keys'::regclass",
    ),
    (
        "cascades",
        "advice",
        "CREATE TABLE child (event uuid REFERENCES outbox_events ON DELETE CASCADE)",
        "DROP TABLE child",
    ),
    (
        "seq",
        "danger",
        "ALTER TABLE outbox_events ALTER COLUMN seq DROP DEFAULT",
        "ALTER TABLE outbox_events ALTER COLUMN seq SET DEFAULT nextval('outbox_events_seq')",
    ),
    ("connections", "danger", "ALTER ROLE {role} CONNECTION LIMIT 3", "ALTER ROLE {role} CONNECTION LIMIT -1"),
    (
        "no_worker",
        "danger",
        "INSERT INTO outbox_events (id, event_type, source) VALUES (gen_random_uuid(), 't', 's')",
        "DELETE FROM outbox_events",
    ),
    (
        "failed",
        "advice",
        "INSERT INTO outbox_events (id, event_type, source, status) VALUES (gen_random_uuid(), 't', 's', 'failed')",
        "DELETE FROM outbox_events",
    ),
    (
        "paused",
        "advice",
        "INSERT INTO outbox_events (id, event_type, source) VALUES (gen_random_uuid(), 't', 's');
            INSERT INTO outbox_pauses (backend) VALUES ('default')",
        "DELETE FROM outbox_events; DELETE FROM outbox_pauses",
    ),
    (
        "usable",
        "danger",
        "ALTER TABLE outbox_migrations RENAME TO away",
        "ALTER TABLE away RENAME TO outbox_migrations",
    ),
];

#[tokio::test]
async fn each_fault_of_the_database_is_found_and_a_sound_one_is_not_complained_of() {
    let patient = Patient::new().await;
    patient.assert_well("nothing").await;
    let (db, role): (String, String) = {
        let row = patient.test.sql().await.query_one("SELECT current_database()::text, current_user::text", &[]).await;
        let row = row.unwrap();
        (row.get(0), row.get(1))
    };
    let filled =
        |statement: &str| statement.replace("{db}", &format!("\"{db}\"")).replace("{role}", &format!("\"{role}\""));
    for (check, severity, plant, remove) in DATABASE_FAULTS {
        patient.sql(&filled(plant)).await;
        reload(&patient).await;
        patient.assert_found(check, severity).await;
        patient.sql(&filled(remove)).await;
        reload(&patient).await;
        patient.assert_well(plant).await;
    }
}

/// Waits until the server has read its configuration again.
async fn reload(patient: &Patient) {
    let sql = patient.test.sql().await;
    let loaded = "SELECT pg_conf_load_time()";
    let before: std::time::SystemTime = sql.query_one(loaded, &[]).await.unwrap().get(0);
    sql.query_one("SELECT pg_reload_conf()", &[]).await.unwrap();
    eventually("the configuration is read", PATIENCE, async || {
        let sql = patient.test.sql().await;
        sql.query_one(loaded, &[]).await.unwrap().get::<_, std::time::SystemTime>(0) > before
    })
    .await;
}

#[tokio::test]
async fn a_server_that_may_lose_what_is_committed_is_found() {
    let (server, redis) = (Server::start(), redis::Server::start(redis::Server::DURABLE));
    let test = TestOutbox::on(server.database().await, redis.url()).await;
    let (code, found) = examine(test.outbox(&test.settings().write(), &["doctor", "--format", "json"])).await;
    let checks: Vec<&str> = found.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    assert_eq!((code, checks), (Some(1), vec!["durability"; 2]), "fsync and full_page_writes are off");
}

#[tokio::test]
async fn a_long_transaction_is_found_with_its_process() {
    let patient = Patient::new().await;
    let idle = patient.test.sql().await;
    idle.batch_execute("BEGIN; SELECT 1 FROM outbox_meta").await.unwrap();
    let process: i32 = idle.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (code, found) = patient.examine().await;
    assert_is(code, &found, "long_transaction", "advice");
    assert!(found[0]["problem"].as_str().unwrap().contains(&format!("process {process} ")), "{found:?}");
    idle.batch_execute("ROLLBACK").await.unwrap();
    patient.assert_well("the transaction").await;
}

#[tokio::test]
async fn what_lies_with_the_settings_or_this_machine_is_found() {
    let patient = Patient::new().await;
    let mut many = patient.command();
    many.env("OUTBOX__DATABASE__CONNECTIONS", "500");
    let (code, found) = examine(many).await;
    assert_is(code, &found, "connections", "danger");
    let mut fast = patient.command();
    clock::shift(&mut fast, 3_600);
    let (code, found) = examine(fast).await;
    assert!(found.iter().all(|finding| finding["check"] == "clock") && found.len() == 2, "{found:#?}");
    assert_eq!(code, Some(0));
    let mut elsewhere = patient.command();
    elsewhere.env("OUTBOX__PUBLISHERS__DEFAULT__URL", "redis://127.0.0.1:1/0");
    let (code, found) = examine(elsewhere).await;
    assert_is(code, &found, "usable", "danger");
    assert_eq!(found[0]["part"], "publisher default");
}

#[tokio::test]
async fn a_role_with_too_few_rights_or_that_sees_a_part_is_found() {
    let patient = Patient::new().await;
    patient.sql("CREATE ROLE few LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO few").await;
    let mut url = url::Url::parse(patient.test.url()).unwrap();
    url.set_username("few").unwrap();
    let as_few = || {
        let mut command = patient.command();
        command.env("OUTBOX__DATABASE__URL", url.as_str());
        command
    };
    let (code, found) = examine(as_few()).await;
    assert_is(code, &found, "usable", "danger");
    assert!(found[0]["problem"].as_str().unwrap().contains("INSERT, UPDATE, DELETE on outbox_events"), "{found:?}");
    patient
        .sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO few; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO few")
        .await;
    let (code, found) = examine(as_few()).await;
    assert_eq!((code, found), (Some(0), Vec::new()));
    patient.sql("ALTER TABLE outbox_events ENABLE ROW LEVEL SECURITY").await;
    let (code, found) = examine(as_few()).await;
    assert_is(code, &found, "usable", "danger");
    assert!(found[0]["problem"].as_str().unwrap().contains("row-level security"), "{found:?}");
}

/// Check, severity, the commands that plant the fault and those that remove it; `|` separates their words.
const REDIS_FAULTS: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "eviction",
        "danger",
        &["CONFIG|SET|maxmemory|100mb", "CONFIG|SET|maxmemory-policy|allkeys-lru"],
        &["CONFIG|SET|maxmemory|0", "CONFIG|SET|maxmemory-policy|noeviction"],
    ),
    ("eviction", "advice", &["CONFIG|SET|maxmemory-policy|volatile-ttl"], &["CONFIG|SET|maxmemory-policy|noeviction"]),
    ("persistence", "danger", &["CONFIG|SET|save|", "CONFIG|SET|appendonly|no"], &["CONFIG|SET|appendonly|yes"]),
    (
        "persistence",
        "advice",
        &["CONFIG|SET|save|3600 1", "CONFIG|SET|appendonly|no"],
        &["CONFIG|SET|save|", "CONFIG|SET|appendonly|yes"],
    ),
    ("usable", "danger", &["CONFIG|SET|maxmemory|1"], &["CONFIG|SET|maxmemory|0"]),
    ("usable", "danger", &["ACL|SETUSER|default|-xadd"], &["ACL|SETUSER|default|+xadd"]),
    ("rights", "advice", &["ACL|SETUSER|default|-info"], &["ACL|SETUSER|default|+info"]),
    ("usable", "danger", &["CONFIG|SET|min-replicas-to-write|1"], &["CONFIG|SET|min-replicas-to-write|0"]),
];

#[tokio::test]
async fn each_fault_of_redis_is_found_and_a_sound_one_is_not_complained_of() {
    let patient = Patient::new().await;
    for (check, severity, plant, remove) in REDIS_FAULTS {
        for command in *plant {
            patient.redis(command).await;
        }
        patient.assert_found(check, severity).await;
        for command in *remove {
            patient.redis(command).await;
        }
        patient.assert_well(plant[0]).await;
    }
}

#[tokio::test]
async fn a_group_that_is_about_to_lose_entries_is_found() {
    let patient = Patient::new().await;
    let stream = patient.test.stream_name().to_owned();
    patient.test.insert(9, 1).await;
    patient.test.drain(&patient.test.settings().write()).await;
    patient.redis(&format!("XGROUP|CREATE|{stream}|mailer|0")).await;
    let with_limit = |most: &str| {
        let mut command = patient.command();
        command.env("OUTBOX__PUBLISHERS__DEFAULT__MAX_LEN", most);
        command
    };
    let (code, found) = examine(with_limit("10")).await;
    assert_is(code, &found, "max_len", "danger");
    assert!(found[0]["problem"].as_str().unwrap().contains("\"mailer\" is 9 entries behind"), "{found:?}");
    assert_eq!(examine(with_limit("1000")).await, (Some(0), Vec::new()));
    assert_eq!(examine(with_limit("0")).await, (Some(0), Vec::new()));
}

#[tokio::test]
async fn the_findings_are_printed_for_people_too() {
    let test = TestOutbox::unmigrated(postgres::database().await, redis::url());
    let mut program = Running::spawn(&mut test.outbox(&test.settings().write(), &["doctor"]));
    assert_eq!(program.wait_exit(PATIENCE).await.code(), Some(1));
    let said = program.stdout();
    assert!(said.contains("danger: database: ") && said.contains("run `outbox migrate`"), "{said}");
    assert!(program.stderr().contains("danger"), "{}", program.stderr());
}
