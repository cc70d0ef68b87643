use redis::cmd;
use std::net::TcpListener;
use std::time::Instant;

use super::*;
use crate::settings::SentinelSettings;
use crate::test_support::PATIENCE;
use crate::test_support::redis::cluster::Cluster;
use crate::test_support::redis::sentinel::{NAME, Watched};
use crate::test_support::redis::{self as servers, Server};

fn in_cluster(nodes: &[&str]) -> Address {
    let nodes = nodes.iter().map(|node| Secret::from(*node)).collect();
    let timeouts = PublisherSettings { connect_timeout: PATIENCE, socket_timeout: PATIENCE, ..Default::default() };
    Address::new(&PublisherSettings { nodes, ..timeouts }).unwrap()
}

fn watched(nodes: Vec<Secret>, master: &str) -> Address {
    let sentinel = Some(SentinelSettings { master: master.to_owned(), nodes });
    Address::new(&PublisherSettings { sentinel, ..PublisherSettings::default() }).unwrap()
}

async fn refusal(address: &mut Address) -> String {
    match address.connect().await {
        Ok(_) => panic!("connected"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_node_that_is_silent_or_away_keeps_nobody_from_the_cluster() {
    let cluster = Cluster::start(1).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("redis://{}", listener.local_addr().unwrap());
    let node = cluster.nodes[0].server.url();
    let mut address = in_cluster(&[&silent, "redis://127.0.0.1:1", &node]);
    for _ in 0..3 {
        let began = Instant::now();
        let mut connection = address.connect().await.unwrap();
        assert!(began.elapsed() < PATIENCE / 2);
        let length: usize = servers::length(&mut connection, "events").await;
        assert_eq!(length, 0);
    }
}

#[tokio::test]
async fn it_is_said_why_no_node_could_help() {
    let plain = Server::start(&[]);
    let error = refusal(&mut in_cluster(&["redis://:hunter2@127.0.0.1:1", &plain.url()])).await;
    assert!(error.contains("no node of the Redis Cluster knows which server has the stream"), "{error}");
    let error = refusal(&mut in_cluster(&[&plain.url()])).await;
    assert!(error.contains("cluster support disabled"), "{error}");
    let error = refusal(&mut watched(vec!["redis://:hunter2@127.0.0.1:1".into()], NAME)).await;
    assert!(error.contains("no Redis Sentinel knows where the master is"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    assert!(refusal(&mut watched(Vec::new(), NAME)).await.ends_with("the settings name none"));
}

#[tokio::test]
async fn only_the_master_that_is_named_is_taken_and_only_while_it_is_one() {
    let redis = Watched::start(&[]).await;
    let nodes: Vec<Secret> = redis.addresses().into_iter().map(Secret::from).collect();
    let mut connection = watched(nodes.clone(), NAME).connect().await.unwrap();
    assert!(sentinel::require_master(&mut connection, NAME).await.is_ok());
    let error = refusal(&mut watched(nodes, "another")).await;
    assert!(error.contains("it watches no master named `another`"), "{error}");

    let mut replica = servers::connect(&redis.replica.url()).await;
    let error = sentinel::require_master(&mut replica, NAME).await.unwrap_err();
    assert_eq!(error, "the server that the sentinels name as `mymaster` is not a master now");
}

#[test]
fn a_server_is_reached_as_the_one_was_that_named_it() {
    let asked = server(&"rediss://ann:pw@a:7000".into()).unwrap();
    let named = Endpoint { host: Some("b".to_owned()), port: 7001 }.seen_from(&asked);
    assert!(matches!(named.addr(), ConnectionAddr::TcpTls { host, port: 7001, insecure: false, .. } if host == "b"));
    assert_eq!((named.redis_settings().username(), named.redis_settings().password()), (Some("ann"), Some("pw")));
    let itself = Endpoint { host: None, port: 7001 }.seen_from(&server(&"redis://a:7000".into()).unwrap());
    assert_eq!(itself.addr(), &ConnectionAddr::Tcp("a".to_owned(), 7001));
    let by_socket = server(&"redis+unix:///run/redis.sock?pass=pw".into()).unwrap();
    for (host, reached) in [(Some("b".to_owned()), "b"), (None, "localhost")] {
        let named = Endpoint { host, port: 7001 }.seen_from(&by_socket);
        assert_eq!(named.addr(), &ConnectionAddr::Tcp(reached.to_owned(), 7001));
        assert_eq!(named.redis_settings().password(), Some("pw"));
    }
}

#[tokio::test]
async fn every_form_of_an_address_leads_to_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("a socket");
    let server = Server::start(&[("unixsocket", socket.to_str().unwrap()), ("requirepass", "p?w")]);
    let (path, port) = (url::Url::from_file_path(&socket).unwrap().path().to_owned(), server.port());
    for scheme in ["redis+unix", "valkey+unix", "unix"] {
        assert_eq!(database_of(&format!("{scheme}://{path}?pass=p%3Fw&db=3")).await, 3, "{scheme}");
    }
    for scheme in ["redis", "valkey"] {
        assert_eq!(database_of(&format!("{scheme}://:p%3Fw@127.0.0.1:{port}/3")).await, 3, "{scheme}");
    }
    let wrong = Some(format!("unix://{path}?pass=hunter2").into());
    let error = refusal(&mut Address::new(&PublisherSettings { url: wrong, ..Default::default() }).unwrap()).await;
    assert!(error.contains("a socket") && !error.contains("hunter2"), "{error}");
}

/// The number of the database that an address leads to.
async fn database_of(url: &str) -> i64 {
    let settings = PublisherSettings { url: Some(url.into()), ..Default::default() };
    let mut checked = crate::settings::Settings::default();
    checked.publishers.insert("default".to_owned(), settings.clone());
    checked.check().unwrap();
    let mut connection = Address::new(&settings).unwrap().connect().await.unwrap();
    let info: String = cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
    let own = info.lines().find(|line| line.contains("cmd=client")).unwrap();
    own.split_once(" db=").and_then(|(_, rest)| rest.split(' ').next()).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_password_is_read_again_for_each_connection() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start(&[]));
    let file = folder.path().join("password");
    let mut admin = servers::connect(&server.url()).await;
    let mut set = async |password: &str| {
        let () = cmd("CONFIG").arg(&["SET", "requirepass", password]).query_async(&mut admin).await.unwrap();
        // Redis 5 requires it of connections that exist, too.
        let () = cmd("AUTH").arg(password).query_async(&mut admin).await.unwrap();
        std::fs::write(&file, format!("{password}\n")).unwrap();
    };
    set("first").await;
    let port = url::Url::parse(&server.url()).unwrap().port();
    let mut address = Address::new(&PublisherSettings {
        host: Some("127.0.0.1".to_owned()),
        port,
        password: Some(Secret::from_file(&file)),
        ..PublisherSettings::default()
    })
    .unwrap();
    for password in ["first", "second"] {
        set(password).await;
        let mut connection = address.connect().await.unwrap();
        let () = cmd("PING").query_async(&mut connection).await.unwrap();
    }
    std::fs::remove_file(&file).unwrap();
    assert!(refusal(&mut address).await.contains("cannot be read"));
}

#[tokio::test]
async fn a_node_without_a_hostname_is_reached_where_it_was_asked() {
    let cluster = Cluster::start(1).await;
    let node = cluster.nodes[0].server.url();
    let mut admin = servers::connect(&node).await;
    let preferred = ["SET", "cluster-preferred-endpoint-type", "hostname"];
    let set: redis::RedisResult<()> = cmd("CONFIG").arg(&preferred).query_async(&mut admin).await;
    if set.is_err() {
        // Before Redis 7 a node names its address only.
        return;
    }
    let slots: redis::Value = cmd("CLUSTER").arg("SLOTS").query_async(&mut admin).await.unwrap();
    assert!(format!("{slots:?}").contains("\"?\""), "{slots:?}");
    let mut connection = in_cluster(&[&node]).connect().await.unwrap();
    assert_eq!(servers::length(&mut connection, "events").await, 0);
}
