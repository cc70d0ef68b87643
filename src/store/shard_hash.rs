//! The shard of an event by its key, as `outbox_shard` computes it in PostgreSQL.

use uuid::Uuid;

/// The shard of an event among 32, whatever the database: by its key, or by its id if it has none.
pub(crate) fn shard_of(partition_key: &str, id: Uuid) -> u32 {
    let key = if partition_key.is_empty() { id.as_bytes().as_slice() } else { partition_key.as_bytes() };
    hash(key) & 31
}

/// The lower half of PostgreSQL's `hash_bytes_extended` with the seed 0, on a little-endian server: Bob Jenkins' lookup3.
fn hash(key: &[u8]) -> u32 {
    // A key is at most some kilobytes long.
    let start = 0x9e37_79b9_u32.wrapping_add(key.len() as u32).wrapping_add(3_923_095);
    let (mut a, mut b, mut c) = (start, start, start);
    let (blocks, rest) = key.as_chunks::<12>();
    for block in blocks {
        let [x, y, z] = words(block);
        (a, b, c) = mix(a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z));
    }
    let mut last = [0; 12];
    last[..rest.len()].copy_from_slice(rest);
    let [x, y, z] = words(&last);
    // The lowest byte of `c` belongs to the length.
    finish(a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z << 8))
}

fn words(block: &[u8; 12]) -> [u32; 3] {
    let (words, _) = block.as_chunks::<4>();
    [0, 1, 2].map(|n| u32::from_le_bytes(words[n]))
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for (first, second) in [(4, 6), (16, 19)] {
        a = a.wrapping_sub(c) ^ c.rotate_left(first);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(second);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(if first == 4 { 8 } else { 4 });
        b = b.wrapping_add(a);
    }
    (a, b, c)
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::store::conformance::Fixture;
    use crate::store::postgres::fixture::PostgresFixture;

    #[tokio::test]
    async fn a_shard_is_the_one_that_postgresql_computes() {
        let client = PostgresFixture::fresh().await.database.connect().await;
        let mut keys: Vec<String> = (0..=40).map(|length| "é🦀k".chars().cycle().take(length).collect()).collect();
        keys.extend(["k".repeat(255), "🦀".repeat(255), "\u{10FFFF}".to_owned()]);
        let mut runner = TestRunner::default();
        let random = "[^\0]{0,40}|[a-z0-9-]{0,30}";
        keys.extend((0..1_000).map(|_| random.new_tree(&mut runner).unwrap().current()));
        keys.extend((0..100).map(|_| String::new()));
        let ids: Vec<Uuid> = keys.iter().map(|_| Uuid::new_v4()).collect();
        let statement = "SELECT outbox_shard(key, id)::integer FROM unnest($1::text[], $2::uuid[]) AS s(key, id)";
        let computed = client.query(statement, &[&keys, &ids]).await.unwrap();
        assert_eq!(computed.len(), keys.len());
        for ((key, id), row) in keys.iter().zip(&ids).zip(&computed) {
            assert_eq!(shard_of(key, *id) as i32, row.get::<_, i32>(0), "{key:?} {id}");
        }
    }
}
