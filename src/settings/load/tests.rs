use std::time::Duration;

use super::*;
use crate::settings::{
    OnFailed, RateLimit, RetryBackoff, Route, Secret, SentinelSettings, WaitReplicas, WebUser, WorkerSettings,
};

fn refused(text: &str) -> String {
    Settings::from_toml(text).unwrap_err().to_string()
}

fn env(pairs: &[(&str, &str)]) -> Result<Settings> {
    Settings::load(&LoadOptions::default().variables(pairs.iter().copied()))
}

fn env_refused(name: &str, value: &str) -> String {
    env(&[(name, value)]).unwrap_err().to_string()
}

#[test]
fn nothing_given_is_the_defaults() {
    assert_eq!(Settings::load(&LoadOptions::default()).unwrap(), Settings::default());
    assert_eq!(Settings::from_toml("").unwrap(), Settings::default());
}

#[test]
fn the_documented_file_is_the_defaults_but_for_urls_and_rate_limit() {
    let settings = Settings::from_toml(
        r#"
        [database]
        url = "postgres://localhost/app?sslmode=require"
        [publishers.default]
        backend = "redis_stream"
        url = "redis://localhost:6379/0"
        stream_name = "events"
        max_len = 10000
        connect_timeout = 5
        socket_timeout = 5
        on_failed = "continue"
        rate_limit = { per_second = 5000, burst = 10000 }
        [worker]
        batch_size = 500
        poll_interval = "100ms"
        max_retries = 3
        retry_backoff = { base = "1m", factor = 2, max = "1h", jitter = 0.5 }
        lease = "5s"
        max_in_flight = 5000
        max_in_flight_bytes = "16MiB"
        max_event_bytes = "1MiB"
        handler_timeout = "30s"
        shutdown_timeout = "30s"
        [retention]
        cleanup_published = true
        published_retention_days = 7
        failed_retention_days = 30
        "#,
    )
    .unwrap();
    let mut expected = Settings::default();
    expected.database.url = "postgres://localhost/app?sslmode=require".into();
    let publisher = expected.publishers.entry("default".to_owned()).or_default();
    publisher.url = Some("redis://localhost:6379/0".into());
    publisher.rate_limit = Some(RateLimit { per_second: 5_000, burst: 10_000 });
    assert_eq!(settings, expected);
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = "[database]\nurl = 'sqlite://file'\n[worker]\nsleep_time = 2\nbatch_size = 1";
    std::fs::write(folder.path().join("outbox.toml"), file).unwrap();
    let options = LoadOptions::default().directory(folder.path());
    let url = |options: &LoadOptions| Settings::load(options).unwrap().database.url.read().unwrap().into_owned();
    assert_eq!(url(&options), "sqlite://file");
    let options = options.variables([("DATABASE_URL", "sqlite://variable")]);
    assert_eq!(url(&options), "sqlite://variable");
    let options = options.variables([("OUTBOX__DATABASE__URL", "sqlite://ours")]);
    assert_eq!(url(&options), "sqlite://ours");
    let options = options.database_url("sqlite://flag");
    assert_eq!(url(&options), "sqlite://flag");

    let options = options.variables([("OUTBOX__WORKER__POLL_INTERVAL", "50ms"), ("OUTBOX__WORKER__LEASE", "9")]);
    let worker = Settings::load(&options).unwrap().worker;
    assert_eq!(worker.poll_interval, Duration::from_millis(50), "by whatever name");
    assert_eq!((worker.batch_size, worker.lease), (1, Duration::from_secs(9)));
}

#[test]
fn the_named_file_wins_over_the_variable_which_wins_over_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, size: usize| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("[worker]\nbatch_size = {size}")).unwrap();
        path
    };
    write("outbox.toml", 1);
    let size = |options: &LoadOptions| Settings::load(options).unwrap().worker.batch_size;
    let options = LoadOptions::default().directory(folder.path()).variables([("OUTBOX_CONFIG", "")]);
    assert_eq!(size(&options), 1);
    let options = options.variables([("OUTBOX_CONFIG", write("variable.toml", 2))]);
    assert_eq!(size(&options), 2);
    let options = options.file(write("flag.toml", 3));
    assert_eq!(size(&options), 3);
}

#[test]
fn a_named_file_that_is_not_there_is_an_error() {
    let error = Settings::load(&LoadOptions::default().file("/nowhere/x.toml")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the settings file /nowhere/x.toml: No such file"), "{error}");
}

#[test]
fn a_file_that_is_no_toml_is_named_by_its_line_and_shows_nothing_of_it() {
    let error = refused("[database]\nurl = postgres://ann:pw@db");
    assert!(error.starts_with("cannot read the settings file the TOML text: line 2 is not valid TOML: "), "{error}");
    assert!(!error.contains("pw"), "{error}");
}

#[test]
fn the_environment_names_keys_in_capitals() {
    let settings = env(&[
        ("OUTBOX__PUBLISHERS__DEFAULT__URL", "rediss://:pw@localhost"),
        ("OUTBOX__PUBLISHERS__DEFAULT__MAX_LEN", "0"),
        ("OUTBOX__PUBLISHERS__DEFAULT__RATE_LIMIT__PER_SECOND", "7"),
        ("OUTBOX__PUBLISHERS__AUDIT__BACKEND", "webhook"),
        ("OUTBOX__PUBLISHERS__AUDIT__PASSWORD", "12345"),
        ("OUTBOX__PUBLISHERS__AUDIT__ON_FAILED", "hold"),
        ("OUTBOX__PUBLISHERS__AUDIT__OPTIONS", r#"{"retries": 3, "name": "5"}"#),
        ("OUTBOX__WORKER__BACKENDS", "default, audit"),
        ("OUTBOX__WORKER__SLEEP_TIME", "0.5"),
        ("OUTBOX__WORKER__RETRY_BACKOFF__FACTOR", "3"),
        ("OUTBOX__WORKER__MAX_EVENT_BYTES", "64KB"),
        ("OUTBOX__RETENTION__CLEANUP_PUBLISHED", "false"),
        ("OTHER", "x"),
    ])
    .unwrap();
    let default = &settings.publishers["default"];
    assert_eq!((default.max_len, default.rate_limit), (0, Some(RateLimit { per_second: 7, burst: 7 })));
    let audit = &settings.publishers["audit"];
    assert_eq!((audit.backend.as_str(), audit.on_failed), ("webhook", OnFailed::Hold));
    assert_eq!(audit.password.as_ref().unwrap().read().unwrap(), "12345");
    assert_eq!(serde_json::Value::from(audit.options.clone()), serde_json::json!({"retries": 3, "name": "5"}));
    assert_eq!(settings.worker.backends, Some(vec!["default".to_owned(), "audit".to_owned()]));
    assert_eq!(settings.worker.poll_interval, Duration::from_millis(500));
    assert_eq!(settings.worker.retry_backoff.factor, 3.0);
    assert_eq!(settings.worker.max_event_bytes, 64_000);
    assert!(!settings.retention.cleanup_published);
}

#[test]
fn one_variable_goes_into_the_options_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, "[publishers.a]\nbackend = 'hook'\noptions = { path = '5', nested = { x = [1] } }").unwrap();
    let variables = [("OUTBOX__PUBLISHERS__A__OPTIONS__SIZE", "5"), ("OUTBOX__PUBLISHERS__A__OPTIONS__TO", "a b")];
    let settings = Settings::load(&LoadOptions::default().file(file).variables(variables)).unwrap();
    let expected = serde_json::json!({"path": "5", "nested": {"x": [1]}, "size": 5, "to": "a b"});
    assert_eq!(serde_json::Value::from(settings.publishers["a"].options.clone()), expected);
}

#[test]
fn retry_backoff_is_a_table_true_or_false() {
    let backoff =
        |text: &str| Settings::from_toml(&format!("worker.retry_backoff = {text}")).unwrap().worker.retry_backoff;
    let fixed = RetryBackoff { factor: 1.0, jitter: 0.0, ..RetryBackoff::default() };
    assert_eq!(backoff("true"), RetryBackoff::default());
    assert_eq!(backoff("false"), fixed);
    assert_eq!(backoff("{ base = '2s' }"), RetryBackoff { base: Duration::from_secs(2), ..RetryBackoff::default() });
    assert_eq!(env(&[("OUTBOX__WORKER__RETRY_BACKOFF", "false")]).unwrap().worker.retry_backoff, fixed);
    let table = env(&[("OUTBOX__WORKER__RETRY_BACKOFF", r#"{base="2s", jitter=0}"#)]).unwrap().worker.retry_backoff;
    assert_eq!((table.base, table.jitter), (Duration::from_secs(2), 0.0));
    assert_eq!(
        refused("worker.retry_backoff = 5"),
        "setting `worker.retry_backoff` in the TOML text: must be true, false, or a table as in { base = \"1m\" }, not 5"
    );
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    for (text, key, near) in [
        ("[wroker]\n", "wroker", Some("worker")),
        ("[worker]\nbatchsize = 5", "worker.batchsize", Some("worker.batch_size")),
        ("batch_size = 5", "batch_size", Some("worker.batch_size")),
        ("[publishers.a]\ncolour = 'x'\nstreamname = 'x'", "publishers.a.colour", None),
        ("[publishers.a]\nmaxlen = 5", "publishers.a.maxlen", Some("publishers.a.max_len")),
        ("worker.retry_backoff.bas = 1", "worker.retry_backoff.bas", Some("worker.retry_backoff.base")),
        ("publishers.a.rate_limit.each = 1", "publishers.a.rate_limit.each", None),
        ("[retention]\ncolour = 1", "retention.colour", None),
        ("[database]\nURL = 'x'", "database.URL", None),
    ] {
        let hint = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
        assert_eq!(refused(text), format!("unknown setting `{key}` in the TOML text{hint}"));
    }
    assert_eq!(
        env_refused("OUTBOX__WORKER__BATCHSIZE", "5"),
        "unknown setting `worker.batchsize` in OUTBOX__WORKER__BATCHSIZE: did you mean `worker.batch_size`?"
    );
    assert_eq!(env_refused("OUTBOX__COLOUR", "5"), "unknown setting `colour` in OUTBOX__COLOUR");
}

#[test]
fn a_wrong_value_is_named_with_what_would_be_right() {
    for (text, key, problem) in [
        ("worker = 5", "worker", "must be a table, not 5"),
        ("worker.batch_size = 0", "worker.batch_size", "must be a whole number, at least 1, not 0"),
        ("worker.batch_size = -1", "worker.batch_size", "must be a whole number, at least 1, not -1"),
        ("worker.batch_size = 1.5", "worker.batch_size", "must be a whole number, at least 1, not 1.5"),
        ("worker.batch_size = 'many'", "worker.batch_size", "must be a whole number, at least 1, not \"many\""),
        ("worker.max_retries = -1", "worker.max_retries", "must be a whole number, at least 0, not -1"),
        ("worker.lease = '500ms'", "worker.lease", "must be at least 1s and at most ten years, not 500ms"),
        ("worker.poll_interval = 0", "worker.poll_interval", "must be at least 1ms and at most ten years, not 0ns"),
        (
            "worker.sleep_time = 'soon'",
            "worker.poll_interval",
            "must be a time such as \"100ms\", \"5s\", \"1m\", \"1h\" or \"7d\", or a number of seconds, not \"soon\"",
        ),
        ("database.connections = 0", "database.connections", "must be a whole number, at least 1, not 0"),
        (
            "worker.max_event_bytes = '1 barrel'",
            "worker.max_event_bytes",
            "must be a size such as \"64KB\" or \"16MiB\", or a number of bytes, not \"1 barrel\"",
        ),
        ("worker.retry_backoff.jitter = 1.5", "worker.retry_backoff.jitter", "must be a number from 0 to 1, not 1.5"),
        ("worker.retry_backoff.jitter = nan", "worker.retry_backoff.jitter", "must be a number from 0 to 1, not NaN"),
        ("worker.retry_backoff.factor = 0.5", "worker.retry_backoff.factor", "must be a number, at least 1, not 0.5"),
        (
            "worker.retry_backoff.base = '2h'",
            "worker.retry_backoff.max",
            "must be at least `worker.retry_backoff.base`, which is 7200s, not 3600s",
        ),
        ("worker.backends = 'a'", "worker.backends", "must be a list of strings such as [\"a\", \"b\"], not \"a\""),
        ("worker.backends = []", "worker.backends", "must name a publisher; leave it out to serve all of them"),
        ("worker.backends = ['b']", "worker.backends", "no publisher is named `b`; there is none"),
        (
            "worker.backends = ['b']\npublishers.a.backend = 'local'",
            "worker.backends",
            "no publisher is named `b`; there is `a`",
        ),
        ("retention.cleanup_published = 'no'", "retention.cleanup_published", "must be true or false, not \"no\""),
        (
            "retention.failed_retention_days = -1",
            "retention.failed_retention_days",
            "must be a whole number of days, 0 to 36500, not -1",
        ),
        (
            "retention = { cleanup_published = false, published_retention_days = 0 }",
            "retention.published_retention_days",
            "deletes events that are done, and retention.cleanup_published = false keeps them: choose one",
        ),
        (
            "retention.cleanup_published = false\npublishers.a = { backend = 'local', published_retention_days = 0 }",
            "publishers.a.published_retention_days",
            "deletes events that are done, and retention.cleanup_published = false keeps them: choose one",
        ),
        (
            "publishers.a = { backend = 'local', published_retention_days = 3 }",
            "publishers.a.published_retention_days",
            "must be 0 or left out, not 3: retention is the same for all others",
        ),
        ("database.url = 5", "database.url", "must be a quoted string"),
        (
            "database.url = 'oracle://u:pw@h/d'",
            "database.url",
            "must be an address that begins with postgres:// or postgresql:// or mysql:// or mariadb:// or sqlite://",
        ),
        (
            "worker.sleep_time = 1\nworker.poll_interval = 2",
            "worker.sleep_time",
            "is an alias of `worker.poll_interval`, which is set too: set only one",
        ),
        ("worker.name = ''", "worker.name", "must not be empty; leave it out for the host's name"),
        ("web.path = 'outbox'", "web.path", "must be a path such as \"/outbox\", without a slash at its end"),
        ("web.path = '/a/'", "web.path", "must be a path such as \"/outbox\", without a slash at its end"),
        ("web.path = '//a'", "web.path", "must be a path such as \"/outbox\", without a slash at its end"),
        (
            "web.trace_url = 'javascript:alert({trace_id})'",
            "web.trace_url",
            "must be an http or https address with {trace_id} in it, such as \"https://jaeger.example/trace/{trace_id}\"",
        ),
        ("web.path = '/{a}'", "web.path", "must be a path such as \"/outbox\", without a slash at its end"),
        ("web.readers = ['eve']", "web.readers.0", "must be a table, not \"eve\""),
        (
            "web.readers = [{ name = 'eve' }]",
            "web.readers.0.secret",
            "must be given, or `secret_file` or `secret_command`",
        ),
    ] {
        assert_eq!(refused(text), format!("setting `{key}` in the TOML text: {problem}"));
    }
    assert_eq!(
        env_refused("OUTBOX__WORKER__BATCH_SIZE", "many"),
        "setting `worker.batch_size` in OUTBOX__WORKER__BATCH_SIZE: must be a whole number, at least 1, not \"many\""
    );
    assert_eq!(
        env_refused("DATABASE_URL", "oracle://u:pw@h/d"),
        "setting `database.url` in DATABASE_URL: must be an address that begins with postgres:// or postgresql:// or \
         mysql:// or mariadb:// or sqlite://"
    );
}

#[test]
fn users_of_the_console_are_tables_or_a_list_of_them() {
    let tables = "[[web.operators]]\nname = 'ann'\nsecret_file = 'a'\n[[web.readers]]\nname = 'eve'\nsecret = 'e'";
    let list =
        "web = { operators = [{ name = 'ann', secret_file = 'a' }], readers = [{ name = 'eve', secret = 'e' }] }";
    let settings = Settings::from_toml(tables).unwrap();
    assert_eq!(settings.web.operators, [WebUser::new("ann", Secret::from_file("a"))]);
    assert_eq!(settings.web.readers, [WebUser::new("eve", "e")]);
    assert_eq!(Settings::from_toml(list).unwrap(), settings);
    let variable = r#"[{"name": "ann", "secret_command": ["vault", "read"]}]"#;
    let settings = env(&[("OUTBOX__WEB__OPERATORS", variable)]).unwrap();
    assert_eq!(settings.web.operators, [WebUser::new("ann", Secret::from_command(["vault", "read"]))]);
}

#[test]
fn routes_are_a_list_and_lead_to_publishers() {
    let publisher = "publishers.orders.backend = 'local'\n";
    let given = env(&[
        ("OUTBOX__PUBLISHERS__ORDERS__BACKEND", "local"),
        ("OUTBOX__ROUTES", r#"[{"type": "order.*", "extensions": {"tenant": "a*"}, "publisher": "orders"}]"#),
    ]);
    assert_eq!(given.unwrap().routes, [Route::to("orders").event_type("order.*").extension("tenant", "a*")]);
    for (text, key, problem) in [
        ("[[routes]]\ntype = 'a'", ".0.publisher", "must name the publisher"),
        ("[[routes]]\npublisher = 'x'", ".0.publisher", "no publisher is named `x`; there is `orders`"),
        ("[[routes]]\npublisher = 'orders'\nsource = ''", ".0.source", "must not be empty; leave it out for any"),
        ("routes = 1", "", "must be a list such as [{ type = \"order.*\", publisher = \"orders\" }]"),
    ] {
        let text =
            if text.starts_with("routes") { format!("{text}\n{publisher}") } else { format!("{publisher}{text}") };
        assert_eq!(refused(&text), format!("setting `routes{key}` in the TOML text: {problem}"));
    }
    let unknown = refused(&format!("{publisher}[[routes]]\npublishers = 'orders'"));
    assert!(unknown.contains("publisher"), "{unknown}");
}

#[test]
fn a_publisher_that_cannot_be_is_refused() {
    for (text, key, problem) in [
        ("port = 0\nhost = 'h'", ".port", "must be a port, 1 to 65535, not 0"),
        ("port = 70000", ".port", "must be a port, 1 to 65535, not 70000"),
        ("db = -1\nhost = 'h'", ".db", "must be a whole number, at least 0, not -1"),
        (
            "url = 'http://u:pw@h'",
            ".url",
            "must be an address that begins with redis:// or rediss:// or valkey:// or valkeys:// or redis+unix:// or valkey+unix:// or unix://",
        ),
        ("url = 'redis://h:x'", ".url", "is not a valid address"),
        ("url = 'unix://run/s'", ".url", "must name the socket by its whole path, as in redis+unix:///run/redis.sock"),
        (
            "url = 'redis+unix:///'",
            ".url",
            "must name the socket by its whole path, as in redis+unix:///run/redis.sock",
        ),
        ("url = 'redis://h'\nhost = 'h'", ".host", "conflicts with `publishers.a.url`: set only one"),
        ("host = 'h'\nmax_len = -1", ".max_len", "must be a whole number, at least 0, not -1"),
        ("on_failed = 'stop'", ".on_failed", "must be \"continue\" or \"hold\", not \"stop\""),
        ("rate_limit = 5", ".rate_limit", "must be a table, not 5"),
        ("rate_limit = {}", ".rate_limit", "needs `per_second`, as in { per_second = 5000, burst = 10000 }"),
        (
            "host = 'h'\nrate_limit = { per_second = 0 }",
            ".rate_limit.per_second",
            "must be a whole number, at least 1, not 0",
        ),
        ("host = 'h'\nstream_name = ''", ".stream_name", "must not be empty"),
        (
            "host = 'h'\nstream_name = 'a}b'",
            ".stream_name",
            "has a `}` but no hash tag, so its journal could not share its slot in a Redis Cluster; leave out the `}`, \
             or begin with a tag as in {shop}.events",
        ),
        (
            "nodes = ['redis://h']\nstream_name = 'events.{type}'",
            ".stream_name",
            "has placeholders, and its names would be in different slots of the Redis Cluster; begin with a hash tag that \
             all of them have, as in {shop}.events.{type}",
        ),
        (
            "host = 'h'\nstream_name = 'e.{source}.{type}'",
            ".stream_name",
            "has placeholders without a character between them that values never have, so different events could get one \
             name; write for example a `:` between them",
        ),
        (
            "backend = 'redis_pubsub'\nhost = 'h'\nwait_replicas = { count = 1 }",
            ".wait_replicas",
            "is for events that Redis stores; Pub/Sub stores none",
        ),
        ("backend = 'redis_list'\nhost = 'h'\nmax_age = '3d'", ".max_age", "is for redis_stream"),
        ("host = 'h'\nmax_age = 0", ".max_age", "must be at least 1ms and at most ten years, not 0ns"),
        ("host = 'h'\nmax_streams = -1", ".max_streams", "must be a whole number, at least 0, not -1"),
        ("host = 'h'\npartitions = 0", ".partitions", "must be a whole number, 1 to 32, not 0"),
        ("host = 'h'\npartitions = 33", ".partitions", "must be a whole number, 1 to 32, not 33"),
        ("host = 'h'\npartitions = 1.5", ".partitions", "must be a whole number, 1 to 32, not 1.5"),
        ("backend = 'redis_list'\nhost = 'h'\npartitions = 2", ".partitions", "is for redis_stream"),
        (
            "host = 'h'\nstream_name = 'e:{type}'\npartitions = 2",
            ".partitions",
            "is for one stream, and `stream_name` has placeholders; leave out one of the two",
        ),
        (
            "host = 'h'\noptions = { x = 1 }",
            ".options",
            "is only for an application's own backends; redis_stream has no options",
        ),
    ] {
        let text = format!("[publishers.a]\n{text}");
        assert_eq!(refused(&text), format!("setting `publishers.a{key}` in the TOML text: {problem}"));
    }
    assert_eq!(
        refused("[publishers.Big]\nhost = 'h'"),
        "setting `publishers.Big` in the TOML text: a publisher's name is 1 to 100 of the characters a-z, 0-9, `_`, `.` \
         and `-`"
    );
    assert_eq!(
        refused("[publishers.a]"),
        "setting `publishers.a.url` is missing: redis_stream needs `url`, such as redis://localhost:6379/0, or `host`, \
         `nodes` or `sentinel`"
    );
}

#[test]
fn the_default_publisher_is_the_one_named_so_or_the_only_one() {
    let settings = |text: &str| Settings::from_toml(text).unwrap();
    let a = "publishers.a.backend = 'local'\n";
    let b = "publishers.b.backend = 'local'\n";
    assert_eq!(settings(a).default_publisher().unwrap(), "a");
    let named = format!("{a}{b}publishers.default.backend = 'local'");
    assert_eq!(settings(&named).default_publisher().unwrap(), "default");
    assert_eq!(
        settings(&format!("{a}{b}")).default_publisher().unwrap_err().to_string(),
        "setting `publishers.default` is missing: there are `a`, `b`, name the default one `default`"
    );
    assert_eq!(
        settings("").default_publisher().unwrap_err().to_string(),
        "setting `publishers.default` is missing: no publisher is configured, add [publishers.default]"
    );
}

#[test]
fn settings_made_in_code_are_checked_alike() {
    let settings = Settings { worker: WorkerSettings { batch_size: 0, ..Default::default() }, ..Default::default() };
    assert_eq!(
        settings.check().unwrap_err().to_string(),
        "setting `worker.batch_size` in the settings: must be a whole number, at least 1, not 0"
    );
    let error = Settings::default().database.require_url().unwrap_err().to_string();
    assert!(
        error.starts_with("setting `database.url` is missing: give --database-url, OUTBOX__DATABASE__URL"),
        "{error}"
    );
}

#[test]
fn debug_shows_no_password() {
    let options =
        LoadOptions::default().variables([("DATABASE_URL", "postgres://u:pw@h/d")]).database_url("postgres://u:pw@h/d");
    assert!(!format!("{options:?}").contains("pw"));
    assert!(!format!("{:?}", Settings::load(&options).unwrap()).contains("pw"));
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_utf_8_is_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let options = LoadOptions::default().variables([("OUTBOX__WORKER__NAME", OsString::from_vec(vec![0xff]))]);
    let error = Settings::load(&options).unwrap_err().to_string();
    assert_eq!(error, "setting `worker.name` in OUTBOX__WORKER__NAME: must be UTF-8");
}

#[test]
fn redis_is_found_by_an_address_by_the_nodes_of_a_cluster_or_by_sentinels() {
    let publisher =
        |text: &str| Settings::from_toml(&format!("[publishers.a]\n{text}")).unwrap().publishers.remove("a").unwrap();
    let cluster = publisher("nodes = ['rediss://a:7000', 'rediss://u:pw@b/0']\nwait_replicas = { count = 2 }");
    assert_eq!(cluster.nodes, ["rediss://a:7000".into(), "rediss://u:pw@b/0".into()]);
    assert_eq!(cluster.wait_replicas, Some(WaitReplicas { count: 2, timeout: Duration::from_secs(1) }));
    let watched = publisher(
        "sentinel = { master = 'm', nodes = ['redis://a:26379'] }\nusername = 'u'\npassword = 'pw'\ndb = 3\n\
         wait_replicas = { count = 1, timeout = '250ms' }",
    );
    let sentinel = SentinelSettings { master: "m".to_owned(), nodes: vec!["redis://a:26379".into()] };
    assert_eq!((watched.sentinel, watched.db), (Some(sentinel), Some(3)));
    assert_eq!((watched.username.as_deref(), watched.password), (Some("u"), Some("pw".into())));
    assert_eq!(watched.wait_replicas.unwrap().timeout, Duration::from_millis(250));
    let nodes = env(&[("OUTBOX__PUBLISHERS__A__NODES", "redis://a, redis://b")]).unwrap().publishers["a"].nodes.clone();
    assert_eq!(nodes, ["redis://a".into(), "redis://b".into()]);
}

#[test]
fn an_address_given_in_two_ways_or_by_halves_is_refused() {
    let sentinel = "sentinel = { master = 'm', nodes = ['redis://a'] }";
    for (text, key, problem) in [
        ("url = 'redis://h'\nnodes = ['redis://a']", ".nodes", "conflicts with `publishers.a.url`: set only one"),
        ("nodes = ['redis://a']\nhost = 'h'", ".host", "conflicts with `publishers.a.nodes`: set only one"),
        ("nodes = ['redis://a']\npassword = 'pw'", ".password", "conflicts with `publishers.a.nodes`: set only one"),
        (&format!("{sentinel}\nport = 1"), ".port", "conflicts with `publishers.a.sentinel`: set only one"),
        (
            &format!("{sentinel}\nnodes = ['redis://a']"),
            ".sentinel",
            "conflicts with `publishers.a.nodes`: set only one",
        ),
        ("nodes = 'redis://:pw@h'", ".nodes", "must be a list of strings such as [\"a\", \"b\"]"),
        (
            "nodes = ['http://:pw@h']",
            ".nodes",
            "must be an address that begins with redis:// or rediss:// or valkey:// or valkeys:// or redis+unix:// or valkey+unix:// or unix://",
        ),
        (
            "nodes = ['redis://a', 'rediss://b']",
            ".nodes",
            "has servers with and without TLS; write rediss:// for all of them, or redis://",
        ),
        ("url = 'redis://h'\ntls = {}", ".tls", "is for rediss:// addresses"),
        ("host = 'h'\ntls = {}", ".tls", "is for rediss:// addresses"),
        (
            "url = 'rediss://h'\ntls = { cert_file = 'c' }",
            ".tls",
            "has one of `cert_file` and `key_file`; a client's certificate needs both",
        ),
        ("url = 'redis://h'\nurl_file = 'f'", ".url_file", "conflicts with `publishers.a.url`: set only one"),
        (
            "host = 'h'\npassword = 'p'\npassword_file = 'f'",
            ".password_file",
            "conflicts with `publishers.a.password`: set only one",
        ),
        ("nodes = ['redis://h/1']", ".nodes", "must not name a database: a cluster has only database 0"),
        ("nodes = ['unix:///s?db=1']", ".nodes", "must not name a database: a cluster has only database 0"),
        (
            "sentinel = { nodes = ['redis://a'] }",
            ".sentinel",
            "needs `master`, as in { master = \"mymaster\", nodes = [\"redis://host:26379\"] }",
        ),
        (
            "sentinel = { master = 'm' }",
            ".sentinel",
            "needs `nodes`, as in { master = \"mymaster\", nodes = [\"redis://host:26379\"] }",
        ),
        ("host = 'h'\nwait_replicas = {}", ".wait_replicas", "needs `count`, as in { count = 1, timeout = \"1s\" }"),
        (
            "host = 'h'\nwait_replicas = { count = 0 }",
            ".wait_replicas.count",
            "must be a whole number, at least 1, not 0",
        ),
        (
            "host = 'h'\nwait_replicas = { count = 1, timeout = 5 }",
            ".wait_replicas.timeout",
            "must be less than `publishers.a.socket_timeout`, which is 5s, not 5s",
        ),
    ] {
        let text = format!("[publishers.a]\n{text}");
        assert_eq!(refused(&text), format!("setting `publishers.a{key}` in the TOML text: {problem}"));
    }
    assert_eq!(
        refused("publishers.a = { node = ['redis://a'] }"),
        "unknown setting `publishers.a.node` in the TOML text: did you mean `publishers.a.nodes`?"
    );
}

#[cfg(feature = "nats")]
#[test]
fn a_publisher_to_nats_says_what_is_wrong_with_it() {
    for (text, key, problem) in [
        ("", "", "needs one of `url` and `servers`"),
        ("url = 'nats://h'\nservers = ['nats://h']", "", "needs one of `url` and `servers`"),
        ("url = 'redis://u:pw@h'", ".url", "must be an address that begins with nats:// or tls://"),
        (
            "servers = ['nats://a', 'http://u:pw@b']",
            ".servers.1",
            "must be an address that begins with nats:// or tls://",
        ),
        (
            "url = 'nats://h'\nstream = 'a.b'",
            ".stream",
            "must be a stream's name, without white space, `.`, `*`, `>`, `/` and `\\`",
        ),
        (
            "url = 'nats://h'\nstream_name = 'a'",
            ".stream_name",
            "is for Redis; `nats` has `stream`, and `url` or `servers`",
        ),
        ("url = 'nats://h'\nreplicas = 6", ".replicas", "must be 1 to 5"),
        (
            "url = 'nats://h'\nmode = 'batch'",
            ".mode",
            "is for `http`; a message of NATS is one event, \"structured\" or \"binary\"",
        ),
        (
            "url = 'nats://h'\nusername = 'a'\nnkey_file = 'b'",
            "",
            "has more than one of `username`, `credentials_file` and `nkey_file`",
        ),
    ] {
        let text = format!("[publishers.a]\nbackend = 'nats'\n{text}");
        assert_eq!(refused(&text), format!("setting `publishers.a{key}` in the TOML text: {problem}"));
    }
    assert_eq!(
        refused("[publishers.a]\nurl = 'redis://h'\nstream = 'x'"),
        "setting `publishers.a.stream` in the TOML text: is for `nats`; the name of a stream in Redis is `stream_name`"
    );
}

#[cfg(feature = "rabbitmq")]
#[test]
fn a_rabbitmq_publisher_has_an_address_and_one_event_a_message() {
    let url = "url = 'amqp://u:pw@h/%2f'";
    for (text, key, problem) in [
        ("url = 'redis://u:pw@h'", ".url", "must be an address that begins with amqp:// or amqps://"),
        (&format!("{url}\nmode = 'batch'"), ".mode", "must be \"structured\" or \"binary\": a message has one event"),
        (&format!("{url}\ntls = {{}}"), ".tls", "is for amqps:// addresses"),
        (&format!("{url}\nexchange = '{}'", "x".repeat(256)), ".exchange", "must have at most 255 bytes"),
    ] {
        let text = format!("[publishers.a]\nbackend = 'rabbitmq'\n{text}");
        assert_eq!(refused(&text), format!("setting `publishers.a{key}` in the TOML text: {problem}"));
    }
    let missing = refused("[publishers.a]\nbackend = 'rabbitmq'");
    assert!(
        missing.starts_with("setting `publishers.a.url` is missing: rabbitmq needs `url`, such as amqp://"),
        "{missing}"
    );
    let text = format!("[publishers.a]\nbackend = 'rabbitmq'\nexchange = 'orders'\n{url}");
    let settings = Settings::from_toml(&text).unwrap();
    let publisher = &settings.publishers["a"];
    assert_eq!((publisher.exchange.as_str(), publisher.routing_key.as_str()), ("orders", "{type}"));
}

#[test]
fn a_stronger_source_replaces_every_form_of_a_weaker_ones_address() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("outbox.toml"),
        "[database]\nurl_file = 'a'\n[publishers.p]\nurl = 'redis://h'\n[web]\noperator_secret_file = 's'",
    )
    .unwrap();
    let load = |variables: &[(&str, &str)]| {
        Settings::load(&LoadOptions::default().directory(folder.path()).variables(variables.iter().copied()))
    };
    let file = load(&[]).unwrap();
    assert_eq!(file.database.url, Secret::from_file("a"));
    assert_eq!(file.web.operator_secret, Some(Secret::from_file("s")));
    let variables = [
        ("DATABASE_URL", "postgres://h/weak"),
        ("OUTBOX__DATABASE__URL_COMMAND", "[\"vault\", \"read\"]"),
        ("OUTBOX__PUBLISHERS__P__URL_FILE", "r"),
        ("OUTBOX__WEB__OPERATOR_SECRET", "a secret of operators"),
    ];
    let replaced = load(&variables).unwrap();
    assert_eq!(replaced.database.url, Secret::from_command(["vault", "read"]));
    assert_eq!(replaced.publishers["p"].url, Some(Secret::from_file("r")));
    assert_eq!(replaced.web.operator_secret, Some("a secret of operators".into()));
    assert_eq!(load(&variables[..1]).unwrap().database.url, "postgres://h/weak".into());
    let twice = [("OUTBOX__DATABASE__URL", "postgres://h/a"), ("OUTBOX__DATABASE__URL_FILE", "f")];
    let error = load(&twice).unwrap_err().to_string();
    assert!(error.contains("database.url_file") && error.contains("conflicts with `database.url`"), "{error}");
}

#[test]
fn an_empty_variable_counts_as_not_given() {
    let empty = [
        ("DATABASE_URL", ""),
        ("OUTBOX__DATABASE__URL", ""),
        ("OUTBOX__WORKER__BATCH_SIZE", ""),
        ("OUTBOX__PUBLISHERS__P__PASSWORD", ""),
        ("OUTBOX__PUBLISHERS__P__HOST", "h"),
    ];
    let settings = env(&empty).unwrap();
    assert!(settings.database.url.is_empty());
    assert_eq!(
        (settings.publishers["p"].password.clone(), settings.worker.batch_size),
        (None, Settings::default().worker.batch_size)
    );
}

#[test]
fn a_settings_file_is_read_as_editors_write_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.toml");
    std::fs::write(&path, b"\xef\xbb\xbf[worker]\nbatch_size = 7\n").unwrap();
    let load = || Settings::load(&LoadOptions::default().file(&path));
    assert_eq!(load().unwrap().worker.batch_size, 7);
    std::fs::write(&path, b"\xff\xfe[\0").unwrap();
    assert!(load().unwrap_err().to_string().contains("it is UTF-16"));
}
