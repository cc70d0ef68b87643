//! Entries and streams that are not what a publisher writes.

use super::*;
use crate::consumer::{ConsumerStatus, DeadLetters};
use crate::settings::partitions::partition_name;

impl Stream {
    /// Adds an entry with one field to a stream.
    async fn add_field(&self, stream: &str, name: &[u8], value: &[u8]) {
        let mut add = ::redis::cmd("XADD");
        let _: String =
            add.arg(stream).arg("*").arg(name).arg(value).query_async(&mut self.connection.clone()).await.unwrap();
    }

    /// Reads all entries as a consumer that then is silent for an hour.
    async fn leave_behind(&self, stream: &str) {
        let mut connection = self.connection.clone();
        let create = ["CREATE", stream, "mailer", "0"];
        let _: () = ::redis::cmd("XGROUP").arg(&create).query_async(&mut connection).await.unwrap();
        let read = ["GROUP", "mailer", "gone", "COUNT", "1000", "STREAMS", stream, ">"];
        let _: ::redis::Value = ::redis::cmd("XREADGROUP").arg(&read).query_async(&mut connection).await.unwrap();
        let mut pending = ::redis::cmd("XPENDING");
        let pending = pending.arg(&[stream, "mailer", "-", "+", "1000"]);
        let pending: Vec<(String, String, u64, u32)> = pending.query_async(&mut connection).await.unwrap();
        let mut claim = ::redis::cmd("XCLAIM");
        claim.arg(&[stream, "mailer", "gone", "0"]);
        pending.iter().for_each(|(id, ..)| _ = claim.arg(id));
        claim.arg(&["IDLE", "3600000", "JUSTID"]);
        let _: ::redis::Value = claim.query_async(&mut connection).await.unwrap();
    }

    async fn trim(&self, stream: &str, length: usize) {
        let trim = ["MAXLEN", &length.to_string()];
        let mut connection = self.connection.clone();
        let _: usize = ::redis::cmd("XTRIM").arg(stream).arg(&trim).query_async(&mut connection).await.unwrap();
    }
}

#[actix::test]
async fn an_entry_whose_field_is_empty_is_a_dead_letter_whoever_had_it_before() {
    let mut stream = Stream::new().await;
    stream.add_field(&stream.name, b"", b"").await;
    stream.leave_behind(&stream.name).await;
    stream.add_field(&stream.name, b"", b"").await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    notes.are(&[1]).await;
    eventually("both are dead", PATIENCE, async || stream.dead_letters().await.len() == 2).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_entry_whose_field_is_empty_is_a_dead_letter_of_its_partition() {
    let mut stream = Stream::new().await;
    let partition = partition_name(&stream.name, 0);
    stream.add_field(&partition, b"", b"").await;
    stream.leave_behind(&partition).await;
    stream.add_field(&partition, b"", b"").await;
    let builder = stream.builder("mailer-1", |settings| settings.streams = vec![partition.clone()]);
    let consumer = builder.subscribe(Notes::default().handler(|_| Ok(()))).start().await.unwrap();
    let dead = format!("{partition}:dead:mailer");
    eventually("both are dead", PATIENCE, async || redis::length(&mut stream.connection, &dead).await == 2).await;
    stream.name = partition;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn entries_behind_more_trimmed_ones_than_one_claim_takes_are_claimed() {
    let mut stream = Stream::new().await;
    stream.add(1..=400, "k").await;
    stream.leave_behind(&stream.name).await;
    stream.trim(&stream.name, 10).await;
    let notes = Notes::default();
    // Claims that find nothing are far apart.
    let builder = stream.builder("mailer-1", |settings| settings.reclaim_after = PATIENCE * 10);
    let consumer = builder.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    notes.are(&(391..=400).collect::<Vec<_>>()).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn dead_letters_of_a_stream_that_is_gone_are_not_read_by_a_glob() {
    let mut stream = Stream::new().await;
    let base = stream.name.clone();
    for letters in ["gone:dead:mailer", "gone:dead:other", "gone:dead:other:retry"] {
        stream.name = format!("{{{base}}}.{letters}");
        stream.add([99], "").await;
    }
    stream.name = format!("{{{base}}}.here");
    stream.add([1], "").await;
    let notes = Notes::default();
    let builder = stream.builder("mailer-1", |settings| settings.streams = vec![format!("{{{base}}}.*")]);
    let consumer = builder.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    notes.are(&[1]).await;
    stream.is_acknowledged().await;
    let groups: Vec<::redis::Value> = ::redis::cmd("XINFO")
        .arg("GROUPS")
        .arg(format!("{{{base}}}.gone:dead:other"))
        .query_async(&mut stream.connection)
        .await
        .unwrap();
    assert!(groups.is_empty(), "its group would keep its entries from being trimmed");
    assert_eq!(notes.all(), [1]);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn dead_letters_whose_fields_are_not_utf_8_are_listed() {
    let mut stream = Stream::new().await;
    stream.add_field(&stream.name, b"n\xffme", b"value").await;
    stream.add([1], "").await;
    let consumer = stream.start(Notes::default().handler(|_| Err(HandlerError::permanent("no")))).await;
    eventually("both are dead", PATIENCE, async || {
        redis::length(&mut stream.connection.clone(), &stream.dead()).await == 2
    })
    .await;
    let letters = DeadLetters::of(&stream.builder("operator", |_| {}).settings, "mail").unwrap();
    let listed = letters.list(None, 10).await.unwrap();
    let fields: Vec<_> = listed.iter().map(|letter| letter.fields.join(" ")).collect();
    assert_eq!(fields, ["n\u{fffd}me (not UTF-8)", "event_id event_type source timestamp cloud_event seq"]);
    assert_eq!(letters.get(&listed[0].id).await.unwrap().unwrap().reason, "the entry has no field `cloud_event`");
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_dead_letter_without_fields_of_its_own_keeps_no_other_from_being_retried() {
    let mut stream = Stream::new().await;
    let settings = stream.builder("operator", |_| {}).settings;
    let mut add = ::redis::cmd("XADD");
    add.arg(stream.dead()).arg("*");
    for name in ["stream", "entry", "group", "consumer", "deliveries", "reason"] {
        add.arg(format!("dead_{name}")).arg("");
    }
    let _: String = add.query_async(&mut stream.connection).await.unwrap();
    add.arg("").arg("");
    let _: String = add.query_async(&mut stream.connection).await.unwrap();
    let letters = DeadLetters::of(&settings, "mail").unwrap();
    let ids: Vec<_> = letters.list(None, 10).await.unwrap().into_iter().map(|letter| letter.id).collect();
    let changed = letters.retry(&ids).await.unwrap();
    assert_eq!((changed.changed, changed.missing), (1, ids[..1].to_vec()));
}

#[actix::test]
async fn after_a_deletion_in_the_middle_only_a_few_unread_entries_are_known() {
    let mut stream = Stream::new().await;
    let settings = stream.builder("operator", |_| {}).settings;
    stream.add(1..=10, "").await;
    let notes = Notes::default();
    let consumer = stream.builder("mailer-1", |_| {}).subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    eventually("all are handled", PATIENCE, async || notes.all().len() == 10).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
    let unread = async || ConsumerStatus::of(&settings, "mail").await.unwrap().streams[0].unread;
    assert_eq!(unread().await, Some(0));
    stream.add(11..=20, "").await;
    let ids: Vec<(String, ::redis::Value)> =
        ::redis::cmd("XRANGE").arg(&[&stream.name, "-", "+"]).query_async(&mut stream.connection).await.unwrap();
    let _: usize =
        ::redis::cmd("XDEL").arg(&[&stream.name, &ids[14].0]).query_async(&mut stream.connection).await.unwrap();
    assert_eq!(unread().await, Some(9));
    stream.add(21..=40, "").await;
    assert_eq!(unread().await, None);
}
