//! The cluster slot that a stream and its meta key share.

use super::*;

#[test]
fn the_meta_key_shares_the_streams_cluster_slot() {
    assert_eq!(meta_key("events"), "{events}:outbox");
    assert_eq!(meta_key("a{tag}b"), "a{tag}b:outbox");
}

#[test]
fn a_name_of_which_no_tag_can_be_made_has_a_meta_key_of_its_own_all_the_same() {
    assert_eq!(meta_key("empty{}tag"), "{empty{}tag}:outbox");
}

#[tokio::test]
async fn a_stream_and_its_journal_live_in_one_slot_of_a_cluster_with_and_without_a_hash_tag() {
    let server = Server::start(&[("cluster-enabled", "yes")]);
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    let mut connection = redis::connect(&server.url()).await;
    let () = ::redis::cmd("CLUSTER").arg("ADDSLOTS").arg(slots).query_async(&mut connection).await.unwrap();
    eventually("the cluster serves its slots", PATIENCE, async || {
        let info: String = ::redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.unwrap();
        info.contains("cluster_state:ok")
    })
    .await;
    for stream in ["events", "{shop}.events"] {
        let scene = Scene::on(&server.url(), stream).await;
        let mut worker = scene.worker();
        let events = events(1, "");
        worker.open(&[(shard(3), 1)]).await.unwrap();
        send_all(&mut worker, &parcels(3, &events)).await;
        assert_eq!(scene.sent_ids().await, ids(&events));
    }
}
