//! A connection that several calls share, and that is made again after an error.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError};
use tokio::sync::Mutex;

use crate::backend::BackendError;
use crate::backend::redis::{Client, Script, errors};
use crate::settings::PublisherSettings;

pub(super) struct Link {
    client: Mutex<Client>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum LinkError {
    /// Nothing was asked.
    Unreachable(BackendError),
    /// The server refused, or it is not known what it did.
    Refused(RedisError),
}

impl LinkError {
    /// The reason for operators, without secrets.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Unreachable(BackendError::Unavailable(reason)) => reason.clone(),
            Self::Unreachable(error) => error.to_string(),
            Self::Refused(error) => errors::reason(error),
        }
    }

    /// The stream or the group does not exist.
    pub(super) fn is_missing_group(&self) -> bool {
        matches!(self, Self::Refused(error) if errors::is_missing_group(error))
    }

    /// The server refused the call for its key alone.
    pub(super) fn is_refused_for_its_key(&self) -> bool {
        matches!(self, Self::Refused(error) if errors::is_refused_for_its_key(error))
    }

    /// The answer did not come in time.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Refused(error) if error.is_timeout())
    }

    /// The server has no memory for what the call adds.
    pub(super) fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Refused(error) if errors::is_out_of_memory_for(error))
    }

    /// The group exists already.
    pub(super) fn is_existing_group(&self) -> bool {
        matches!(self, Self::Refused(error) if errors::is_existing_group(error))
    }
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        Self::Refused(error)
    }
}

impl Link {
    pub(super) fn new(server: &PublisherSettings) -> Result<Self, String> {
        Ok(Self { client: Mutex::new(Client::new(server)?) })
    }

    async fn connection(&self) -> Result<MultiplexedConnection, LinkError> {
        self.client.lock().await.connection().await.cloned().map_err(LinkError::Unreachable)
    }

    pub(super) async fn query<T: FromRedisValue>(&self, request: &Cmd) -> Result<T, LinkError> {
        let mut connection = self.connection().await?;
        let answer = request.query_async(&mut connection).await;
        self.end_after(&answer).await;
        Ok(answer?)
    }

    pub(super) async fn pipeline<T: FromRedisValue>(&self, requests: &Pipeline) -> Result<T, LinkError> {
        let mut connection = self.connection().await?;
        let answer = requests.query_async(&mut connection).await;
        self.end_after(&answer).await;
        Ok(answer?)
    }

    pub(super) async fn call<T: FromRedisValue>(&self, script: &'static Script, request: &Cmd) -> Result<T, LinkError> {
        let mut connection = self.connection().await?;
        let answer = script.call(&mut connection, request).await;
        self.end_after(&answer).await;
        Ok(redis::from_redis_value(answer?).map_err(RedisError::from)?)
    }

    /// The next call connects again.
    pub(super) async fn end(&self) {
        self.client.lock().await.end();
    }

    /// Also after most errors that the server answered: another one may be the master now.
    async fn end_after<T>(&self, answer: &Result<T, RedisError>) {
        let is_this_servers =
            |error: &RedisError| errors::is_refused_for_its_key(error) || errors::is_out_of_memory_for(error);
        if answer.as_ref().is_err_and(|error| !is_this_servers(error)) {
            self.end().await;
        }
    }
}
