//! The cost of publishing, compared with a plain INSERT.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;

use super::env::BenchEnv;
use super::pace::Pace;
use super::schema::RawConnection;
use super::system::System;
use super::{Bench, SLICES, alternate};
use actix_outbox::Outbox;
use actix_outbox::{NewEvent, publish, publish_many};

pub(super) const EVENT_TYPE: &str = "order.placed";
pub(super) const SOURCE: &str = "/shop/orders";

/// Events in one statement.
const MANY: usize = 1_000;

#[derive(Debug, Clone, Copy)]
enum PublishRun {
    InsertOne,
    Publish,
    InsertMany,
    InsertMinimal,
    PublishMany,
    /// This many senders, each with its own connection and transactions.
    PublishFrom(usize),
    /// This many senders of one system.
    SendFrom(usize),
}

const RUNS: [PublishRun; 9] = [
    PublishRun::InsertOne,
    PublishRun::Publish,
    PublishRun::InsertMinimal,
    PublishRun::InsertMany,
    PublishRun::PublishMany,
    PublishRun::SendFrom(1),
    PublishRun::SendFrom(8),
    PublishRun::PublishFrom(64),
    PublishRun::SendFrom(64),
];

pub(super) fn steps(rounds: u32) -> u64 {
    u64::from(rounds * SLICES) * RUNS.len() as u64
}

pub(super) async fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let span = bench.span() / SLICES;
    for round in 0..bench.rounds * SLICES {
        for run in alternate(&RUNS, round) {
            bench.step("publishing");
            bench.env.schema.empty().await?;
            let (name, rate) = measure_once(&bench.env, run, span).await?;
            bench.samples.record(name, rate);
        }
    }
    Ok(())
}

async fn measure_once(env: &BenchEnv, run: PublishRun, span: Duration) -> anyhow::Result<(String, f64)> {
    Ok(match run {
        PublishRun::InsertOne => ("insert.one".to_owned(), insert_one(env, span).await?),
        PublishRun::Publish => ("publish".to_owned(), publish_one(env.schema.connection().await?, span).await?),
        PublishRun::InsertMany => ("insert.many".to_owned(), MANY as f64 * insert_many(env, span).await?),
        PublishRun::InsertMinimal => ("insert.minimal".to_owned(), MANY as f64 * insert_minimal(env, span).await?),
        PublishRun::PublishMany => ("publish.many".to_owned(), MANY as f64 * publish_together(env, span).await?),
        PublishRun::PublishFrom(senders) => (format!("publish.{senders}"), publish_from(env, senders, span).await?),
        PublishRun::SendFrom(senders) => (format!("send.{senders}"), send_from(env, senders, span).await?),
    })
}

async fn insert_one(env: &BenchEnv, span: Duration) -> anyhow::Result<f64> {
    let mut raw = env.schema.connection().await?;
    let mut pace = Pace::over(span);
    while pace.should_continue() {
        raw.insert_one(EVENT_TYPE, SOURCE, &data()).await?;
    }
    Ok(pace.rate())
}

async fn insert_many(env: &BenchEnv, span: Duration) -> anyhow::Result<f64> {
    let mut raw = env.schema.connection().await?;
    let mut pace = Pace::over(span);
    while pace.should_continue() {
        let data: Vec<String> = (0..MANY).map(|_| data()).collect();
        raw.insert_many(EVENT_TYPE, SOURCE, &data).await?;
    }
    Ok(pace.rate())
}

async fn insert_minimal(env: &BenchEnv, span: Duration) -> anyhow::Result<f64> {
    let mut raw = env.schema.connection().await?;
    let mut pace = Pace::over(span);
    while pace.should_continue() {
        let data: Vec<String> = (0..MANY).map(|_| data()).collect();
        raw.insert_minimal(EVENT_TYPE, &data).await?;
    }
    Ok(pace.rate())
}

async fn publish_one(mut raw: RawConnection, span: Duration) -> anyhow::Result<f64> {
    let mut pace = Pace::over(span);
    while pace.should_continue() {
        publish(&mut raw.0, event()).await?;
    }
    Ok(pace.rate())
}

async fn publish_together(env: &BenchEnv, span: Duration) -> anyhow::Result<f64> {
    let mut raw = env.schema.connection().await?;
    let mut pace = Pace::over(span);
    while pace.should_continue() {
        publish_many(&mut raw.0, (0..MANY).map(|_| event())).await?;
    }
    Ok(pace.rate())
}

async fn publish_from(env: &BenchEnv, senders: usize, span: Duration) -> anyhow::Result<f64> {
    let mut connections = Vec::new();
    for _ in 0..senders {
        connections.push(env.schema.connection().await?);
    }
    sum_rates(connections.into_iter().map(|raw| publish_one(raw, span)).collect()).await
}

async fn send_from(env: &BenchEnv, senders: usize, span: Duration) -> anyhow::Result<f64> {
    let system = System::publishing(env).await?;
    sum_rates((0..senders).map(|_| send(system.outbox.clone(), span)).collect()).await
}

pub(super) async fn send(outbox: Outbox, span: Duration) -> anyhow::Result<f64> {
    let mut pace = Pace::over(span);
    while pace.should_continue() {
        outbox.send(event()).await?;
    }
    Ok(pace.rate())
}

/// The sum of all rates.
pub(super) async fn sum_rates(mut running: JoinSet<anyhow::Result<f64>>) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    while let Some(rate) = running.join_next().await {
        sum += rate.context("a measurement's task failed")??;
    }
    Ok(sum)
}

pub(super) fn event() -> NewEvent {
    NewEvent::new(EVENT_TYPE, SOURCE).data_json(data())
}

/// Data of 60 characters.
fn data() -> String {
    format!("{{\"n\": 1234567, \"note\": \"{}\"}}", "x".repeat(34))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_sixty_characters_of_data() {
        assert_eq!(data().len(), 60);
        assert!(serde_json::from_str::<serde_json::Value>(&data()).is_ok());
    }
}
