//! A connection to the broker with one channel, in confirm mode.
//!
//! lapin serves a connection on a thread of its own, and logs messages that come back with their bodies: its logs are
//! switched off on that thread. The thread ends with the socket, which is therefore kept here too.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, mem};

use futures_util::stream::{Stream, StreamExt};
use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, RustlsConnector, TLSConfig};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Event, ExchangeKind};
use rustls::ClientConfig;
use tracing::subscriber::NoSubscriber;

use super::errors::{self, Target};

/// The name that the broker's management shows.
const CONNECTION_NAME: &str = concat!("actix-outbox/", env!("CARGO_PKG_VERSION"));

type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

pub(super) struct Session {
    channel: Channel,
    connection: Connection,
    events: tokio::sync::Mutex<Events>,
    /// Why the broker blocks publishers, as it said last.
    alarm: Mutex<String>,
    target: Target,
    socket: Socket,
}

impl Session {
    /// # Errors
    /// Why there is no connection, for operators.
    pub(super) async fn open(
        address: AMQPUri,
        tls: Arc<ClientConfig>,
        target: Target,
        limit: Duration,
    ) -> Result<Self, String> {
        let socket = Socket::default();
        let connecting = async {
            let connection = connect(address, tls, socket.clone(), limit).await?;
            let events: Events = Box::pin(connection.events_listener());
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok((connection, channel, events))
        };
        let failure = match tokio::time::timeout(limit, connecting).await {
            Ok(Ok((connection, channel, events))) => {
                let events = tokio::sync::Mutex::new(events);
                return Ok(Self { channel, connection, events, alarm: Mutex::default(), target, socket });
            }
            Ok(Err(error)) => target.explain_login(&error),
            Err(_) => format!("no connection within {limit:?}"),
        };
        // Otherwise lapin would wait on for a broker that says nothing.
        socket.close();
        Err(failure)
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The bytes of the largest frame; a broker that says 0 has no limit.
    pub(super) fn frame_max(&self) -> usize {
        match self.connection.configuration().frame_max() {
            0 => usize::MAX,
            bytes => bytes as usize,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    pub(super) fn abort(&self) {
        self.socket.close();
    }

    /// Why the broker accepts nothing from publishers now, such as an alarm of its memory.
    pub(super) fn blocked(&self) -> Option<String> {
        if let Ok(mut events) = self.events.try_lock() {
            while let Some(Some(event)) = futures_util::FutureExt::now_or_never(events.next()) {
                self.note(event);
            }
        }
        let alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        self.connection.status().blocked().then(|| errors::blocked(&alarm))
    }

    /// Waits until the broker blocks publishers.
    pub(super) async fn until_blocked(&self) {
        let mut events = self.events.lock().await;
        while !self.connection.status().blocked() {
            match events.next().await {
                Some(event) => self.note(event),
                None => std::future::pending().await,
            }
        }
    }

    fn note(&self, event: Event) {
        if let Event::ConnectionBlocked(reason) = event {
            *self.alarm.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        }
    }

    /// Whether the broker answers and has the exchange; the default exchange always exists and cannot be asked for.
    pub(super) async fn check(&self, exchange: &ShortString) -> lapin::Result<()> {
        if exchange.as_str().is_empty() {
            return self.channel.confirm_select(ConfirmSelectOptions::default()).await;
        }
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        self.channel.exchange_declare(exchange.clone(), ExchangeKind::Direct, options, FieldTable::default()).await
    }
}

async fn connect(
    address: AMQPUri,
    tls: Arc<ClientConfig>,
    socket: Socket,
    limit: Duration,
) -> lapin::Result<Connection> {
    let tls = (address.scheme == AMQPScheme::AMQPS).then(|| RustlsConnector::from(tls));
    let properties = ConnectionProperties::default().with_connection_name(CONNECTION_NAME.into());
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connector(
        address,
        runtime,
        async move |address: AMQPUri, runtime| {
            silence_this_thread();
            let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..address.clone() };
            let connecting = async {
                let stream = plain.connect_with_config_async(TLSConfig::default(), &runtime).await?;
                if let AsyncTcpStream::Plain(stream) = &stream {
                    socket.keep(stream.get_ref())?;
                }
                match &tls {
                    Some(tls) => stream.into_rustls(tls, &address.authority.host).await,
                    None => Ok(stream),
                }
            };
            let connected = tokio::time::timeout(limit, connecting).await;
            Ok(connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
        },
        properties,
    )
    .await
}

/// On lapin's thread, which calls this before anything else.
fn silence_this_thread() {
    mem::forget(tracing::subscriber::set_default(NoSubscriber::default()));
}

/// A second handle to a connection's socket.
#[derive(Clone, Default)]
struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    fn keep(&self, socket: &impl AsFd) -> io::Result<()> {
        let kept = TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(())
    }

    fn close(&self) {
        if let Some(socket) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
