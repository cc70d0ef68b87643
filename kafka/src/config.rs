//! The settings of a publisher as those of librdkafka.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_outbox::{ContentMode, PublisherSettings, SaslSettings, TlsSettings};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::FutureProducer;

const COMPRESSIONS: [&str; 4] = ["none", "gzip", "snappy", "lz4"];
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// The largest record; the brokers decide.
const MAX_RECORD: usize = 64 << 20;

/// How long a producer waits for a topic that no broker knows, before it says so.
const TOPIC_LIMIT: Duration = Duration::from_secs(1);

/// The longest pause before a broker is connected again.
const RECONNECT_LIMIT: Duration = Duration::from_secs(1);

const PLACEHOLDERS: [&str; 4] = ["{type}", "{source}", "{key}", "{backend}"];

#[derive(Clone)]
pub(crate) struct Config {
    brokers: String,
    topic: String,
    pub(crate) mode: ContentMode,
    compression: String,
    sasl: Option<SaslSettings>,
    tls: Option<TlsSettings>,
    connect_timeout: Duration,
    /// For one answer of a broker.
    pub(crate) reply_timeout: Duration,
    pub(crate) unavailable_limit: Duration,
}

/// A producer, with what its context has noted.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) producer: FutureProducer<Context>,
    pub(crate) context: Context,
}

impl Config {
    pub(crate) fn new(settings: &PublisherSettings) -> Result<Self, String> {
        if settings.brokers.is_empty() || settings.brokers.iter().any(String::is_empty) {
            return Err("needs `brokers`, as in [\"kafka-1:9092\", \"kafka-2:9092\"]".to_owned());
        }
        if settings.topic.is_empty() {
            return Err("topic: must not be empty".to_owned());
        }
        if settings.mode == ContentMode::Batch {
            return Err("mode: must be \"structured\" or \"binary\": a record has one event".to_owned());
        }
        if !COMPRESSIONS.contains(&settings.compression.as_str()) {
            return Err(format!("compression: must be one of {}", COMPRESSIONS.join(", ")));
        }
        if settings.sasl.as_ref().is_some_and(|sasl| !MECHANISMS.contains(&sasl.mechanism.as_str())) {
            return Err(format!("sasl: needs `mechanism`, one of {}", MECHANISMS.join(", ")));
        }
        if settings.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some() != tls.key_file.is_some()) {
            return Err("tls: has one of `cert_file` and `key_file`; a client's certificate needs both".to_owned());
        }
        if let Some(tls) = &settings.tls {
            for (_, file) in files(tls) {
                // librdkafka's error does not name it.
                File::open(file)
                    .map_err(|error| format!("tls: the file {} cannot be read: {error}", file.display()))?;
            }
        }
        Ok(Self {
            brokers: settings.brokers.join(","),
            topic: settings.topic.clone(),
            mode: settings.mode,
            compression: settings.compression.clone(),
            sasl: settings.sasl.clone(),
            tls: settings.tls.clone(),
            connect_timeout: settings.connect_timeout.max(Duration::from_secs(1)),
            reply_timeout: settings.socket_timeout.max(Duration::from_millis(100)),
            unavailable_limit: settings.unavailable_limit,
        })
    }

    /// The topic, perhaps with placeholders.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The topic, if all events have the same.
    pub(crate) fn fixed_topic(&self) -> Option<&str> {
        let is_fixed = !PLACEHOLDERS.iter().any(|name| self.topic.contains(name));
        is_fixed.then_some(self.topic.as_str())
    }

    /// How long a record may wait for its delivery report, with retries inside the client.
    pub(crate) fn delivery_timeout(&self) -> Duration {
        self.reply_timeout * 2
    }

    /// Makes a producer. Reads the password, which may take time.
    pub(crate) fn client(&self) -> Result<Client, String> {
        let context = Context::default();
        let config = self.librdkafka()?;
        let producer = FutureProducer::from_config_and_context(&config, context.clone());
        Ok(Client { producer: producer.map_err(|error| error.to_string())?, context })
    }

    fn librdkafka(&self) -> Result<ClientConfig, String> {
        let milliseconds = |time: Duration| time.as_millis().to_string();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", concat!("actix-outbox/", env!("CARGO_PKG_VERSION")))
            // Waits for all replicas that are in sync, and keeps order and number of records in its retries.
            .set("enable.idempotence", "true")
            .set("compression.type", &self.compression)
            // As Java's producers, so that a key has one partition.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .set("message.max.bytes", MAX_RECORD.to_string())
            .set("message.timeout.ms", milliseconds(self.delivery_timeout()))
            .set("request.timeout.ms", milliseconds(self.reply_timeout))
            .set("socket.timeout.ms", milliseconds(self.reply_timeout))
            .set("socket.connection.setup.timeout.ms", milliseconds(self.connect_timeout))
            .set("reconnect.backoff.max.ms", milliseconds(RECONNECT_LIMIT))
            .set("topic.metadata.propagation.max.ms", milliseconds(TOPIC_LIMIT))
            .set("security.protocol", self.protocol())
            .set_log_level(RDKafkaLogLevel::Warning);
        if let Some(sasl) = &self.sasl {
            let password = sasl.password.read().map_err(|error| format!("sasl: {error}"))?;
            config
                .set("sasl.mechanism", &sasl.mechanism)
                .set("sasl.username", &sasl.username)
                .set("sasl.password", &*password);
        }
        for (key, file) in self.tls.iter().flat_map(files) {
            config.set(key, file.display().to_string());
        }
        Ok(config)
    }

    fn protocol(&self) -> &'static str {
        match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), None) => "ssl",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }
}

/// The files that are given, with librdkafka's names for them.
fn files(tls: &TlsSettings) -> impl Iterator<Item = (&'static str, &Path)> {
    let all = [
        ("ssl.ca.location", &tls.ca_file),
        ("ssl.certificate.location", &tls.cert_file),
        ("ssl.key.location", &tls.key_file),
    ];
    all.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?)))
}

/// Keeps the last error of the client itself, such as a broker that refuses connections: delivery reports only say that a
/// record was late.
#[derive(Clone, Default)]
pub(crate) struct Context(Arc<Mutex<Option<String>>>);

impl Context {
    pub(crate) fn last_error(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets it, since the client works.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The error of the last broker says more than that all of them are down.
        if last.is_none() || error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *last = Some(reason.to_owned());
        }
    }
}
