//! A worker's health and metrics over HTTP, and whether they are correct.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use actix_outbox::OutboxSystem;
use serde_json::Value;

use crate::actors::{QUICK_RETRIES, answer, event, handler};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, free_port};
use crate::test_outbox::TestOutbox;

/// A running `outbox worker --http`.
struct Site {
    worker: Running,
    port: u16,
}

impl Site {
    fn open(test: &TestOutbox, settings: &Path) -> Self {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let worker = Running::spawn(
            &mut test.outbox(settings, &["worker", "--name", "served", "--http", &address, "--insecure-no-secret"]),
        );
        Self { worker, port }
    }

    /// The status and the body; `None` if the port is not open yet.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.get(format!("http://127.0.0.1:{}{path}", self.port)).call().ok()?;
        Some((answer.status().as_u16(), answer.body_mut().read_to_string().unwrap()))
    }

    /// Requests until the response has this status; returns its body.
    async fn wait(&self, path: &str, status: u16) -> Value {
        let mut last = None;
        eventually(&format!("{path} answers {status}"), PATIENCE, async || {
            last = self.get(path);
            last.as_ref().is_some_and(|(answered, _)| *answered == status)
        })
        .await;
        serde_json::from_str(&last.unwrap().1).unwrap()
    }

    fn metrics(&self) -> String {
        let (status, text) = self.get("/metrics").unwrap();
        assert_eq!(status, 200);
        text
    }
}

/// The sum of each metric's samples over its labels.
fn sums(text: &str) -> BTreeMap<&str, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        *sums.entry(name.split('{').next().unwrap()).or_insert(0.0) += value.parse::<f64>().unwrap();
    }
    sums
}

/// Checks metrics with Prometheus' own tool.
fn check_by_promtool(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: apt-get install prometheus");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let answer = promtool.wait_with_output().unwrap();
    let said = [answer.stdout, answer.stderr].concat();
    assert!(answer.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Checks a file of rules with Prometheus' own tool.
fn check_rules(file: &Path) {
    let answer = Command::new("promtool").args(["check", "rules"]).arg(file).output().unwrap();
    let said = [answer.stdout, answer.stderr].concat();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// Every block of YAML on a page of the book that configures Prometheus.
fn configurations(page: &str) -> Vec<&str> {
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.filter(|block| block.contains("scrape_configs")).collect()
}

#[test]
fn prometheus_reads_the_configurations_of_the_book() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for page in ["observability.md", "production.md"] {
        let text = std::fs::read_to_string(docs.join(page)).unwrap();
        let [configuration] = configurations(&text)[..] else { panic!("{page} has not one configuration") };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        std::fs::copy(docs.join("alerts.yaml"), folder.path().join("alerts.yaml")).unwrap();
        let answer = Command::new("promtool").args(["check", "config"]).arg(&file).output().unwrap();
        let said = [answer.stdout, answer.stderr].concat();
        assert!(answer.status.success(), "{page}: {}", String::from_utf8_lossy(&said));
    }
}

/// Every query of a dashboard.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn prometheus_reads_every_alert_rule_and_every_query_of_the_dashboard() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    check_rules(&docs.join("alerts.yaml"));
    let dashboard = serde_json::from_slice(&std::fs::read(docs.join("grafana.json")).unwrap()).unwrap();
    let queries = queries(&dashboard);
    assert!(queries.len() > 20, "{queries:?}");
    // Variables that Grafana replaces.
    let filled = queries.iter().map(|query| query.replace("$__rate_interval", "5m").replace("$job", ".*"));
    let rules: Vec<Value> =
        filled.zip(0..).map(|(expr, n)| serde_json::json!({"record": format!("query:{n}"), "expr": expr})).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.yaml");
    // JSON is YAML.
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    std::fs::write(&file, groups.to_string()).unwrap();
    check_rules(&file);
}

#[tokio::test]
async fn a_worker_tells_an_orchestrator_that_it_lives_and_whether_it_is_ready() {
    let test = TestOutbox::new().await;
    let site = Site::open(&test, &test.settings().write());
    let ready = site.wait("/readyz", 200).await;
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["database"], "ok");
    assert_eq!(ready["backends"], serde_json::json!({"default": "ok"}));
    assert_eq!(ready["leases"], "ok");
    assert_eq!(site.wait("/healthz", 200).await, serde_json::json!({"process": "ok"}));
    assert_eq!(site.get("/nothing").unwrap().0, 404);
}

#[tokio::test]
async fn a_worker_whose_backend_is_away_lives_and_is_not_ready() {
    let test =
        TestOutbox::found_by(format!("url = \"redis://:hunter2@127.0.0.1:{}\"", free_port()), String::new()).await;
    let site = Site::open(&test, &test.settings().write());
    let mut body = Value::Null;
    eventually("the backend's error is shown", PATIENCE, async || {
        body = site.wait("/readyz", 503).await;
        body["backends"]["default"].as_str().is_some_and(|health| health != "ok")
    })
    .await;
    assert_eq!((&body["ready"], &body["database"]), (&false.into(), &"ok".into()));
    assert!(!body.to_string().contains("hunter2"), "{body}");
    site.wait("/healthz", 200).await;
    let breaker = sums(&site.metrics())["outbox_breaker_open"];
    assert!((breaker - 1.0).abs() < f64::EPSILON, "{breaker}");
}

/// The reason is for the log.
#[tokio::test]
async fn a_probe_tells_strangers_no_address_and_no_error_and_logs_them_once() {
    let port = free_port();
    let test = TestOutbox::found_by(format!("url = \"redis://127.0.0.1:{port}\""), String::new()).await;
    let site = Site::open(&test, &test.settings().write());
    let mut body = String::new();
    eventually("the backend is unavailable", PATIENCE, async || {
        body = site.get("/readyz").map(|(_, body)| body).unwrap_or_default();
        body.contains("failing")
    })
    .await;
    assert!(!body.contains(&port.to_string()) && !body.contains("127.0.0.1"), "{body}");
    for _ in 0..30 {
        site.get("/readyz").unwrap();
    }
    let log = site.worker.stderr();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("the worker is not ready")).collect();
    assert!(
        (1..=3).contains(&told.len()) && told.iter().any(|line| line.contains(&format!("127.0.0.1:{port}"))),
        "{told:?}"
    );
}

#[tokio::test]
async fn many_callers_of_a_probe_are_one_question_a_second_to_the_database() {
    let test = TestOutbox::new().await;
    let site = Site::open(&test, &test.settings().worker("poll_interval = \"1h\"").write());
    site.wait("/readyz", 200).await;
    let statements = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let before = test.number(statements).await;
    let began = std::time::Instant::now();
    for _ in 0..500 {
        assert_eq!(site.get("/readyz").unwrap().0, 200);
    }
    let asked = test.number(statements).await - before;
    // A few for each second, and what the idle worker sends itself.
    let most = 60 * (began.elapsed().as_secs() as i64 + 2);
    assert!(asked < most, "{asked} transactions for 500 probes in {:?}", began.elapsed());
}

#[tokio::test]
async fn probes_have_an_address_of_their_own_where_they_are_given_one() {
    let test = TestOutbox::new().await;
    let (console, probes) = (free_port(), free_port());
    let [at, probe_at] = [console, probes].map(|port| format!("127.0.0.1:{port}"));
    let arguments = ["worker", "--http", &at, "--probe-addr", &probe_at, "--insecure-no-secret"];
    let worker = Running::spawn(&mut test.outbox(&test.settings().write(), &arguments));
    let site = Site { worker, port: probes };
    site.wait("/readyz", 200).await;
    assert_eq!(site.get("/").unwrap().0, 404);
    let site = Site { port: console, ..site };
    assert_eq!((site.get("/").unwrap().0, site.get("/readyz").unwrap().0), (200, 404));
}

#[tokio::test]
async fn a_worker_that_waits_for_its_database_lives_and_is_not_ready() {
    let test = TestOutbox::new().await;
    let settings = test.settings().write();
    let text = std::fs::read_to_string(&settings).unwrap();
    let port = test.url().rsplit(':').next().unwrap().split('/').next().unwrap();
    std::fs::write(&settings, text.replace(&format!(":{port}/"), &format!(":{}/", free_port()))).unwrap();
    let mut site = Site::open(&test, &settings);
    site.wait("/healthz", 200).await;
    assert_eq!(site.wait("/readyz", 503).await["process"], "starting; waiting for the database");
    assert!(site.worker.is_running());
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let test = TestOutbox::new().await;
    let site = Site::open(&test, &test.settings().write());
    site.wait("/healthz", 200).await;
    let mut second = test.outbox(&test.settings().write(), &["worker", "--http", &format!("127.0.0.1:{}", site.port)]);
    let answer = second.output().unwrap();
    assert_eq!(answer.status.code(), Some(1));
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(said.contains(&format!("cannot serve HTTP on 127.0.0.1:{}", site.port)), "{said}");
}

#[tokio::test]
async fn after_a_run_with_faults_the_counters_agree_with_the_table() {
    const EVENTS: i32 = 20_000;
    let test = TestOutbox::new().await;
    // One event at a time, so that there is time for the faults.
    let site = Site::open(
        &test,
        &test.settings().worker("batch_size = 50").publisher("rate_limit = { per_second = 2000, burst = 200 }").write(),
    );
    site.wait("/readyz", 200).await;
    let sql = test.sql().await;
    test.insert(EVENTS, 100).await;
    let unreadable = "INSERT INTO outbox_events (id, event_type, source, extensions)
        SELECT gen_random_uuid(), 't', 's', '[1]' FROM generate_series(1, 7)";
    sql.execute(unreadable, &[]).await.unwrap();
    let mut redis = test.redis().await;
    let left = async || test.number("SELECT count(*) FROM outbox_events WHERE status IN ('pending', 'retry')").await;
    for _ in 0..6 {
        let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sql.execute(terminate, &[]).await.unwrap();
        let kill = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).to_owned();
        let _: i64 = kill.query_async(&mut redis).await.unwrap();
        let before = left().await;
        eventually("it continues", PATIENCE, async || left().await < before || before == 0).await;
    }
    eventually("no event is in flight", PATIENCE, async || left().await == 0).await;
    assert_eq!(test.length().await, EVENTS as usize);
    let counted = async |status: &str| {
        test.number(&format!("SELECT count(*) FROM outbox_events WHERE status = '{status}'")).await as f64
    };
    let expected = [counted("published").await, counted("failed").await, counted("failed").await];
    assert_eq!(expected[..2], [f64::from(EVENTS), 7.0]);
    let mut text = String::new();
    eventually(&format!("the counters are {expected:?}"), PATIENCE, async || {
        text = site.metrics();
        let sums = sums(&text);
        ["outbox_events_published_total", "outbox_events_failed_total", "outbox_events_rejected_total"]
            .map(|name| sums.get(name).copied().unwrap_or(0.0))
            == expected
    })
    .await;
    check_by_promtool(&text);
    let sums = sums(&text);
    assert!(sums["outbox_sessions_opened_total"] > 1.0, "{text}");
    assert!(sums["outbox_rate_limit_wait_seconds_count"] > 0.0, "{text}");
    // Events found in the journal have no measured latency.
    let delivered = sums["outbox_delivery_latency_seconds_count"];
    assert!((1.0..=f64::from(EVENTS)).contains(&delivered), "{text}");
    assert!((sums["outbox_leases"] - 64.0).abs() < 0.5, "{text}");
}

/// One sample.
fn sample(text: &str, name_and_labels: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_worker_counts_the_shards_that_it_takes_over_and_who_woke_it() {
    let test = TestOutbox::new().await;
    let settings = test.settings().worker("lease = \"1s\"").write();
    let mut first = test.worker(&settings, "first");
    test.wait_owners(&["first"]).await;
    let site = Site::open(&test, &settings);
    site.wait("/readyz", 200).await;
    test.wait_owners(&["first", "served"]).await;
    test.run(&["publish", "t", "--source", "s"]).await;
    eventually("another process woke it", PATIENCE, async || {
        test.run(&["publish", "t", "--source", "s"]).await;
        sample(&site.metrics(), "outbox_wakeups_total{kind=\"other_process\"}") > 0.0
    })
    .await;
    assert!(sample(&site.metrics(), "outbox_wakeups_total{kind=\"poll\"}") > 0.0);
    let taken = |site: &Site| sample(&site.metrics(), "outbox_takeovers_total{backend=\"default\"}");
    assert!(taken(&site) < 0.5, "a released shard is not a take-over");
    first.kill();
    // Half of the 32 shards of each of two lanes.
    eventually("the dead worker's shards are counted", PATIENCE, async || (taken(&site) - 32.0).abs() < 0.5).await;
}

#[tokio::test]
async fn what_is_due_of_a_backend_that_no_live_worker_serves_is_counted_as_such() {
    let test = TestOutbox::new().await;
    let site = Site::open(&test, &test.settings().write());
    site.wait("/readyz", 200).await;
    test.wait_owners(&["served"]).await;
    let misnamed = "INSERT INTO outbox_events (id, event_type, source, publisher_backend, created_at, scheduled_at)
        SELECT gen_random_uuid(), 't', 's', 'elsewhere', now(), now() - interval '1 hour' FROM generate_series(1, 3)";
    test.sql().await.execute(misnamed, &[]).await.unwrap();
    let of = |name: &str, backend: &str| sample(&site.metrics(), &format!("{name}{{backend=\"{backend}\"}}"));
    eventually("it is counted", PATIENCE, async || of("outbox_events_due", "(unserved)") > 2.5).await;
    assert!(of("outbox_oldest_due_age_seconds", "(unserved)") > 3_599.0);
    assert!(of("outbox_events_due", "default") < 0.5);
    // A worker that serves it, with an unavailable backend.
    let table = "[publishers.elsewhere]\nbackend = \"redis_stream\"\nurl = \"redis://127.0.0.1:1\"";
    let _other = test.worker(&test.settings().publisher(table).write(), "other");
    eventually("it is counted as served", PATIENCE, async || of("outbox_events_due", "(unserved)") < 0.5).await;
}

#[actix::test]
async fn an_application_counts_by_a_recorder_of_its_own() {
    let test = TestOutbox::new().await;
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let outbox = {
        let _installed = metrics::set_default_local_recorder(&recorder);
        let tables = format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}", test.stream());
        let mut asked = 0;
        OutboxSystem::builder(test.system_settings(&tables))
            .subscribe(handler("mailer", "thing.happened", move |_| {
                asked += 1;
                answer(if asked == 1 { Err("the mailbox is full") } else { Ok(()) })
            }))
            .start()
            .await
            .unwrap()
    };
    for n in 0..3 {
        outbox.send(event(&n.to_string())).await.unwrap();
    }
    test.wait_published().await;
    eventually("the recorded events are counted", PATIENCE, async || {
        sample(&recorder.handle().render(), "outbox_events_published_total{backend=\"default\"}") >= 3.0
    })
    .await;
    outbox.update_gauges().await.unwrap();
    let text = recorder.handle().render();
    for (sample_of, expected) in [
        ("outbox_events_handled_total{handler=\"mailer\"}", 3.0),
        ("outbox_handler_failures_total{handler=\"mailer\"}", 1.0),
        ("outbox_events_rejected_total{backend=\"default\"}", 1.0),
        ("outbox_events_retried_total{backend=\"default\"}", 1.0),
        ("outbox_events_failed_total{backend=\"default\"}", 0.0),
        ("outbox_events_due{backend=\"default\"}", 0.0),
        ("outbox_leases{backend=\"default\"}", 64.0),
    ] {
        let value = sample(&text, sample_of);
        assert!((value - expected).abs() < 0.5, "{sample_of} is {value}: {text}");
    }
    assert!(sample(&text, "outbox_wakeups_total{kind=\"same_process\"}") > 0.0, "{text}");
}

#[tokio::test]
async fn what_became_of_events_is_kept_when_a_worker_has_gone() {
    let test = TestOutbox::new().await;
    test.insert(300, 3).await;
    test.drain(&test.settings().write()).await;
    let run = |arguments: &[&str]| {
        let output = test.outbox(&test.settings().write(), arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let status: Value = serde_json::from_str(&run(&["status", "--history", "--format", "json"])).unwrap();
    for span in ["by_minute", "by_hour"] {
        let line = &status["history"][span][0];
        assert_eq!((&line["backend"], &line["published"]), (&"default".into(), &300.into()), "{status}");
        assert_eq!((&line["rejected"], &line["failed"]), (&0.into(), &0.into()), "{status}");
    }
    let table = run(&["status", "--history"]);
    assert!(table.contains("MINUTE") && table.contains("HOUR") && table.contains("300"), "{table}");
    assert!(!run(&["status"]).contains("MINUTE"));
}
