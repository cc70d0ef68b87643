//! The kinds of backend that a program knows, and how each is made from its settings.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use uuid::Uuid;

pub(crate) use crate::backend::guarded::SessionFactory;
use crate::backend::guarded::{self, Guarded};
use crate::backend::session::AtLeastOnce;
use crate::backend::{Jsonl, Local, PublisherBackend};
use crate::error::SettingsError;
use crate::settings::check::BUILT_IN;
use crate::settings::{PublisherSettings, Settings};

type BackendFactory = Arc<dyn Fn(&PublisherSettings) -> Result<Arc<dyn PublisherBackend>, String> + Send + Sync>;

/// Kinds that the application adds, by name.
#[derive(Clone, Default)]
pub(crate) struct Backends(HashMap<String, BackendFactory>);

impl Backends {
    pub(super) fn add<B, F>(&mut self, kind: String, factory: F)
    where
        B: PublisherBackend,
        F: Fn(&PublisherSettings) -> Result<B, String> + Send + Sync + 'static,
    {
        let make: BackendFactory =
            Arc::new(move |settings| factory(settings).map(|backend| Arc::new(backend) as Arc<dyn PublisherBackend>));
        self.0.insert(kind, make);
    }

    /// Checks the publishers' settings before anything is connected.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), SettingsError> {
        settings.default_publisher()?;
        for (name, publisher) in settings.served_publishers() {
            drop(self.session(name, publisher, Uuid::nil())?);
        }
        Ok(())
    }

    /// Makes the session of a publisher, for the outbox with this id.
    pub(crate) fn session(
        &self,
        name: &str,
        settings: &PublisherSettings,
        outbox: Uuid,
    ) -> Result<SessionFactory, SettingsError> {
        let make = Arc::new(self.unguarded_channel(name, settings, outbox)?);
        Ok(Box::new(move || Box::new(Guarded::new(Arc::clone(&make)))))
    }

    fn unguarded_channel(
        &self,
        name: &str,
        settings: &PublisherSettings,
        outbox: Uuid,
    ) -> Result<SessionFactory, SettingsError> {
        #[cfg(not(feature = "redis"))]
        let _ = outbox;
        let wrong = |problem: String| invalid(&format!("publishers.{name}"), problem);
        match settings.backend.as_str() {
            #[cfg(feature = "redis")]
            "redis_stream" => {
                use crate::backend::redis_stream::RedisStream;
                use crate::backend::session::BackendSession;
                RedisStream::new(settings, outbox).map_err(wrong)?;
                let settings = settings.clone();
                Ok(Box::new(move || match RedisStream::new(&settings, outbox) {
                    Ok(stream) => Box::new(stream) as Box<dyn BackendSession>,
                    Err(_) => unreachable!("the same settings were accepted before"),
                }))
            }
            #[cfg(feature = "http-backend")]
            "http" => Ok(plain(Arc::new(crate::backend::Http::new(settings).map_err(wrong)?))),
            #[cfg(feature = "rabbitmq")]
            "rabbitmq" => Ok(plain(Arc::new(crate::backend::RabbitMq::new(settings).map_err(wrong)?))),
            "jsonl" => Ok(plain(Arc::new(Jsonl::new(settings.path.as_deref().unwrap_or("-"))))),
            "local" => Ok(plain(Arc::new(Local))),
            kind => match self.0.get(kind) {
                Some(factory) => Ok(plain(make(factory, settings).map_err(wrong)?)),
                None => Err(invalid(&format!("publishers.{name}.backend"), self.unknown(kind))),
            },
        }
    }

    fn unknown(&self, kind: &str) -> String {
        let mut known: Vec<&str> = BUILT_IN.iter().copied().chain(self.0.keys().map(String::as_str)).collect();
        known.sort_unstable();
        let remedy = if kind == "kafka" { "; the package actix-outbox-kafka has it" } else { "" };
        format!("`{kind}` is not a known backend; this program knows {}{remedy}", known.join(", "))
    }
}

/// Calls a factory. A factory that panics counts as one that returned an error.
fn make(factory: &BackendFactory, settings: &PublisherSettings) -> Result<Arc<dyn PublisherBackend>, String> {
    let made = std::panic::catch_unwind(AssertUnwindSafe(|| factory(settings)));
    made.unwrap_or_else(|panic| Err(guarded::describe(&*panic)))
}

fn plain(backend: Arc<dyn PublisherBackend>) -> SessionFactory {
    Box::new(move || Box::new(AtLeastOnce::new(Arc::clone(&backend))))
}

fn invalid(key: &str, problem: String) -> SettingsError {
    SettingsError::Invalid { key: key.to_owned(), origin: "the settings".to_owned(), problem }
}
