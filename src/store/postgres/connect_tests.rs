//! Addresses as hosters give them, compared with psql's answers.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::Target;
use crate::error::StoreError;
use crate::settings::Secret;
use crate::test_support::postgres::{self, psql};
use crate::test_support::tls::Identity;

const ENCRYPTED: &str = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// Whether this library's connection to the address is encrypted; or why there is none.
async fn is_encrypted(url: &str, environment: &[(&str, &str)]) -> Result<String, String> {
    let value = |name: &str| environment.iter().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned());
    let client =
        Target::in_environment(url.into(), None, &value)?.connect().await.map_err(|error| error.to_string())?;
    Ok(client.query_one(ENCRYPTED, &[]).await.unwrap().get(0))
}

struct Servers {
    folder: tempfile::TempDir,
    identity: Identity,
    client: (std::path::PathBuf, std::path::PathBuf),
    /// Speaks no TLS.
    plain: postgres::Server,
    /// Admits encrypted connections only, with a password.
    encrypted: postgres::Server,
    /// Has TLS, and admits only connections without it.
    unencrypted: postgres::Server,
    /// Admits clients with a certificate.
    certified: postgres::Server,
}

/// The version of psql that knows `require_auth`.
const KNOWS_REQUIRE_AUTH: u32 = 16;

const RULES_FOR_ALL: &str = "local all all trust\n";

impl Servers {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (identity, certificate, key) = Identity::with_client(folder.path(), "outbox");
        let start = |rules: &str| {
            let mut server = postgres::Server::start_with(&[("ssl_ca_file", "root.crt")]);
            server.trust(&identity);
            server.secure(&identity);
            server.admit(&format!("{RULES_FOR_ALL}{rules}"));
            server
        };
        Self {
            plain: postgres::Server::start(),
            encrypted: start("hostssl all all 127.0.0.1/32 trust\n"),
            unencrypted: start("hostssl all all 127.0.0.1/32 reject\nhostnossl all all 127.0.0.1/32 trust\n"),
            certified: start("hostssl all outbox 127.0.0.1/32 cert\n"),
            client: (certificate, key),
            identity,
            folder,
        }
    }

    /// Replaces the ports and the files in an address.
    fn fill(&self, text: &str) -> String {
        let shown = |path: &Path| path.to_str().unwrap().to_owned();
        let none = self.folder.path().join("none.crt");
        let ports = [
            ("PLAIN", &self.plain),
            ("UNENCRYPTED", &self.unencrypted),
            ("ENCRYPTED", &self.encrypted),
            ("CERTIFIED", &self.certified),
        ];
        let files = [
            ("ROOT", shown(&self.identity.authority)),
            ("STRANGER", shown(&none)),
            ("CLIENT", shown(&self.client.0)),
            ("KEY", shown(&self.client.1)),
        ];
        let text = ports.iter().fold(text.to_owned(), |text, (name, server)| {
            text.replace(name, &format!("outbox@127.0.0.1:{}", server.port()))
        });
        files.iter().fold(text, |text, (name, path)| text.replace(name, path))
    }
}

/// The address, and what psql and this library answer: `true` encrypted, `false` not, or refused.
const ADDRESSES: [(&str, Option<&str>); 40] = [
    ("postgres://PLAIN/postgres", Some("false")),
    ("postgres://PLAIN/postgres?sslmode=disable", Some("false")),
    ("postgres://PLAIN/postgres?sslmode=allow", Some("false")),
    ("postgres://PLAIN/postgres?sslmode=prefer", Some("false")),
    ("postgres://PLAIN/postgres?sslmode=require", None),
    ("postgres://PLAIN/postgres?sslmode=verify-ca&sslrootcert=ROOT", None),
    ("postgresql://PLAIN/postgres?gssencmode=disable", Some("false")),
    ("postgres://PLAIN/postgres?application_name=app&connect_timeout=5", Some("false")),
    ("postgres://PLAIN/postgres?options=-c%20work_mem%3D3MB", Some("false")),
    ("postgres://PLAIN/postgres?target_session_attrs=read-write", Some("false")),
    ("postgres://PLAIN/postgres?require_auth=none", Some("false")),
    ("postgres://PLAIN/postgres?require_auth=scram-sha-256", None),
    ("postgres://PLAIN/postgres?channel_binding=prefer", Some("false")),
    ("postgres://PLAIN/postgres?user=outbox", Some("false")),
    ("postgres://PLAIN/nowhere", None),
    ("postgres://ENCRYPTED/postgres", Some("true")),
    ("postgres://ENCRYPTED/postgres?sslmode=disable", None),
    ("postgres://ENCRYPTED/postgres?sslmode=allow", Some("true")),
    ("postgres://ENCRYPTED/postgres?sslmode=prefer", Some("true")),
    ("postgres://ENCRYPTED/postgres?sslmode=require", Some("true")),
    ("postgres://ENCRYPTED/postgres?sslmode=require&sslrootcert=ROOT", Some("true")),
    ("postgres://ENCRYPTED/postgres?sslmode=verify-ca&sslrootcert=ROOT", Some("true")),
    ("postgres://ENCRYPTED/postgres?sslmode=verify-ca&sslrootcert=STRANGER", None),
    ("postgres://ENCRYPTED/postgres?sslmode=verify-full&sslrootcert=ROOT", None),
    ("postgres://ENCRYPTED/postgres?sslmode=verify-full&sslrootcert=/nowhere/root.crt", None),
    (
        "postgres://ENCRYPTED/postgres?host=localhost&hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert=ROOT",
        Some("true"),
    ),
    ("postgres://UNENCRYPTED/postgres", Some("false")),
    ("postgres://UNENCRYPTED/postgres?sslmode=allow", Some("false")),
    ("postgres://UNENCRYPTED/postgres?sslmode=prefer", Some("false")),
    ("postgres://UNENCRYPTED/postgres?sslmode=disable", Some("false")),
    ("postgres://UNENCRYPTED/postgres?sslmode=require", None),
    ("postgres://CERTIFIED/postgres", None),
    ("postgres://CERTIFIED/postgres?sslcert=CLIENT&sslkey=KEY", Some("true")),
    ("postgres://CERTIFIED/postgres?sslcert=CLIENT&sslkey=KEY&sslmode=verify-ca&sslrootcert=ROOT", Some("true")),
    ("postgres://CERTIFIED/postgres?sslcert=CLIENT&sslkey=KEY&sslmode=disable", None),
    ("postgres://CERTIFIED/postgres?sslcert=CLIENT&sslkey=/nowhere/client.key", None),
    ("postgres://CERTIFIED/other?dbname=postgres&sslcert=CLIENT&sslkey=KEY", Some("true")),
    ("postgres://outbox@/postgres?host=127.0.0.1&port=1,2", None),
    ("postgres://outbox@127.0.0.1:1/postgres", None),
    ("postgres://PLAIN/postgres?sslmode=on", None),
];

#[tokio::test]
async fn an_address_that_works_in_psql_works_here_and_no_other_does() {
    let servers = Servers::start();
    std::fs::write(servers.folder.path().join("none.crt"), rcgen_authority()).unwrap();
    for (address, expected) in ADDRESSES {
        let url = servers.fill(address);
        // psql looks for certificates at home.
        let home = [("HOME", servers.folder.path().to_str().unwrap())];
        let (here, there) = (is_encrypted(&url, &[]).await, psql(&url, &home, ENCRYPTED));
        let is_known = !address.contains("require_auth") || postgres::psql_version() >= KNOWS_REQUIRE_AUTH;
        assert!(!is_known || there.as_deref().ok() == expected, "psql: {address}: {there:?}");
        assert_eq!(here.as_deref().ok(), expected, "{address}: {here:?}");
    }
}

/// An authority that signed nothing.
fn rcgen_authority() -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::read_to_string(Identity::write(folder.path()).authority).unwrap()
}

#[tokio::test]
async fn the_environment_says_what_the_address_leaves_open() {
    let servers = Servers::start();
    let root = servers.fill("ROOT");
    for (address, environment, expected) in [
        ("postgres://ENCRYPTED/postgres", [("PGSSLMODE", "disable"), ("PGSSLROOTCERT", "")], None),
        ("postgres://ENCRYPTED/postgres", [("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", &root)], Some("true")),
        ("postgres://PLAIN/postgres?sslmode=disable", [("PGSSLMODE", "require"), ("PGREQUIREAUTH", "")], Some("false")),
        ("postgres://PLAIN/postgres", [("PGSSLMODE", "prefer"), ("PGREQUIREAUTH", "md5")], None),
    ] {
        let url = servers.fill(address);
        let (here, there) = (is_encrypted(&url, &environment).await, psql(&url, &environment, ENCRYPTED));
        let asks = environment.iter().any(|(name, value)| *name == "PGREQUIREAUTH" && !value.is_empty());
        let is_known = !asks || postgres::psql_version() >= KNOWS_REQUIRE_AUTH;
        assert!(!is_known || there.as_deref().ok() == expected, "psql: {address} {environment:?}: {there:?}");
        assert_eq!(here.as_deref().ok(), expected, "{address} {environment:?}: {here:?}");
    }
}

/// `127.1` is this machine too, but no name of it that is known to be.
#[tokio::test]
async fn a_password_is_sent_as_it_is_only_where_it_is_safe_or_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::write(folder.path());
    let mut server = postgres::Server::start();
    server.secure(&identity);
    let admin = postgres::connect(&server.url("postgres")).await;
    admin
        .batch_execute("SET password_encryption = 'scram-sha-256'; CREATE ROLE ann LOGIN PASSWORD 'se-cret'")
        .await
        .unwrap();
    drop(admin);
    server.admit("host all ann 127.0.0.1/32 password\nhost all all 127.0.0.1/32 trust\n");
    let at =
        |host: &str, parameters: &str| format!("postgres://ann:se-cret@{host}:{}/postgres{parameters}", server.port());
    for (url, works) in [
        (at("127.1", "?sslmode=disable"), false),
        (at("127.1", "?sslmode=require"), false),
        (at("127.1", ""), false),
        (at("127.1", "?sslmode=disable&require_auth=password"), true),
        (at("127.1", "?require_auth=password"), true),
        (at("127.1", &format!("?sslmode=verify-ca&sslrootcert={}", identity.authority.display())), true),
        (at("127.0.0.1", "?sslmode=disable"), true),
        (at("127.0.0.1", "?sslmode=disable&require_auth=!password"), false),
    ] {
        let answer = is_encrypted(&url, &[]).await;
        assert_eq!(answer.is_ok(), works, "{url}: {answer:?}");
        if let Err(error) = answer {
            assert!(error.contains("require_auth") && !error.contains("se-cret"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_host_that_accepts_and_says_nothing_leaves_time_for_the_next() {
    let (silent, server) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), postgres::Server::start());
    let silent_port = silent.local_addr().unwrap().port();
    let url = format!("postgres://outbox@127.0.0.1:{silent_port},127.0.0.1:{}/postgres", server.port());
    let target = Target::from_url(&url).unwrap();
    target.connect().await.unwrap();
    // The host that answered is now tried first.
    let began = Instant::now();
    target.connect().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_error_names_every_host_that_was_tried_once() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgres://ann:se-cret@127.0.0.1:{port},127.0.0.1:1/app?connect_timeout=1");
    let error = Target::from_url(&url).unwrap().connect().await.err().unwrap();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&format!("127.0.0.1:{port}: no answer within 1s; 127.0.0.1:1: ")), "{text}");
    assert_eq!(text.matches("refused").count(), 1, "{text}");
    assert!(!text.contains("se-cret"), "{text}");
}

#[tokio::test]
async fn a_secret_is_read_again_for_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = postgres::Server::start();
    server.ask_for_the_password_of("ann");
    let admin = postgres::connect(&server.url("postgres")).await;
    let (file, password_file) = (folder.path().join("url"), folder.path().join("password"));
    let set = async |password: &str| {
        let role = format!("ALTER ROLE ann PASSWORD '{password}'");
        admin.batch_execute(&role).await.unwrap();
        let url = |part: &str| format!("postgres://ann{part}@127.0.0.1:{}/postgres?sslmode=disable", server.port());
        std::fs::write(&file, url(&format!(":{password}"))).unwrap();
        std::fs::write(&password_file, format!("{password}\n")).unwrap();
        url("")
    };
    admin.batch_execute("CREATE ROLE ann LOGIN").await.unwrap();
    let without_password = set("first").await;
    let read = {
        let file = file.clone();
        move || Ok(std::fs::read_to_string(&file)?)
    };
    let target = |url: Secret, password: Option<Secret>| Target::in_environment(url, password, &|_| None).unwrap();
    let targets = [
        target(Secret::from_file(&file), None),
        target(Secret::from_command(["cat".to_owned(), file.display().to_string()]), None),
        target(Secret::from_fn(read), None),
        target(without_password.as_str().into(), Some(Secret::from_file(&password_file))),
    ];
    for password in ["first", "second"] {
        set(password).await;
        for target in &targets {
            target.connect().await.unwrap();
        }
    }
    // What cannot be read is said, and works again once it can be.
    std::fs::remove_file(&file).unwrap();
    let error = targets[0].connect().await.err().unwrap();
    assert!(error.is_transient() && error.to_string().contains("cannot be read"), "{error}");
    set("third").await;
    targets[0].connect().await.unwrap();
}
