//! Why a request is refused.

use actix_web::http::StatusCode;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessError {
    /// It was sent to a name that is not the server's.
    Host,
    /// It comes from another machine, and no secret is configured.
    Peer,
    /// It has neither a session nor a valid token.
    Unknown,
    /// Its role is read-only.
    Reader,
    /// It comes from a page of another site.
    Origin,
    /// Its token is missing or wrong: another site may have made the browser send it.
    Csrf,
    /// Its address has reached a rate limit.
    TooMany,
    /// Its body is too large or broken.
    Body,
    /// It took too long.
    Late,
}

impl AccessError {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::Peer | Self::Reader | Self::Origin | Self::Csrf => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Host => "The host name of the request is not one of this server's; add it to `hosts` under [web].",
            Self::Peer => "Without a secret only this machine has access; set operator_secret_file under [web].",
            Self::Unknown => "Sign in, or send the secret as a bearer token.",
            Self::Reader => "This secret is read-only; sign in with the operators' secret.",
            Self::Origin => {
                "The request comes from another site or has no Origin header, or a proxy does not forward Host."
            }
            Self::Csrf => "The form is from another session; reload the page.",
            Self::TooMany => "Too many requests from this address; wait a moment.",
            Self::Body => "The request's body is too large or cannot be read.",
            Self::Late => "The request took longer than 30 s; try again later.",
        }
    }
}
