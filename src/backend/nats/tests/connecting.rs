//! Users, rights and TLS.

use super::*;
use crate::settings::TlsSettings;
use crate::test_support::tls::Identity;

fn with(server: &Server, user: &str, password: &str) -> PublisherSettings {
    let (username, password) = (Some(user.to_owned()), Some(Secret::from(password.to_owned())));
    PublisherSettings { username, password, create: true, ..settings(server.port()) }
}

fn file_with(text: &str) -> (tempfile::NamedTempFile, Option<Secret>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let secret = Secret::from_file(file.path());
    (file, Some(secret))
}

#[tokio::test]
async fn a_wrong_password_is_an_outage_that_shows_no_secret() {
    let server = Server::with(crate::test_support::nats::CURRENT, "authorization { user: app, password: \"ri@ght\" }");
    session(&with(&server, "app", "ri@ght")).open(&[(shard(3), 1)]).await.unwrap();
    let in_url = |password: &str| {
        let url = format!("nats://app:{password}@127.0.0.1:{}", server.port());
        PublisherSettings { url: Some(Secret::from(url)), ..settings(server.port()) }
    };
    session(&in_url("ri%40ght")).open(&[(shard(3), 2)]).await.unwrap();
    for settings in [with(&server, "app", "hunter2"), in_url("hunter2"), settings(server.port())] {
        let reason = reason_of_no_open(&settings).await;
        assert!(reason.contains("authorization violation") && !reason.contains("hunter2"), "{reason}");
    }
}

#[tokio::test]
async fn a_user_without_the_right_to_a_subject_is_named_as_such() {
    let allowed = r#"authorization { users: [ { user: app, password: right, permissions: {
        publish: ["$JS.API.>", "_outbox.>"], subscribe: ["_INBOX.>"] } } ] }"#;
    let server = Server::with(crate::test_support::nats::CURRENT, allowed);
    let mut session =
        session(&PublisherSettings { socket_timeout: Duration::from_secs(5), ..with(&server, "app", "right") });
    session.open(&[(shard(3), 1)]).await.unwrap();
    let sent = session.send(&events(1..=1)).await;
    assert_eq!(sent.answers, [SendResult::NotSent], "no event is to blame");
    let reason = sent.unavailable.unwrap().reason;
    assert!(reason.to_lowercase().contains("permissions violation for publish to \"events.t\""), "{reason}");
}

#[tokio::test]
async fn the_rights_that_the_book_lists_are_enough() {
    let book = include_str!("../../../../docs/nats.md");
    let rights = book.split("A user needs these rights:").nth(1).and_then(|rest| rest.split("```").nth(1)).unwrap();
    let (publish, subscribe) = rights.split_once("subscribe:").unwrap();
    let quoted = |text: &str| -> Vec<String> { text.split('"').skip(1).step_by(2).map(str::to_owned).collect() };
    let configuration = format!(
        "authorization {{ users: [ {{ user: app, password: right, permissions: {{ publish: {:?}, subscribe: {:?} }} }} ] }}",
        quoted(publish),
        quoted(subscribe)
    );
    let server = Server::with(crate::test_support::nats::CURRENT, &configuration);
    let mut session = session(&with(&server, "app", "right"));
    session.open(&[(shard(3), 1)]).await.unwrap();
    let events = events(1..=2);
    send_all(&mut session, &events).await;
    session.settled(&names(&events));
    session.flush().await.unwrap();
    session.health_check().await.unwrap();
    let entries = session.entries().await.unwrap();
    assert_eq!(session.remove(&entries).await.unwrap(), 1);
}

#[tokio::test]
async fn a_user_is_known_by_the_seed_of_a_key() {
    let key = nkeys::KeyPair::new_user();
    let authorization = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key());
    let server = Server::with(crate::test_support::nats::CURRENT, &authorization);
    let (_file, nkey_file) = file_with(&format!("{}\n", key.seed().unwrap()));
    session(&PublisherSettings { nkey_file, create: true, ..settings(server.port()) })
        .open(&[(shard(3), 1)])
        .await
        .unwrap();
    let (_file, nkey_file) = file_with(&nkeys::KeyPair::new_user().seed().unwrap());
    let reason = reason_of_no_open(&PublisherSettings { nkey_file, ..settings(server.port()) }).await;
    assert!(reason.contains("authorization violation"), "{reason}");
    let (_file, credentials_file) = file_with("no credentials");
    let reason = reason_of_no_open(&PublisherSettings { credentials_file, ..settings(server.port()) }).await;
    assert!(reason.contains("credentials_file has no JWT and seed of a user"), "{reason}");
}

#[tokio::test]
async fn tls_verifies_the_server_and_shows_the_clients_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (identity, certificate, key) = Identity::with_client(folder.path(), "app");
    let configuration = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        identity.certificate, identity.key, identity.authority
    );
    let server = Server::with(crate::test_support::nats::CURRENT, &configuration);
    let to = |tls: TlsSettings| {
        let url = Some(Secret::from(format!("tls://localhost:{}", server.port())));
        PublisherSettings { url, tls: Some(tls), create: true, ..settings(server.port()) }
    };
    let whole =
        TlsSettings { ca_file: Some(identity.authority.clone()), cert_file: Some(certificate), key_file: Some(key) };
    session(&to(whole.clone())).open(&[(shard(3), 1)]).await.unwrap();
    // Other authorities do not vouch for it; without its certificate the client is refused.
    let unknown = TlsSettings { ca_file: None, ..whole.clone() };
    let nameless = TlsSettings { cert_file: None, key_file: None, ..whole };
    for tls in [unknown, nameless] {
        reason_of_no_open(&to(tls)).await;
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let mut server = Server::start();
    let settings = PublisherSettings {
        create: true,
        connect_timeout: Duration::from_millis(500),
        socket_timeout: Duration::from_millis(500),
        ..settings(server.port())
    };
    let mut session = session(&settings);
    session.open(&[(shard(3), 1)]).await.unwrap();
    server.signal(crate::test_support::process::Signal::STOP);
    assert!(session.send(&events(1..=1)).await.unavailable.is_some());
    assert!(session.health_check().await.is_err());
    server.signal(crate::test_support::process::Signal::CONT);
}
