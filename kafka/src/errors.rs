//! What librdkafka's errors mean, by their codes.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The most characters of a text in a message.
const MAX_TEXT: usize = 300;

/// What an error concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The record was sent with others: one of them is too large.
    Size,
    /// The record, at every try.
    Record,
    /// Its topic.
    Topic,
    /// All records.
    Cluster,
}

pub(crate) fn scope(error: &KafkaError) -> Scope {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => Scope::Size,
        Some(Code::InvalidRecord) => Scope::Record,
        Some(
            Code::TopicAuthorizationFailed
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::InvalidTopic,
        ) => Scope::Topic,
        _ => Scope::Cluster,
    }
}

/// Why a topic cannot be used, and what to do.
pub(crate) fn of_topic(code: RDKafkaErrorCode, topic: &str) -> String {
    use RDKafkaErrorCode as Code;
    let topic = printable(topic);
    match code {
        Code::TopicAuthorizationFailed => format!(
            "topic `{topic}` may not be written to: allow it by `kafka-acls.sh --add --producer --topic {topic} …`"
        ),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => format!(
            "topic `{topic}` does not exist: create it by `kafka-topics.sh --create --topic {topic} …`, or correct `topic`"
        ),
        code => format!("topic `{topic}`: {code}"),
    }
}

/// An error, with the reason that the client noted.
pub(crate) fn explain(error: &KafkaError, noted: Option<String>) -> String {
    let what = error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string());
    match noted {
        Some(reason) => format!("{what}: {}", printable(&reason)),
        None => what,
    }
}

/// A text for a message: shortened, and without control characters.
fn printable(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
