//! Clusters for tests, and the records in their topics.

use std::collections::BTreeMap;
use std::time::Instant;

use actix_outbox::Outbox;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::PATIENCE;

/// librdkafka's mock with one broker, or the cluster at `KAFKA_URL`.
pub(crate) struct Cluster {
    pub(crate) brokers: String,
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) key: Option<String>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) timestamp: Option<i64>,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        match std::env::var("KAFKA_URL") {
            Ok(brokers) => Self { brokers, mock: None },
            Err(_) => Self::mock(),
        }
    }

    pub(crate) fn mock() -> Self {
        let mock = MockCluster::new(1).unwrap();
        Self { brokers: mock.bootstrap_servers(), mock: Some(mock) }
    }

    pub(crate) fn faults(&self) -> &MockCluster<'static, DefaultProducerContext> {
        self.mock.as_ref().expect("a mock cluster")
    }

    /// A topic that no other test uses.
    pub(crate) async fn topic(&self, name: &str, partitions: i32) -> String {
        let topic = format!("{name}-{}", uuid::Uuid::new_v4().simple());
        if let Some(mock) = &self.mock {
            mock.create_topic(&topic, partitions, 1).unwrap();
            return topic;
        }
        let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
        let created =
            admin.create_topics(&[new], &AdminOptions::new().operation_timeout(Some(PATIENCE))).await.unwrap();
        created.into_iter().for_each(|topic| drop(topic.unwrap()));
        topic
    }

    /// Stops the mock's broker; a real one goes on.
    pub(crate) fn down(&self) {
        if let Some(mock) = &self.mock {
            mock.broker_down(1).unwrap();
        }
    }

    pub(crate) fn up(&self) {
        if let Some(mock) = &self.mock {
            mock.broker_up(1).unwrap();
        }
    }

    /// Waits until a worker has noticed that the mock's broker is down.
    pub(crate) async fn refused(&self, outbox: &Outbox) {
        let started = Instant::now();
        while self.mock.is_some()
            && outbox.health().await.is_ok_and(|health| health.backends.values().all(Result::is_ok))
        {
            assert!(started.elapsed() < PATIENCE, "the worker does not notice");
            tokio::task::yield_now().await;
        }
    }

    /// The records of a topic that are there as soon as there are `count`, each partition's in its order.
    pub(crate) async fn read(&self, topic: &str, count: usize) -> Vec<Received> {
        let (brokers, topic) = (self.brokers.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || read(&brokers, &topic, count)).await.unwrap()
    }
}

fn read(brokers: &str, topic: &str, count: usize) -> Vec<Received> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "tests").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        partitions.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&partitions).unwrap();
    // Also those that were written more than once.
    let written = || -> usize {
        let ends = metadata.topics()[0].partitions().iter();
        ends.map(|partition| consumer.fetch_watermarks(topic, partition.id(), PATIENCE).unwrap().1 as usize).sum()
    };
    let (mut all, started) = (Vec::new(), Instant::now());
    let (mut end, mut is_known) = (count, false);
    while all.len() < end || !is_known {
        if all.len() >= end {
            (end, is_known) = (written(), true);
            continue;
        }
        assert!(started.elapsed() < PATIENCE, "{} of {count} records", all.len());
        let Some(message) = consumer.poll(std::time::Duration::from_millis(100)) else { continue };
        let message = message.unwrap().detach();
        let headers = message.headers().map(|headers| {
            let pair = |header: rdkafka::message::Header<'_, &[u8]>| {
                (header.key.to_owned(), String::from_utf8(header.value.unwrap_or_default().to_vec()).unwrap())
            };
            headers.iter().map(pair).collect()
        });
        all.push(Received {
            key: message.key().map(|key| String::from_utf8(key.to_vec()).unwrap()),
            value: message.payload().unwrap().to_vec(),
            headers: headers.unwrap_or_default(),
            timestamp: message.timestamp().to_millis(),
        });
    }
    all
}
