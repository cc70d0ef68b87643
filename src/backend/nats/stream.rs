//! The stream: found or created, and checked for what an atomic batch needs.

use async_nats::Client;
use async_nats::jetstream;
use async_nats::jetstream::context::{CreateStreamError, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, Info, RetentionPolicy};
use async_nats::jetstream::{Context, ErrorCode};

use super::errors;
use super::subject::{self, SubjectTemplate};
use crate::backend::BackendError;
use crate::settings::PublisherSettings;

/// What the settings say about the stream.
#[derive(Clone)]
pub(super) struct WantedStream {
    pub(super) name: String,
    pub(super) subject: SubjectTemplate,
    create: bool,
    replicas: usize,
}

/// A stream as it is.
pub(super) struct Stream {
    pub(super) handle: jetstream::stream::Stream,
    subjects: Vec<String>,
    /// The largest message, in bytes.
    largest: usize,
}

impl WantedStream {
    /// # Errors
    /// The setting that cannot be used.
    pub(super) fn new(settings: &PublisherSettings) -> Result<Self, String> {
        let subject = SubjectTemplate::new(&settings.subject).map_err(|problem| format!("subject {problem}"))?;
        if settings.create && subject.pattern().is_none() {
            return Err("create needs a `subject` that begins with a fixed token, such as events.{type}".to_owned());
        }
        Ok(Self { name: settings.stream.clone(), subject, create: settings.create, replicas: settings.replicas })
    }

    /// Finds the stream, or creates it where the settings allow that.
    pub(super) async fn find(
        &self,
        client: &Client,
        context: &Context,
        is_atomic: bool,
    ) -> Result<Stream, BackendError> {
        let handle = match context.get_stream(&self.name).await {
            Ok(stream) => stream,
            Err(error) if is_missing(&error) && self.create => self.create(context, is_atomic).await?,
            Err(error) if is_missing(&error) => return Err(self.missing()),
            Err(error) => return Err(self.unavailable(&error)),
        };
        let config = &handle.cached_info().config;
        if let Some(problem) = self.problem(config, is_atomic) {
            return Err(BackendError::Unavailable(problem));
        }
        let of_stream = usize::try_from(config.max_message_size).ok().filter(|size| *size > 0);
        let largest = client.max_payload().min(of_stream.unwrap_or(usize::MAX));
        Ok(Stream { subjects: config.subjects.clone(), largest, handle })
    }

    /// The stream as it is now.
    pub(super) async fn info(&self, context: &Context) -> Result<Info, BackendError> {
        let stream = context.get_stream(&self.name).await.map_err(|error| self.unavailable(&error))?;
        Ok(stream.cached_info().clone())
    }

    async fn create(&self, context: &Context, is_atomic: bool) -> Result<jetstream::stream::Stream, BackendError> {
        let config = Config {
            name: self.name.clone(),
            subjects: self.subject.pattern().into_iter().chain([subject::of_journals(&self.name)]).collect(),
            num_replicas: self.replicas,
            allow_direct: true,
            allow_rollup: true,
            allow_atomic_publish: is_atomic,
            ..Config::default()
        };
        let created = context.create_stream(config).await;
        let stream = created.map_err(|error: CreateStreamError| self.unavailable(&error))?;
        tracing::info!(stream = %self.name, replicas = self.replicas, "stream of JetStream created");
        Ok(stream)
    }

    fn missing(&self) -> BackendError {
        let subjects = self.subject.pattern().unwrap_or_else(|| "SUBJECTS".to_owned());
        let journals = subject::of_journals(&self.name);
        BackendError::Unavailable(format!(
            "JetStream: there is no stream {0}; set `create = true`, or run: nats stream add {0} --subjects \
             '{subjects},{journals}' --storage file --allow-batch --allow-rollup --defaults",
            self.name
        ))
    }

    fn unavailable(&self, error: &(dyn std::error::Error + 'static)) -> BackendError {
        errors::unavailable(&format!("stream {}", self.name), &errors::with_causes(error))
    }

    /// What keeps the stream from storing a batch with its journal.
    fn problem(&self, config: &Config, is_atomic: bool) -> Option<String> {
        let name = &self.name;
        let edit = |option: &str| format!("run: nats stream edit {name} {option}");
        if config.no_ack {
            return Some(format!("JetStream: stream {name} acknowledges nothing; {}", edit("--ack")));
        }
        if !is_atomic {
            return None;
        }
        if !config.allow_atomic_publish {
            return Some(format!("JetStream: stream {name} takes no atomic batches; {}", edit("--allow-batch")));
        }
        if !config.allow_rollup || config.deny_purge {
            return Some(format!(
                "JetStream: stream {name} takes no rollups, so its journal would grow; {}",
                edit("--allow-rollup")
            ));
        }
        if config.retention == RetentionPolicy::Interest {
            return Some(format!(
                "JetStream: stream {name} keeps only what a consumer wants, so it would not keep the journal; use a stream \
                 with the retention `limits` or `workqueue`"
            ));
        }
        let journals = subject::of_journals(name);
        let journal = journals.replace('>', "x");
        if !config.subjects.iter().any(|pattern| subject::covers(pattern, &journal)) {
            let all =
                config.subjects.iter().map(String::as_str).chain([journals.as_str()]).collect::<Vec<_>>().join(",");
            return Some(format!(
                "JetStream: stream {name} does not take the subjects of the journal, {journals}; {}",
                edit(&format!("--subjects '{all}'"))
            ));
        }
        None
    }
}

impl Stream {
    /// Why the stream would refuse a message, which would fail its whole batch.
    pub(super) fn objection(&self, subject: &str, size: usize) -> Option<String> {
        if size > self.largest {
            return Some(format!("its message has {size} bytes; the server or the stream takes {}", self.largest));
        }
        let is_taken = self.subjects.iter().any(|pattern| subject::covers(pattern, subject));
        let name = || &self.handle.cached_info().config.name;
        (!is_taken).then(|| format!("the stream {} does not take the subject {subject:?}", name()))
    }
}

pub(super) fn is_missing(error: &GetStreamError) -> bool {
    const STREAM_NOT_FOUND: ErrorCode = ErrorCode::STREAM_NOT_FOUND;
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == STREAM_NOT_FOUND)
}
