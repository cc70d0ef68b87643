//! Streams that refuse calls for their own key, as when it holds another type: they are not read for a while, so that they hold up
//! no other stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::link::LinkError;
use super::streams::SourceStream;
use super::{RedisSource, Result};
use crate::backend::event_source::{EventSource, SourceUnavailable};

/// How long such a stream is left alone after each refusal.
const REST: Duration = Duration::from_secs(2);

/// A stream that is read is asked again within this time after its rest.
const ASKED_WITHIN: Duration = Duration::from_secs(30);

/// The streams that refused a call, by their numbers.
#[derive(Default)]
pub(super) struct Resting(Mutex<BTreeMap<usize, Refusal>>);

#[derive(Clone)]
struct Refusal {
    until: Instant,
    reason: SourceUnavailable,
}

impl Resting {
    fn streams(&self) -> MutexGuard<'_, BTreeMap<usize, Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_resting(&self, number: usize) -> bool {
        self.streams().get(&number).is_some_and(|refusal| refusal.until > Instant::now())
    }

    /// Extends the rest of a stream.
    fn extend_until(&self, number: usize, until: Instant, reason: impl FnOnce() -> SourceUnavailable) -> bool {
        let mut streams = self.streams();
        let is_new = !streams.contains_key(&number);
        let refusal = streams.entry(number).or_insert_with(|| Refusal { until, reason: reason() });
        refusal.until = refusal.until.max(until);
        is_new
    }

    /// Lets a stream rest because its entries wait for calls that were refused.
    pub(super) fn extend(&self, number: usize, name: &str) {
        let reason = || SourceUnavailable(format!("stream `{name}`: its entries wait for calls that are refused"));
        if self.extend_until(number, Instant::now() + REST, reason) {
            tracing::warn!(stream = name, "entries of a stream wait for refused calls; only the others are read on");
        }
    }

    /// Why one of them is not read. A stream that refuses is asked again after each rest, unless another consumer has it now.
    pub(super) fn reason(&self) -> Option<SourceUnavailable> {
        let asked_since = Instant::now() - ASKED_WITHIN;
        let streams = self.streams();
        let refusal = streams.values().find(|refusal| refusal.until > asked_since)?;
        Some(refusal.reason.clone())
    }
}

impl RedisSource {
    /// What an error means for one stream: the reason if only this stream refuses, which then rests; any other error concerns all.
    pub(super) fn refusal(&self, number: usize, error: &LinkError) -> Result<SourceUnavailable> {
        if !error.is_refused_for_its_key() {
            return Err(self.explain(error));
        }
        let name = self.stream_name(number);
        let reason = SourceUnavailable(format!("stream `{name}`: {}", error.reason()));
        let refusal = Refusal { until: Instant::now() + REST, reason: reason.clone() };
        if self.resting.streams().insert(number, refusal).is_none() {
            tracing::warn!(stream = name, error = error.reason(), "a stream refuses calls; the others are read on");
        }
        Ok(reason)
    }

    /// Those that do not rest. A stream whose rest is over is asked first.
    pub(super) async fn awake(
        &self,
        streams: Vec<(usize, Arc<SourceStream>)>,
    ) -> Result<Vec<(usize, Arc<SourceStream>)>> {
        let resting = self.resting.streams().clone();
        let mut awake = Vec::with_capacity(streams.len());
        for (number, stream) in streams {
            let is_awake = match resting.get(&number) {
                None => true,
                Some(refusal) => refusal.until <= Instant::now() && self.answers(number, &stream).await?,
            };
            if is_awake {
                awake.push((number, stream));
            }
        }
        Ok(awake)
    }

    /// After a call for these streams was refused for one of their keys: finds out for which, so that the next call leaves it out.
    pub(super) async fn find_refusing(
        &self,
        streams: impl Iterator<Item = (usize, Arc<SourceStream>)> + Send,
    ) -> Result<()> {
        for (number, stream) in streams {
            self.answers(number, &stream).await?;
        }
        Ok(())
    }

    async fn answers(&self, number: usize, stream: &SourceStream) -> Result<bool> {
        let mut question = redis::cmd("XPENDING");
        question.arg(&stream.name).arg(&self.group);
        match self.control.query::<redis::Value>(&question).await {
            Err(error) if !error.is_missing_group() => {
                self.refusal(number, &error)?;
                return Ok(false);
            }
            // A missing group is created by the next read.
            Err(error) => drop(self.explain(&error)),
            Ok(_) => {}
        }
        if self.resting.streams().remove(&number).is_some() {
            tracing::info!(stream = stream.name, "the stream answers again");
        }
        Ok(true)
    }
}
