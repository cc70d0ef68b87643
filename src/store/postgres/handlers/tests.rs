//! The deliveries of an absent handler cost other statements nothing; concurrent answers.

use std::time::Duration;

use uuid::Uuid;

use crate::event::Status;
use crate::store::conformance::Fixture;
use crate::store::postgres::fixture::PostgresFixture;
use crate::store::postgres::plans_tests::{
    CALLS, MOST_REMOVED, accepted, explaining_server, plans, ranges, removed_rows,
};
use crate::store::postgres::{PostgresStore, SHARDS, Target};
use crate::store::{
    Action, AdminStore, Announcement, AuditNote, Care, CountMode, DeliveryRequest, DispatchStore, FetchRequest,
    HandledDelivery, HandlerStore, Heartbeat, KeyStart, MaintenanceStore, Position, PredecessorQuery, RejectedDelivery,
    RetentionCursor, RetentionCutoff, SchemaStore, Settled, Shard, Store, UnrecordedEvents, handler_lane,
};

const HOUR: Duration = Duration::from_secs(3600);

const OWED: usize = 50_000;

/// The most pages that one statement may read; the deliveries of the absent handler fill many times as many.
const MOST_PAGES: u64 = 3_000;

/// Events that are owed to an absent handler, 300 of which are owed to another as well, of the same keys.
fn fill() -> String {
    format!(
        "INSERT INTO outbox_events (id, event_type, source, publisher_backend, partition_key, status, published_at, \
            pending_handlers, scheduled_at, data) \
         SELECT gen_random_uuid(), 't', 's', 'orders', 'key-' || i % 5003, 'processing', now(), '[\"absent\"]', \
            now() - interval '1 hour' + i * interval '1 millisecond', to_jsonb(repeat('x', 100)) \
            FROM generate_series(1, {OWED}) AS i; \
         INSERT INTO outbox_handler_deliveries \
            (event_id, seq, handler, generation, lane, shard, partition_key, scheduled_at, max_attempts) \
         SELECT e.id, e.seq, h.name, h.generation, e.publisher_backend, outbox_shard(e.partition_key, e.id), e.partition_key, \
            e.scheduled_at, 3 FROM outbox_events e JOIN outbox_handlers h \
                ON h.name = 'absent' OR h.name = 'mail' AND e.seq <= 300"
    )
}

fn announcement(name: &str) -> Announcement {
    Announcement { name: name.to_owned(), types: vec!["*".to_owned()], owed_for: 24 * HOUR }
}

fn request() -> DeliveryRequest {
    DeliveryRequest {
        handler: "mail".to_owned(),
        shards: (0..SHARDS).collect(),
        except: vec![(Uuid::nil(), 1)],
        max_events: 100,
        max_bytes: usize::MAX,
        max_event_bytes: usize::MAX,
    }
}

/// Runs all statements of workers, handlers, the janitor and operators, except those that count all deliveries.
async fn ask(store: &PostgresStore, owner: Uuid, epoch: i64) -> Vec<(Uuid, i64)> {
    let everything = FetchRequest {
        retry_shards: (0..SHARDS).collect(),
        keys: vec![KeyStart::whole("key-7")],
        ..ranges(Position::START, None)
    };
    assert!(store.fetch(&everything).await.unwrap().rows.is_empty());
    let before = Position { scheduled_at: i64::MAX, seq: i64::MAX };
    let question = PredecessorQuery { key: "key-7".to_owned(), from: Position::START, before, except: Vec::new() };
    assert!(store.blockers("orders", true, &[question]).await.unwrap().is_empty());
    assert!(!store.has_due(&["orders".into()], &["orders".into()], &UnrecordedEvents::default()).await.unwrap());
    assert!(store.due().await.unwrap().is_empty());
    let keys: Vec<String> = (0..100).map(|key| format!("key-{key}")).collect();
    store.owed_before("orders", &keys).await.unwrap();
    store.has_due_deliveries(&["mail".to_owned()]).await.unwrap();
    let found = store.fetch_deliveries(&request()).await.unwrap();
    let answers: Vec<_> =
        found.iter().take(10).map(|found| HandledDelivery::kept(&found.handler, found.id, found.seq)).collect();
    for care in [Care::Usual, Care::AfterDoubt] {
        let outcomes = store.settle_handled(&answers, care).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Settled::Recorded));
    }
    let rejected: Vec<RejectedDelivery> = found
        .iter()
        .skip(10)
        .take(10)
        .map(|found| RejectedDelivery {
            handler: "mail".to_owned(),
            id: found.id,
            seq: found.seq,
            shard: Shard { lane: handler_lane("mail"), number: found.shard },
            epoch,
            fetched_attempts: found.attempts,
            attempts: found.attempts + 1,
            delay: Duration::ZERO,
            error: "no".to_owned(),
            gives_up: false,
            holds: false,
        })
        .collect();
    let outcomes = store.settle_rejected_deliveries(owner, &rejected).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Settled::Recorded), "{outcomes:?}");
    let ids: Vec<(Uuid, i64)> = found.iter().map(|found| (found.id, found.seq)).collect();
    store.settle_published(&accepted(&ids), Care::AfterDoubt).await.unwrap();
    store
        .change(&Action::Retry, &ids.iter().take(5).map(|(id, _)| *id).collect::<Vec<_>>(), &AuditNote::default())
        .await
        .unwrap();
    let expiry = RetentionCutoff { published: Some(24 * HOUR), failed: Some(Duration::ZERO), limit: 500 };
    assert_eq!(store.delete_expired(expiry, &[], RetentionCursor::default()).await.unwrap().deleted, 0);
    ids
}

fn pages(plan: &str) -> u64 {
    let line = plan.lines().find(|line| line.trim_start().starts_with("Buffers: shared")).unwrap_or_default();
    let number = |word: &str| word.split_once('=').and_then(|(_, number)| number.parse::<u64>().ok());
    line.split(' ').filter(|word| word.starts_with("hit=") || word.starts_with("read=")).filter_map(number).sum()
}

#[tokio::test]
async fn what_an_absent_handler_is_owed_costs_no_other_statement_pages() {
    let server = explaining_server();
    let database = server.database().await;
    let open = || PostgresStore::new(Target::from_url(&database.url).unwrap(), None).unwrap();
    let early = open();
    early.migrate(&|_| ()).await.unwrap();
    early.announce(&[announcement("mail"), announcement("absent")]).await.unwrap();
    let client = database.connect().await;
    client.batch_execute("ANALYZE").await.unwrap();
    let owner = Uuid::now_v7();
    let lane = handler_lane("mail");
    let mut leases = early.leases();
    let beat = Heartbeat {
        worker: owner,
        name: "test".to_owned(),
        backends: "{}".to_owned(),
        handlers: "[]".to_owned(),
        lanes: vec![lane.clone()],
        held: Vec::new(),
        extends: true,
        lease: HOUR,
    };
    leases.beat(&beat).await.unwrap();
    let epoch = leases.acquire(owner, &lane, 32, HOUR).await.unwrap()[0].1;
    for _ in 0..CALLS {
        assert!(ask(&early, owner, epoch).await.is_empty());
    }
    client.batch_execute(&fill()).await.unwrap();
    let asked_from = server.log().len();
    assert_eq!(ask(&early, owner, epoch).await.len(), 100);
    for mode in ["auto", "force_generic_plan", "force_custom_plan"] {
        let set = format!("ALTER DATABASE {} SET plan_cache_mode = {mode}", database.name);
        client.batch_execute(&set).await.unwrap();
        assert!(!ask(&open(), owner, epoch).await.is_empty(), "{mode}");
        assert_eq!(open().finish_settled().await.unwrap(), 0);
    }
    let log = server.log();
    let plans = plans(&log[asked_from..]);
    assert!(plans.len() >= 60, "{} plans were written down", plans.len());
    for plan in plans.iter().filter(|plan| !plan.starts_with("ALTER")) {
        assert!(!plan.contains("Seq Scan on outbox_events"), "{plan}");
        assert!(!plan.contains("Seq Scan on outbox_handler_deliveries"), "{plan}");
        assert!(removed_rows(plan) <= MOST_REMOVED, "{plan}");
        // The janitor reads a thousand rows of each kind.
        let most = if plan.contains("SELECT true FROM") { 4 } else { 1 };
        assert!(pages(plan) <= most * MOST_PAGES, "{} pages: {plan}", pages(plan));
    }
    let shown = early.owed().await.unwrap();
    assert_eq!((&*shown[0].name, shown[0].owed), ("absent", i64::try_from(OWED).unwrap()));
    assert!(early.overview(CountMode::Exactly).await.unwrap().due.is_empty());
}

const ONE: &str =
    "INSERT INTO outbox_events (id, event_type, source) VALUES ('00000000-0000-0000-0000-000000000001', 't', 's')";

/// Both wait for the event's row before either has committed, so neither could see the other's answer in a snapshot taken at
/// its start.
#[tokio::test]
async fn of_two_answers_that_wait_for_a_row_the_second_publishes_the_event() {
    let fixture = PostgresFixture::fresh().await;
    let store = fixture.store();
    store.announce(&[announcement("audit"), announcement("mail")]).await.unwrap();
    let id = Uuid::from_u128(1);
    for _ in 0..5 {
        fixture.execute("DELETE FROM outbox_events").await;
        fixture.execute(ONE).await;
        let seq = store.find(id).await.unwrap().unwrap().seq;
        store.settle_published(&accepted(&[(id, seq)]), Care::Usual).await.unwrap();
        let mut other = fixture.begin().await;
        other.execute("SELECT FROM outbox_events FOR UPDATE").await;
        let answer = async |handler: &str| {
            let handled = [HandledDelivery::kept(handler, id, seq)];
            while store.settle_handled(&handled, Care::Usual).await.unwrap() != [Settled::Recorded] {}
        };
        let let_go = async {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                AND datname = current_database()";
            // They wait for a short time only; those that were too late for the row decide nothing about the test.
            for _ in 0..100 {
                if fixture.number(waiting).await == 2 {
                    break;
                }
            }
            other.commit().await;
        };
        tokio::join!(answer("audit"), answer("mail"), let_go);
        let event = store.find(id).await.unwrap().unwrap();
        assert_eq!((event.status, event.pending_handlers), (Status::Published, None));
    }
}
