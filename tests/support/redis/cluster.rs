//! Redis Clusters, and the move of a slot.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, ToRedisArgs};

use super::super::{PATIENCE, eventually};
use super::{Server, connect};

/// The time after which a replica cancels a `CLUSTER FAILOVER`.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(6);

const SLOTS: usize = 16_384;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
}

pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) id: String,
    connection: MultiplexedConnection,
}

impl Node {
    async fn start() -> Self {
        let server = Server::start(&[("cluster-enabled", "yes"), ("cluster-node-timeout", "2000")]);
        let mut connection = connect(&server.url()).await;
        let id = redis::cmd("CLUSTER").arg("MYID").query_async(&mut connection).await.unwrap();
        Self { server, id, connection }
    }

    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[impl ToRedisArgs + Sync]) -> T {
        let mut command = redis::Cmd::new();
        command.arg(words);
        command.query_async(&mut self.connection.clone()).await.unwrap()
    }

    /// Waits until this node's `CLUSTER INFO` or `CLUSTER NODES` satisfies a condition.
    async fn wait(&self, what: &str, words: &[&str], said: impl Fn(&str) -> bool) {
        eventually(what, PATIENCE, async || said(&self.command::<String>(words).await)).await;
    }
}

impl Cluster {
    /// A cluster of masters that share the slots evenly.
    pub(crate) async fn start(masters: usize) -> Self {
        let mut nodes = Vec::new();
        for number in 0..masters {
            let node = Node::start().await;
            let slots = SLOTS * number / masters..SLOTS * (number + 1) / masters;
            let words = ["CLUSTER", "ADDSLOTS"].into_iter().map(str::to_owned);
            let () = node.command(&words.chain(slots.map(|slot| slot.to_string())).collect::<Vec<_>>()).await;
            let () = node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
            nodes.push(node);
        }
        let cluster = Self { nodes };
        for node in &cluster.nodes[1..] {
            cluster.meet(node).await;
        }
        cluster.agree().await;
        cluster
    }

    async fn meet(&self, node: &Node) {
        let port = self.nodes[0].server.port().to_string();
        let () = node.command(&["CLUSTER", "MEET", "127.0.0.1", &port]).await;
    }

    /// Waits until every node knows every other and serves.
    async fn agree(&self) {
        let known = format!("cluster_known_nodes:{}\r", self.nodes.len());
        for node in &self.nodes {
            let serves = |info: &str| info.contains("cluster_state:ok") && info.contains(&known);
            node.wait("the cluster has formed", &["CLUSTER", "INFO"], serves).await;
        }
    }

    /// Adds a replica of a node; returns its index among the nodes.
    pub(crate) async fn add_replica_of(&mut self, master: usize) -> usize {
        let replica = Node::start().await;
        self.meet(&replica).await;
        self.nodes.push(replica);
        self.agree().await;
        let (master, replica) = (&self.nodes[master], &self.nodes[self.nodes.len() - 1]);
        replica.wait("the replica knows its master", &["CLUSTER", "NODES"], |nodes| nodes.contains(&master.id)).await;
        let () = replica.command(&["CLUSTER", "REPLICATE", &master.id]).await;
        let follows = |info: &str| info.contains("master_link_status:up");
        replica.wait("the replica follows its master", &["INFO", "replication"], follows).await;
        self.nodes.len() - 1
    }

    /// Promotes a replica without losing writes of the old master.
    pub(crate) async fn hand_over_to(&self, replica: usize) {
        let node = &self.nodes[replica];
        let mut asked = Instant::now() - FAILOVER_TIMEOUT;
        eventually("the replica has been handed the slots", PATIENCE, async || {
            // A master that does not know its replica yet does not answer it.
            if asked.elapsed() >= FAILOVER_TIMEOUT {
                let () = node.command(&["CLUSTER", "FAILOVER"]).await;
                asked = Instant::now();
            }
            node.command::<String>(&["INFO", "replication"]).await.contains("role:master")
        })
        .await;
    }

    pub(crate) async fn wait_master(&self, replica: usize) {
        let is_master = |info: &str| info.contains("role:master");
        self.nodes[replica].wait("the replica is the master", &["INFO", "replication"], is_master).await;
    }

    pub(crate) async fn slot_of(&self, key: &str) -> u16 {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// The index of the node that serves a slot among the first `masters` nodes.
    pub(crate) fn first_owner(&self, slot: u16, masters: usize) -> usize {
        (0..masters).rfind(|number| SLOTS * number / masters <= usize::from(slot)).unwrap()
    }

    /// The lines of a `[publishers.*]` with these nodes, after one that does not exist.
    pub(crate) fn settings(&self) -> String {
        let nodes = self.nodes.iter().map(|node| format!("\"redis://127.0.0.1:{}\"", node.server.port()));
        let nodes: Vec<String> = std::iter::once("\"redis://127.0.0.1:1\"".to_owned()).chain(nodes).collect();
        format!("nodes = [{}]", nodes.join(", "))
    }

    /// Begins to move a slot; after this its keys can be moved one by one.
    pub(crate) async fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let () = target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source.id]).await;
        let () = source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target.id]).await;
    }

    pub(crate) async fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].server.port().to_string();
        let () = self.nodes[from].command(&["MIGRATE", "127.0.0.1", &port, key, "0", "10000"]).await;
    }

    pub(crate) async fn end_move(&self, slot: u16, to: usize) {
        let id = &self.nodes[to].id;
        for place in std::iter::once(to).chain((0..self.nodes.len()).filter(|place| *place != to)) {
            let () = self.nodes[place].command(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", id]).await;
        }
    }
}
