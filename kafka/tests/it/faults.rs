//! Brokers that answer with errors, or not at all.

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Answer};

use super::*;

const IMPATIENT: &str = "socket_timeout = '1s'\nconnect_timeout = '1s'";

async fn first(backend: &Kafka, events: &[Arc<OutboxEvent>]) -> BackendError {
    match backend.publish_batch(events).await.remove(0) {
        Some(Err(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn unavailable(backend: &Kafka, events: &[Arc<OutboxEvent>]) -> String {
    match first(backend, events).await {
        BackendError::Unavailable(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[actix_rt::test]
async fn passing_errors_of_brokers_are_retried_inside_the_client_in_order() {
    let cluster = Cluster::mock();
    let topic = cluster.topic("events", 1).await;
    let events = events(&[("t", "k"); 20]).await;
    let backend = backend(&cluster.brokers, &topic, "");
    let passing = [
        Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Answer::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Answer::RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    cluster.faults().request_errors(RDKafkaApiKey::Produce, &passing);
    assert!(all_accepted(&backend.publish_batch(&events).await));
    assert_eq!(subjects(&cluster.read(&topic, 20).await, "k"), (0..20).collect::<Vec<_>>());
}

#[actix_rt::test]
async fn a_broker_that_is_down_is_unavailable_with_the_reason_and_keeps_the_order() {
    let cluster = Cluster::mock();
    let topic = cluster.topic("events", 1).await;
    let events = events(&[("t", "k"), ("t", "k"), ("t", "other")]).await;
    let backend = backend(&cluster.brokers, &topic, IMPATIENT);
    backend.health_check().await.unwrap();
    cluster.down();
    let reason = unavailable(&backend, &events).await;
    assert!(reason.contains("refused") || reason.contains("Disconnected") || reason.contains("down"), "{reason}");
    assert!(backend.health_check().await.is_err());
    cluster.up();
    let started = std::time::Instant::now();
    while !all_accepted(&backend.publish_batch(&events).await) {
        assert!(started.elapsed() < PATIENCE);
    }
    let mut arrived = subjects(&cluster.read(&topic, 3).await, "k");
    arrived.dedup();
    assert_eq!(arrived, [0, 1]);
}

#[actix_rt::test]
async fn a_broker_that_is_slow_is_waited_for_within_the_limit() {
    let cluster = Cluster::mock();
    let topic = cluster.topic("events", 1).await;
    let events = events(&[("t", "k")]).await;
    let backend = backend(&cluster.brokers, &topic, IMPATIENT);
    assert!(all_accepted(&backend.publish_batch(&events).await));
    cluster.faults().broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    assert!(all_accepted(&backend.publish_batch(&events).await));
    cluster.faults().broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    let started = std::time::Instant::now();
    unavailable(&backend, &events).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[actix_rt::test]
async fn a_record_that_is_too_large_is_refused_for_good_and_others_of_its_request_pass() {
    let cluster = Cluster::mock();
    let topic = cluster.topic("events", 1).await;
    let events = events(&[("t", "a"), ("t", "b"), ("t", "a")]).await;
    let backend = backend(&cluster.brokers, &topic, "");
    let too_large = Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    // Of both together, and then of the first alone.
    cluster.faults().request_errors(RDKafkaApiKey::Produce, &[too_large, too_large]);
    let results = backend.publish_batch(&events).await;
    assert!(matches!(results[0], Some(Err(BackendError::Invalid(_)))), "{results:?}");
    assert_eq!(results[1..], [Some(Ok(())), None]);
    assert!(all_accepted(&backend.publish_batch(&events[2..]).await));
}

#[actix_rt::test]
async fn a_topic_that_cannot_be_written_is_named_and_stops_no_other() {
    let cluster = Cluster::mock();
    for (answer, words) in [
        (Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "kafka-acls.sh"),
        (Answer::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "kafka-topics.sh --create"),
    ] {
        let (closed, open) = (cluster.topic("closed", 1).await, cluster.topic("open", 1).await);
        cluster.faults().topic_error(&closed, answer).unwrap();
        let events = events(&[(closed.as_str(), "k"), (open.as_str(), "k"), (open.as_str(), "other")]).await;
        let fixed = backend(&cluster.brokers, &closed, IMPATIENT);
        let reason = unavailable(&fixed, &events).await;
        assert!(reason.contains(words) && reason.contains(&closed), "{reason}");
        let reason = fixed.health_check().await.unwrap_err().to_string();
        assert!(reason.contains(words), "{reason}");

        let by_type = backend(&cluster.brokers, "{type}", IMPATIENT);
        by_type.health_check().await.unwrap();
        let results = by_type.publish_batch(&events).await;
        assert!(matches!(&results[0], Some(Err(BackendError::Deferred { .. }))), "{results:?}");
        assert_eq!(results[1..], [None, Some(Ok(()))]);
        let impatient = backend(&cluster.brokers, "{type}", "socket_timeout = '1s'\nunavailable_limit = 0");
        let error = first(&impatient, &events).await;
        assert!(matches!(error, BackendError::Rejected(_)), "{error:?}");
    }
    let nameless = events(&[("a topic", "")]).await;
    let error = first(&backend(&cluster.brokers, "{type}", ""), &nameless).await;
    assert!(matches!(&error, BackendError::Invalid(reason) if reason.contains("topic")), "{error:?}");
}

#[actix_rt::test]
async fn a_producer_that_failed_for_good_is_replaced() {
    let cluster = Cluster::mock();
    let topic = cluster.topic("events", 1).await;
    let events = events(&[("t", "k"), ("t", "k")]).await;
    let backend = backend(&cluster.brokers, &topic, IMPATIENT);
    let fatal = Answer::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.faults().request_errors(RDKafkaApiKey::InitProducerId, &[fatal]);
    let reason = unavailable(&backend, &events).await;
    assert!(reason.to_lowercase().contains("authorization"), "{reason}");
    assert!(all_accepted(&backend.publish_batch(&events).await));
}

/// The mock knows neither TLS nor logins, so both fail.
#[actix_rt::test]
async fn tls_and_a_login_that_fail_are_reasons_and_show_no_password() {
    let cluster = Cluster::mock();
    let topic = cluster.topic("events", 1).await;
    let events = events(&[("t", "k")]).await;
    let file = File::new();
    let password = file.0.path().join("password");
    std::fs::write(&password, "s3cret").unwrap();
    let sasl = |form: &str| format!("sasl = {{ mechanism = 'SCRAM-SHA-512', username = 'u', {form} }}");
    for (lines, words) in [
        ("tls = {}".to_owned(), "ssl"),
        (sasl("password = 's3cret'"), "sasl"),
        (sasl(&format!("password_file = '{}'", password.display())), "sasl"),
    ] {
        let reason = unavailable(&backend(&cluster.brokers, &topic, &format!("{lines}\n{IMPATIENT}")), &events).await;
        assert!(reason.to_lowercase().contains(words) && !reason.contains("s3cret"), "{lines}: {reason}");
    }
}
