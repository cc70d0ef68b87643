//! The suite that every backend with a journal passes.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::*;
use crate::sessions::conformance::{Promise, Target};

#[async_trait]
impl Target for Server {
    const PROMISE: Promise = Promise::Once;

    async fn create() -> Self {
        Self::start(Self::DURABLE)
    }

    fn port(&self) -> u16 {
        self.port()
    }

    fn session(&self, outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession> {
        let url = format!("redis://127.0.0.1:{port}/0");
        let settings =
            PublisherSettings { connect_timeout: limit, socket_timeout: limit, max_len: 0, ..settings(&url, "events") };
        Box::new(RedisStream::new(&settings, outbox).unwrap())
    }

    async fn received(&self) -> Vec<Uuid> {
        redis::event_ids(&self.url(), "events").await.iter().map(|id| id.parse().unwrap()).collect()
    }

    async fn kill(&mut self) {
        self.kill();
    }

    async fn start_again(&mut self) {
        self.start_again();
    }
}

crate::session_conformance!(Server);

/// The same with partitions, in a module of its own, since the cases have the same names.
mod partitions {
    use super::*;
    use crate::settings::partitions::partition_name;

    const PARTITIONS: u32 = 5;

    type Entry = BTreeMap<String, String>;

    struct Partitioned(Server);

    #[async_trait]
    impl Target for Partitioned {
        const PROMISE: Promise = Promise::Once;

        async fn create() -> Self {
            Self(<Server as Target>::create().await)
        }

        fn port(&self) -> u16 {
            self.0.port()
        }

        fn session(&self, outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession> {
            let url = format!("redis://127.0.0.1:{port}/0");
            let settings = PublisherSettings {
                connect_timeout: limit,
                socket_timeout: limit,
                max_len: 0,
                partitions: PARTITIONS,
                ..settings(&url, "events")
            };
            Box::new(RedisStream::new(&settings, outbox).unwrap())
        }

        /// Merges the partitions: each in its own order, and of those that come next the smallest `seq` first.
        async fn received(&self) -> Vec<Uuid> {
            let (mut partitions, mut places) = (Vec::new(), BTreeMap::new());
            for n in 0..PARTITIONS {
                let entries = redis::entries(&self.0.url(), &partition_name("events", n)).await;
                for key in entries.iter().filter_map(partition_key) {
                    let place = *places.entry(key.clone()).or_insert(n);
                    assert_eq!(place, n, "the events of {key:?} are in two partitions");
                }
                partitions.push(VecDeque::from(entries));
            }
            let mut received = Vec::new();
            while let Some(next) =
                partitions.iter_mut().filter(|left| !left.is_empty()).min_by_key(|left| seq(&left[0]))
            {
                let entry = next.pop_front().unwrap();
                received.push(entry["event_id"].parse().unwrap());
            }
            received
        }

        async fn kill(&mut self) {
            self.0.kill();
        }

        async fn start_again(&mut self) {
            self.0.start_again();
        }
    }

    fn seq(entry: &Entry) -> i64 {
        entry["seq"].parse().unwrap()
    }

    fn partition_key(entry: &Entry) -> Option<String> {
        let event: serde_json::Value = serde_json::from_str(&entry["cloud_event"]).unwrap();
        event["partitionkey"].as_str().map(str::to_owned)
    }

    crate::session_conformance!(Partitioned);
}
