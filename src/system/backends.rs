//! The kinds of backend that a program knows, and how each is made from its settings.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use uuid::Uuid;

pub(crate) use crate::backend::guarded::SessionFactory;
use crate::backend::guarded::{self, Guarded};
#[cfg(feature = "redis")]
use crate::backend::redis::{MessageKind, RedisMessages};
use crate::backend::session::{AtLeastOnce, BackendSession, Unmade};
use crate::backend::{Jsonl, Local, PublisherBackend};
use crate::error::SettingsError;
use crate::settings::check::BUILT_IN;
use crate::settings::{PublisherSettings, Settings};

type BackendFactory = Arc<dyn Fn(&PublisherSettings) -> Result<Arc<dyn PublisherBackend>, String> + Send + Sync>;

/// Makes a session of the outbox with this id.
type MakeSession = Arc<dyn Fn(&PublisherSettings, Uuid) -> Result<Box<dyn BackendSession>, String> + Send + Sync>;

/// A kind that the application adds.
#[derive(Clone)]
enum Kind {
    /// At least once.
    Plain(BackendFactory),
    /// With a journal.
    #[cfg_attr(not(feature = "unstable-sessions"), expect(dead_code, reason = "only those of the library"))]
    Sessions(MakeSession),
}

/// Kinds that the application adds, by name.
#[derive(Clone, Default)]
pub(crate) struct Backends(HashMap<String, Kind>);

impl Backends {
    pub(super) fn add<B, F>(&mut self, kind: String, factory: F)
    where
        B: PublisherBackend,
        F: Fn(&PublisherSettings) -> Result<B, String> + Send + Sync + 'static,
    {
        let make: BackendFactory =
            Arc::new(move |settings| factory(settings).map(|backend| Arc::new(backend) as Arc<dyn PublisherBackend>));
        self.0.insert(kind, Kind::Plain(make));
    }

    #[cfg(feature = "unstable-sessions")]
    pub(super) fn add_sessions<F>(&mut self, kind: String, factory: F)
    where
        F: Fn(&PublisherSettings, Uuid) -> Result<Box<dyn BackendSession>, String> + Send + Sync + 'static,
    {
        self.0.insert(kind, Kind::Sessions(Arc::new(factory)));
    }

    /// Checks the publishers' settings before anything is connected.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), SettingsError> {
        settings.default_publisher()?;
        for (name, publisher) in settings.served_publishers() {
            drop(self.session(name, publisher, Uuid::nil())?);
        }
        Ok(())
    }

    /// Whether backends of this kind keep a journal, so that each event reaches them once.
    pub(crate) fn keeps_journal(&self, kind: &str) -> bool {
        ["redis_stream", "nats"].contains(&kind) || matches!(self.0.get(kind), Some(Kind::Sessions(_)))
    }

    /// Makes the session of a publisher, for the outbox with this id.
    pub(crate) fn session(
        &self,
        name: &str,
        settings: &PublisherSettings,
        outbox: Uuid,
    ) -> Result<SessionFactory, SettingsError> {
        let make = Arc::new(self.unguarded_session(name, settings, outbox)?);
        Ok(Box::new(move || Box::new(Guarded::new(Arc::clone(&make)))))
    }

    fn unguarded_session(
        &self,
        name: &str,
        settings: &PublisherSettings,
        outbox: Uuid,
    ) -> Result<SessionFactory, SettingsError> {
        let wrong = |problem: String| invalid(&format!("publishers.{name}"), problem);
        let made = match settings.backend.as_str() {
            #[cfg(feature = "redis")]
            "redis_stream" => with_journal(
                Arc::new(|settings, outbox| Ok(Box::new(crate::backend::RedisStream::new(settings, outbox)?))),
                settings,
                outbox,
            ),
            #[cfg(feature = "redis")]
            "redis_list" => with_journal(redis_messages(MessageKind::List), settings, outbox),
            #[cfg(feature = "redis")]
            "redis_pubsub" => with_journal(redis_messages(MessageKind::Channel), settings, outbox),
            #[cfg(feature = "nats")]
            "nats" => with_journal(
                Arc::new(|settings, outbox| Ok(Box::new(crate::backend::Nats::new(settings, outbox)?))),
                settings,
                outbox,
            ),
            #[cfg(feature = "http-backend")]
            "http" => crate::backend::Http::new(settings).map(|http| plain(Arc::new(http))),
            #[cfg(feature = "rabbitmq")]
            "rabbitmq" => crate::backend::RabbitMq::new(settings).map(|rabbitmq| plain(Arc::new(rabbitmq))),
            "jsonl" => Ok(plain(Arc::new(Jsonl::new(settings.path.as_deref().unwrap_or("-"))))),
            "local" => Ok(plain(Arc::new(Local))),
            kind => match self.0.get(kind) {
                Some(Kind::Plain(factory)) => caught(|| factory(settings)).map(plain),
                Some(Kind::Sessions(make)) => with_journal(Arc::clone(make), settings, outbox),
                None => return Err(invalid(&format!("publishers.{name}.backend"), self.unknown(kind))),
            },
        };
        made.map_err(wrong)
    }

    fn unknown(&self, kind: &str) -> String {
        let mut known: Vec<&str> = BUILT_IN.iter().copied().chain(self.0.keys().map(String::as_str)).collect();
        known.sort_unstable();
        let remedy = if kind == "kafka" {
            "; the package actix-outbox-kafka has it, and `outbox` with the feature kafka"
        } else {
            ""
        };
        format!("`{kind}` is not a known backend; this program knows {}{remedy}", known.join(", "))
    }
}

/// Calls a factory. A factory that panics counts as one that returned an error.
fn caught<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let made = std::panic::catch_unwind(AssertUnwindSafe(call));
    made.unwrap_or_else(|panic| Err(guarded::describe(&*panic)))
}

fn plain(backend: Arc<dyn PublisherBackend>) -> SessionFactory {
    Box::new(move || Box::new(AtLeastOnce::new(Arc::clone(&backend))))
}

#[cfg(feature = "redis")]
fn redis_messages(kind: MessageKind) -> MakeSession {
    Arc::new(move |settings, _| Ok(Box::new(RedisMessages::new(kind, settings)?)))
}

/// Makes a session now, to check the settings, and further ones when they are asked for.
fn with_journal(make: MakeSession, settings: &PublisherSettings, outbox: Uuid) -> Result<SessionFactory, String> {
    drop(caught(|| make(settings, outbox))?);
    let settings = settings.clone();
    Ok(Box::new(move || caught(|| make(&settings, outbox)).unwrap_or_else(|reason| Box::new(Unmade(reason)))))
}

fn invalid(key: &str, problem: String) -> SettingsError {
    SettingsError::Invalid { key: key.to_owned(), origin: "the settings".to_owned(), problem }
}
