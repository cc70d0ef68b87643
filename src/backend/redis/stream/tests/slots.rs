//! The cluster slot that a stream and its meta key share.

use proptest::prelude::*;

use super::*;
use crate::settings::Settings;
use crate::settings::partitions::partition_name;

/// The slot of a key, by the letter of Redis Cluster's specification.
fn slot(key: &str) -> u16 {
    let key = key.as_bytes();
    let hashed = match key.iter().position(|byte| *byte == b'{') {
        Some(open) => match key[open + 1..].iter().position(|byte| *byte == b'}') {
            Some(length) if length > 0 => &key[open + 1..open + 1 + length],
            _ => key,
        },
        None => key,
    };
    crc16(hashed) % 16_384
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let shift = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        (0..8).fold(crc ^ u16::from(*byte) << 8, shift)
    })
}

fn is_taken(stream: &str) -> bool {
    let mut checked = Settings::default();
    checked.publishers.insert("default".to_owned(), settings("redis://localhost", stream));
    checked.check().is_ok()
}

#[test]
fn the_meta_key_has_the_streams_hash_tag_or_makes_one_of_its_name() {
    assert_eq!(meta_key("events"), "{events}:outbox");
    assert_eq!(meta_key("a{tag}b"), "a{tag}b:outbox");
    assert_eq!(meta_key("open{end"), "{open{end}:outbox");
}

#[test]
fn a_name_of_which_no_tag_can_be_made_is_refused() {
    for stream in ["a}b", "x{}y", "a}{b", "}", "{}{a}", "{}"] {
        assert!(!is_taken(stream), "{stream}");
    }
    for stream in ["a{b", "a}{b}", "{a}}", "{{a}", "{"] {
        assert!(is_taken(stream), "{stream}");
    }
}

proptest! {
    #[test]
    fn every_name_that_is_taken_shares_its_slot_with_its_meta_key_and_partitions(stream in "[ab:{}]{1,10}") {
        if is_taken(&stream) {
            prop_assert_eq!(slot(&stream), slot(&meta_key(&stream)));
            prop_assert_eq!(slot(&stream), slot(&partition_name(&stream, 7)));
        }
    }

    #[test]
    fn every_name_without_a_closing_brace_is_taken(stream in "[^}]{1,10}") {
        prop_assert!(is_taken(&stream));
    }
}

#[tokio::test]
async fn a_stream_and_its_journal_share_a_slot_with_and_without_a_hash_tag() {
    let server = Server::start(&[("cluster-enabled", "yes")]);
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    let mut connection = redis::connect(&server.url()).await;
    let () = ::redis::cmd("CLUSTER").arg("ADDSLOTS").arg(slots).query_async(&mut connection).await.unwrap();
    eventually("the cluster serves its slots", PATIENCE, async || {
        let info: String = ::redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.unwrap();
        info.contains("cluster_state:ok")
    })
    .await;
    for stream in ["events", "{shop}.events", "a{b", "a}{b}", "{{a}"] {
        let asked: u16 = ::redis::cmd("CLUSTER").arg("KEYSLOT").arg(stream).query_async(&mut connection).await.unwrap();
        assert_eq!(slot(stream), asked, "{stream}");
        let test = TestStream::on(&server.url(), stream).await;
        let mut worker = test.worker();
        let events = events(1, "");
        worker.open(&[(shard(3), 1)]).await.unwrap();
        send_all(&mut worker, &outgoing(3, &events)).await;
        assert_eq!(test.sent_ids().await, ids(&events));
    }
}
