//! TLS to the database and to Redis, as `sslmode` and `rediss://` request it.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use actix_outbox::{DatabaseSettings, SystemError};
use diesel::sql_types::Bool;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::support::process::Running;
use crate::support::tls::Identity;
use crate::support::{free_port, postgres, redis, unique};

/// The program with its certificate authorities from one file, and these settings.
fn outbox(folder: &Path, authority: Option<&Path>, settings: &str, arguments: &[&str]) -> Command {
    let file = folder.join(unique("settings")).with_extension("toml");
    std::fs::write(&file, settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
    command.current_dir(folder).env_remove("DATABASE_URL").args(arguments).arg("--config").arg(file);
    // By default a file without authorities, so that the test does not use the system's.
    let (none, nowhere) = (folder.join("none.crt"), folder.join("nowhere"));
    std::fs::create_dir_all(&nowhere).unwrap();
    std::fs::write(&none, "").unwrap();
    command.env("SSL_CERT_FILE", authority.unwrap_or(&none)).env("SSL_CERT_DIR", &nowhere);
    command
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn postgres_is_encrypted_with_require_and_verified_with_verify_full() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::write(folder.path());
    let mut server = postgres::Server::start();
    server.secure(&identity);
    let run = |host: &str, mode: &str, authority| {
        let url = format!("postgres://outbox:se-cret@{host}:{}/postgres?sslmode={mode}", server.port());
        outbox(folder.path(), authority, &format!("[database]\nurl = \"{url}\""), &["migrate"]).output().unwrap()
    };

    let trusted = Some(identity.authority.as_path());
    let encrypted = run("127.0.0.1", "require", None);
    assert!(encrypted.status.success(), "{}", says(&encrypted));
    let verified = run("localhost", "verify-full", trusted);
    assert!(verified.status.success(), "{}", says(&verified));

    for (host, authority) in [("localhost", None), ("127.0.0.1", trusted)] {
        let refused = run(host, "verify-full", authority);
        assert_eq!(refused.status.code(), Some(1), "{host}");
        let text = says(&refused);
        assert!(text.contains("certificate") && text.contains(host), "{text}");
        assert!(!text.contains("se-cret"), "{text}");
    }
}

#[tokio::test]
async fn a_pool_of_settings_alone_verifies_the_server_as_the_address_says() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::write(folder.path());
    let mut server = postgres::Server::start();
    server.secure(&identity);
    let pool = |host: &str, authority: &Path| {
        let mut database = DatabaseSettings::default();
        let (port, authority) = (server.port(), authority.display());
        database.url =
            format!("postgres://outbox@{host}:{port}/postgres?sslmode=verify-full&sslrootcert={authority}").into();
        database.pool::<AsyncPgConnection>(2)
    };
    let mut conn = pool("localhost", &identity.authority).unwrap().get().await.unwrap();
    let encrypted = diesel::dsl::sql::<Bool>("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    assert!(encrypted.get_result::<bool>(&mut conn).await.unwrap());
    let other = pool("127.0.0.1", &identity.authority).unwrap().get().await;
    assert!(other.err().unwrap().to_string().contains("certificate"));
    assert!(matches!(pool("localhost", Path::new("/nowhere/ca.crt")), Err(SystemError::Settings(_))));
}

#[test]
fn a_postgres_without_tls_is_refused_where_tls_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = postgres::Server::start();
    let url = server.url("postgres").replace("sslmode=disable", "sslmode=require");
    let refused = outbox(folder.path(), None, &format!("[database]\nurl = \"{url}\""), &["migrate"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(says(&refused).contains("TLS"), "{}", says(&refused));
}

#[tokio::test]
async fn rediss_delivers_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::write(folder.path());
    let port = free_port().to_string();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let server = redis::Server::start(&[
        ("tls-port", &port),
        ("tls-cert-file", &path(&identity.certificate)),
        ("tls-key-file", &path(&identity.key)),
        ("tls-ca-cert-file", &path(&identity.authority)),
        ("tls-auth-clients", "no"),
    ]);
    let settings = format!(
        "[database]\nurl = \"sqlite://{}\"\n[publishers.default]\nurl = \"rediss://localhost:{port}\"\nstream_name = \"s\"",
        folder.path().join("outbox.db").display(),
    );
    let trusted = Some(identity.authority.as_path());
    for arguments in [&["migrate"][..], &["publish", "t", "--source", "s"]] {
        let output = outbox(folder.path(), trusted, &settings, arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", says(&output));
    }
    let mut worker = Running::spawn(&mut outbox(folder.path(), trusted, &settings, &["worker", "--until-empty"]));
    assert!(worker.wait_exit(Duration::from_secs(20)).await.success(), "{}", worker.stderr());
    assert_eq!(redis::event_ids(&server.url(), "s").await.len(), 1);
}

/// An authority that rustls cannot use, as systems have them.
const ODD_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";

#[tokio::test]
async fn redis_verifies_the_client_and_is_verified_by_the_files_of_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let (identity, certificate, key) = Identity::with_client(folder.path(), "outbox");
    let port = free_port().to_string();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let _server = redis::Server::start(&[
        ("tls-port", &port),
        ("tls-cert-file", &path(&identity.certificate)),
        ("tls-key-file", &path(&identity.key)),
        ("tls-ca-cert-file", &path(&identity.authority)),
        ("tls-auth-clients", "yes"),
    ]);
    let settings = |tls: &str| {
        format!(
            "[database]\nurl = \"sqlite://{}\"\n[publishers.default]\nurl = \"rediss://localhost:{port}\"\n{tls}",
            folder.path().join("outbox.db").display(),
        )
    };
    let client = format!("cert_file = \"{}\", key_file = \"{}\"", path(&certificate), path(&key));
    let authority = format!("ca_file = \"{}\"", path(&identity.authority));
    let odd = folder.path().join("odd.crt");
    std::fs::write(&odd, format!("{ODD_CERTIFICATE}{}", std::fs::read_to_string(&identity.authority).unwrap()))
        .unwrap();
    let health =
        |tls: &str, system: Option<&Path>| outbox(folder.path(), system, &settings(tls), &["health"]).output().unwrap();
    let migrated = outbox(folder.path(), None, &settings(""), &["migrate"]).output().unwrap();
    assert!(migrated.status.success(), "{}", says(&migrated));
    for (tls, system, works) in [
        (format!("tls = {{ {authority}, {client} }}"), None, true),
        (format!("tls = {{ {client} }}"), Some(identity.authority.as_path()), true),
        (format!("tls = {{ {client} }}"), Some(odd.as_path()), true),
        (format!("tls = {{ {client} }}"), None, false),
        (format!("tls = {{ {authority} }}"), None, false),
        ("tls = { ca_file = \"/nowhere/ca.crt\" }".to_owned(), None, false),
    ] {
        let output = health(&tls, system);
        assert_eq!(output.status.success(), works, "{tls} {system:?}: {}", says(&output));
    }
}

#[test]
fn a_worker_says_at_its_start_that_it_does_not_verify_the_databases_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = postgres::Server::start();
    let run = |host: &str, arguments: &[&str]| {
        // 127.1 is this machine too, but not known to be.
        let url = format!("postgres://outbox@{host}:{}/postgres", server.port());
        let settings = format!("[database]\nurl = \"{url}\"\n[publishers.default]\nbackend = \"local\"");
        let output = outbox(folder.path(), None, &settings, arguments).output().unwrap();
        assert!(output.status.success(), "{}", says(&output));
        says(&output)
    };
    run("127.1", &["migrate"]);
    for (host, is_warned) in [("127.1", true), ("127.0.0.1", false)] {
        let text = run(host, &["worker", "--until-empty"]);
        assert_eq!(text.contains("is not verified"), is_warned, "{host}: {text}");
    }
}
