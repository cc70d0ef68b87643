//! Why a request is refused.

use std::borrow::Cow;

use actix_web::http::StatusCode;

/// The longest part of a header that is shown.
const LONGEST: usize = 200;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AccessError {
    /// It was sent to a name that is not the server's.
    Host(Sent),
    /// It comes from another machine, and no secret is configured.
    Peer,
    /// It has neither a session nor a valid token.
    Unknown,
    /// Its role is read-only.
    Reader,
    /// It comes from a page of another site.
    Origin(Sent),
    /// Its token is missing or wrong: another site may have made the browser send it.
    Csrf,
    /// Its address has reached a rate limit.
    TooMany,
    /// Its body is too large or broken.
    Body,
    /// It took too long.
    Late,
}

/// The page that a request comes from and the name that it was sent to, as its headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(super) origin: Option<String>,
    pub(super) host: String,
}

impl std::fmt::Display for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |text: &str| text.chars().take(LONGEST).collect::<String>();
        match &self.origin {
            Some(origin) => write!(f, "its Origin is {:?}", shown(origin))?,
            None => f.write_str("it has no Origin")?,
        }
        write!(f, " and its Host is {:?}", shown(&self.host))
    }
}

impl AccessError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::Peer | Self::Reader | Self::Origin(_) | Self::Csrf => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(crate) fn message(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Host(sent) => {
                return Cow::Owned(format!(
                    "The host name of the request is not one of this server's ({sent}); add it to `hosts` under [web]."
                ));
            }
            Self::Origin(sent) => {
                return Cow::Owned(format!(
                    "The request does not come from a page of this console: {sent}. If it does, a proxy changes Host: let it \
                     forward the browser's, with the port, or add the name to `hosts` under [web]."
                ));
            }
            Self::Peer => "Without a secret only this machine has access; set operator_secret_file under [web].",
            Self::Unknown => "Sign in, or send the secret as a bearer token.",
            Self::Reader => "This secret is read-only; sign in with the operators' secret.",
            Self::Csrf => "The form is from another session; reload the page.",
            Self::TooMany => "Too many requests from this address; wait a moment.",
            Self::Body => "The request's body is too large or cannot be read.",
            Self::Late => "The request took longer than 30 s; try again later.",
        })
    }
}
