//! Connections to NATS.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;

use super::errors;
use crate::backend::{BackendError, tls};
use crate::settings::{PublisherSettings, Secret};

/// How often a connection that was lost is tried again by the client: a session that notices makes a new one anyway.
const RECONNECTS: usize = 16;

/// The servers and how to connect to them; secrets are read at each connect.
pub(super) struct Address {
    servers: Vec<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    credentials_file: Option<Secret>,
    nkey_file: Option<Secret>,
    requires_tls: bool,
    tls: ClientConfig,
    connect_timeout: Duration,
    pub(super) socket_timeout: Duration,
}

/// What the server said last of its own accord, such as a missing right to publish; it has no other way to say that.
#[derive(Clone, Default)]
pub(super) struct LastComplaint(Arc<Mutex<Option<String>>>);

impl LastComplaint {
    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// Takes it, as the end of a reason.
    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Address {
    /// # Errors
    /// The setting that cannot be used.
    pub(super) fn new(settings: &PublisherSettings) -> Result<Self, String> {
        let servers: Vec<Secret> = settings.url.iter().chain(&settings.servers).cloned().collect();
        for server in servers.iter().filter_map(Secret::as_text) {
            parse(server)?;
        }
        Ok(Self {
            servers,
            username: settings.username.clone(),
            password: settings.password.clone(),
            credentials_file: settings.credentials_file.clone(),
            nkey_file: settings.nkey_file.clone(),
            requires_tls: settings.tls.is_some(),
            tls: tls::client_config(settings.tls.as_ref())?,
            connect_timeout: settings.connect_timeout,
            socket_timeout: settings.socket_timeout,
        })
    }

    pub(super) async fn connect(&self) -> Result<(Client, LastComplaint), BackendError> {
        let complaint = LastComplaint::default();
        let mut servers = Vec::with_capacity(self.servers.len());
        for server in &self.servers {
            servers.push(parse(&read(server)?).map_err(BackendError::Unavailable)?);
        }
        let options = self.options(&servers, &complaint).map_err(BackendError::Unavailable)?;
        // Each address may take the time to connect.
        let limit = self.connect_timeout.saturating_mul(servers.len().try_into().unwrap_or(u32::MAX));
        match tokio::time::timeout(limit, options.connect(servers)).await {
            Ok(Ok(client)) => Ok((client, complaint)),
            Ok(Err(error)) => Err(errors::unavailable("cannot connect", &errors::with_causes(&error))),
            Err(_) => Err(errors::unavailable("cannot connect", &format!("no answer within {limit:?}"))),
        }
    }

    /// JetStream on a connection.
    pub(super) fn context(&self, client: &Client) -> Context {
        let mut context = async_nats::jetstream::new(client.clone());
        context.set_timeout(self.socket_timeout);
        context
    }

    fn options(&self, servers: &[ServerAddr], complaint: &LastComplaint) -> Result<ConnectOptions, String> {
        let complaint = complaint.clone();
        let mut options = ConnectOptions::new()
            .name("actix-outbox")
            .no_echo()
            .connection_timeout(self.connect_timeout)
            .request_timeout(Some(self.socket_timeout))
            .max_reconnects(RECONNECTS + self.servers.len())
            .require_tls(self.requires_tls)
            .tls_client_config(self.tls.clone())
            .event_callback(move |event| {
                let complaint = complaint.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        complaint.set(error.to_string());
                    }
                }
            });
        let text =
            |secret: &Secret| secret.read().map(|text| text.trim().to_owned()).map_err(|error| error.to_string());
        // The client does not read them from an address itself.
        if let Some((user, password)) = servers.iter().find_map(user_of) {
            options = match password {
                Some(password) => options.user_and_password(user, password),
                None => options.token(user),
            };
        }
        if let Some(user) = &self.username {
            let password = self.password.as_ref().map(text).transpose()?.unwrap_or_default();
            options = options.user_and_password(user.clone(), password);
        }
        if let Some(file) = &self.credentials_file {
            let problem = |_| "credentials_file has no JWT and seed of a user".to_owned();
            options = options.credentials(&text(file)?).map_err(problem)?;
        }
        if let Some(file) = &self.nkey_file {
            options = options.nkey(text(file)?);
        }
        Ok(options)
    }
}

/// The user and the password in an address; without a password it is a token.
fn user_of(server: &ServerAddr) -> Option<(String, Option<String>)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some((decoded(server.username()?), server.password().map(decoded)))
}

fn read(secret: &Secret) -> Result<String, BackendError> {
    secret.read().map(|text| text.trim().to_owned()).map_err(|error| BackendError::Unavailable(error.to_string()))
}

/// The address, which may contain a password, is not shown.
fn parse(address: &str) -> Result<ServerAddr, String> {
    let problem = "an address is not of the form nats://[user:password@]host[:port]";
    address.parse().map_err(|_| problem.to_owned())
}
