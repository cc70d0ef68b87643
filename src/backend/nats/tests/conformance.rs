//! The suite of every backend with a journal: on one server, on a cluster of three, and on a server without batches.

use async_trait::async_trait;
use rand::Rng;

use super::*;
use crate::sessions::conformance::{Promise, Target};
use crate::test_support::nats::{Cluster, WITHOUT_BATCHES};

fn limited(port: u16, limit: Duration) -> PublisherSettings {
    PublisherSettings { connect_timeout: limit, socket_timeout: limit, ..settings(port) }
}

struct OneServer(Server);

#[async_trait]
impl Target for OneServer {
    const PROMISE: Promise = Promise::Once;

    async fn create() -> Self {
        Self(server_with(stream()).await.0)
    }

    fn port(&self) -> u16 {
        self.0.port()
    }

    fn session(&self, outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession> {
        Box::new(Nats::new(&limited(port, limit), outbox).unwrap())
    }

    async fn received(&self) -> Vec<Uuid> {
        received(&context(&self.0.url()).await).await
    }

    async fn kill(&mut self) {
        self.0.kill();
    }

    async fn start_again(&mut self) {
        self.0.start_again();
    }

    fn too_large(&self) -> Option<usize> {
        Some(1 << 20)
    }
}

/// A stream on three servers; sessions know one of them, and any of them may lead the stream.
struct ThreeServers {
    cluster: Cluster,
    killed: usize,
}

#[async_trait]
impl Target for ThreeServers {
    const PROMISE: Promise = Promise::Once;

    async fn create() -> Self {
        let cluster = tokio::task::spawn_blocking(|| Cluster::start(3)).await.unwrap();
        let context = context(&cluster.url(0)).await;
        let config = Config { num_replicas: 3, ..stream() };
        create_stream(&context, config).await;
        Self { cluster, killed: 0 }
    }

    fn port(&self) -> u16 {
        self.cluster.port(0)
    }

    fn session(&self, outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession> {
        Box::new(Nats::new(&limited(port, limit), outbox).unwrap())
    }

    async fn received(&self) -> Vec<Uuid> {
        received(&context(&self.cluster.url(0)).await).await
    }

    /// Kills the server that sessions know, or another one, which may be the stream's leader.
    async fn kill(&mut self) {
        self.killed = if self.killed == 0 { 0 } else { rand::rng().random_range(0..3) };
        self.cluster.kill(self.killed);
    }

    async fn start_again(&mut self) {
        self.cluster.start_again(self.killed);
        self.killed = 1;
    }

    fn too_large(&self) -> Option<usize> {
        Some(1 << 20)
    }
}

struct WithoutBatches(Server);

#[async_trait]
impl Target for WithoutBatches {
    const PROMISE: Promise = Promise::AtLeastOnce;

    async fn create() -> Self {
        let server = tokio::task::spawn_blocking(|| Server::with(WITHOUT_BATCHES, "")).await.unwrap();
        let config = Config { allow_atomic_publish: false, ..stream() };
        context(&server.url()).await.create_stream(config).await.unwrap();
        Self(server)
    }

    fn port(&self) -> u16 {
        self.0.port()
    }

    fn session(&self, outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession> {
        Box::new(Nats::new(&limited(port, limit), outbox).unwrap())
    }

    async fn received(&self) -> Vec<Uuid> {
        received(&context(&self.0.url()).await).await
    }

    async fn kill(&mut self) {
        self.0.kill();
    }

    async fn start_again(&mut self) {
        self.0.start_again();
    }

    fn too_large(&self) -> Option<usize> {
        Some(1 << 20)
    }
}

mod one_server {
    crate::session_conformance!(super::OneServer);
}

mod three_servers {
    crate::session_conformance! {
        super::ThreeServers:
        accepted_events_arrive_once_and_in_order
        a_large_batch_arrives_whole_and_in_order
        an_earlier_session_can_send_nothing_more
        a_request_that_arrives_late_is_refused
        the_journal_survives_the_death_of_the_server
        an_outage_is_no_events_fault
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "minutes; run with --ignored"]
    async fn random_faults_lose_double_and_reorder_nothing() {
        crate::sessions::conformance::random_faults_lose_double_and_reorder_nothing::<super::ThreeServers>().await;
    }
}

mod without_batches {
    crate::session_conformance!(super::WithoutBatches);
}
