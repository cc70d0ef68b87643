//! The cost of an event for a worker without the servers: decoding its row, encoding its entry, the arithmetic of cursor and
//! credit.
//!
//! `cargo bench --bench micro --features bench-api` runs it.

use std::hint::black_box;

use actix_outbox::bench_api::{Allowance, Events, Reading, StoredRow};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Bytes of data: a small event, and a large one.
const SIZES: [usize; 2] = [60, 16 << 10];
const BATCH: usize = 500;
const FETCH: i64 = 2_000;

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(BATCH as u64));
    for size in SIZES {
        let events = Events::new(BATCH, size);
        group.bench_with_input(BenchmarkId::new("entries", size), &events, |b, events| b.iter(|| events.encode()));
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let row = StoredRow::new(size);
        group.bench_function(BenchmarkId::new("row", size), |b| {
            b.iter_batched(|| row.clone(), StoredRow::decode, BatchSize::SmallInput);
        });
    }
}

fn cursor(c: &mut Criterion) {
    let mut group = c.benchmark_group("cursor");
    group.throughput(Throughput::Elements(FETCH.unsigned_abs()));
    group.bench_function("plan and advance", |b| {
        let mut reading = Reading::new(FETCH);
        b.iter(|| black_box(reading.turn()));
    });
}

fn credit(c: &mut Criterion) {
    let mut group = c.benchmark_group("credit");
    group.throughput(Throughput::Elements(FETCH.unsigned_abs()));
    let allowance = Allowance::new(5_000);
    group.bench_function("take and give back", |b| b.iter(|| allowance.pass(black_box(FETCH as usize))));
}

criterion_group!(micro, encode, decode, cursor, credit);
criterion_main!(micro);
