//! Why the console cannot be created.

use actix_outbox::{SecretError, SystemError};

/// Why the console cannot be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// The secret is short enough to guess.
    #[error(
        "the console's secret is too short: it needs at least {shortest} bytes; `openssl rand -hex 32` makes a good one"
    )]
    ShortSecret {
        /// The minimum in bytes.
        shortest: usize,
    },
    /// No secret is configured.
    #[error(
        "the console needs a secret: set operator_secret_file or operators under [web], or OUTBOX__WEB__OPERATOR_SECRET (at least 16 bytes)"
    )]
    NoSecret,
    /// A secret cannot be read.
    #[error("the console's secret: {0}")]
    Secret(#[from] SecretError),
    /// Two users have the same secret.
    #[error("[web]: {one:?} and {other:?} have the same secret; give each user one of their own")]
    EqualSecrets {
        /// A user's name; `operator` and `reader` are those of `operator_secret` and `reader_secret`.
        one: String,
        /// The other user's name.
        other: String,
    },
    /// Two users have the same name.
    #[error(
        "[web]: two users are named {name:?}; the names of operators and readers must differ, and `operator` and `reader` are \
         those of operator_secret and reader_secret"
    )]
    EqualNames {
        /// The name.
        name: String,
    },
    /// Readers' secrets without an operator's: no one could change anything.
    #[error("[web] has secrets of readers, but no operator; set operator_secret_file or operators too")]
    ReadersAlone,
    /// A host name that no browser sends.
    #[error("web.hosts: {name:?} is not a valid name; write one without a port, such as outbox.example.com")]
    HostName {
        /// The configured text.
        name: String,
    },
    /// Neither an address nor a network.
    #[error("web.proxies: {address:?} is neither an address nor a network, such as 10.0.0.7 or 10.0.0.0/24")]
    Proxy {
        /// The configured text.
        address: String,
    },
    /// The settings name no usable database.
    #[error(transparent)]
    System(#[from] SystemError),
}
