//! Refuses methods of authentication that the address does not allow, before the driver answers the server.
//!
//! A server, or someone who pretends to be it, may ask for the password as it is. The driver would send it.

use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// How a server lets a client prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthMethod {
    Password,
    Md5,
    Scram,
    None,
}

impl AuthMethod {
    const ALL: [(&str, Self); 4] =
        [("password", Self::Password), ("md5", Self::Md5), ("scram-sha-256", Self::Scram), ("none", Self::None)];

    /// The method of an authentication request, by its code.
    fn of_request(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            3 => Some(Self::Password),
            5 => Some(Self::Md5),
            10 => Some(Self::Scram),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }
}

/// The methods that are allowed, as libpq's `require_auth` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AuthMethods {
    allowed: [bool; 4],
    /// Whether the allowed ones were listed, rather than those that are not.
    listed: bool,
}

impl AuthMethods {
    pub(super) const ANY: Self = Self { allowed: [true; 4], listed: false };

    pub(super) fn allow(self, method: AuthMethod) -> bool {
        AuthMethod::ALL.iter().zip(self.allowed).any(|((_, each), allowed)| *each == method && allowed)
    }

    /// Whether the address asks for this method.
    pub(super) fn names(self, method: AuthMethod) -> bool {
        self.listed && self.allow(method)
    }

    pub(super) fn without(mut self, method: AuthMethod) -> Self {
        for ((_, each), allowed) in AuthMethod::ALL.iter().zip(&mut self.allowed) {
            *allowed &= *each != method;
        }
        self
    }

    pub(super) fn is_any(self) -> bool {
        self.allowed == Self::ANY.allowed
    }
}

/// `password,scram-sha-256`: these; `!password,!md5`: all but these.
impl FromStr for AuthMethods {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let wrong = || {
            let names: Vec<&str> = AuthMethod::ALL.iter().map(|(name, _)| *name).collect();
            format!("has an unknown require_auth; use some of {}, or each of them with a ! before it", names.join(", "))
        };
        let listed = !list.starts_with('!');
        let mut allowed = [!listed; 4];
        for name in list.split(',') {
            let bare = name.trim().trim_start_matches('!');
            let position = AuthMethod::ALL.iter().position(|(known, _)| *known == bare).ok_or_else(wrong)?;
            if name.trim().starts_with('!') == listed {
                return Err(wrong());
            }
            allowed[position] = listed;
        }
        Ok(Self { allowed, listed })
    }
}

/// A stream to a server whose requests for authentication are checked.
pub(super) struct Guarded<S> {
    stream: S,
    watch: Watch,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, allowed: AuthMethods) -> Self {
        Self { stream, watch: Watch::new(allowed) }
    }
}

/// A message's type and length.
const HEADER: usize = 5;
/// The number with which the body of an authentication request begins.
const CODE: usize = 4;
const AUTHENTICATION: u8 = b'R';

/// Follows the server's messages until it has accepted the client.
struct Watch {
    allowed: AuthMethods,
    /// The beginning of the current message.
    header: Vec<u8>,
    /// The bytes left of the current message that do not matter.
    skip: usize,
    /// Whether the server has asked for anything.
    asked: bool,
    done: bool,
}

impl Watch {
    fn new(allowed: AuthMethods) -> Self {
        Self { allowed, header: Vec::with_capacity(HEADER + CODE), skip: 0, asked: false, done: false }
    }

    fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !self.done && !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = HEADER + if self.header.first() == Some(&AUTHENTICATION) { CODE } else { 0 };
            let taken = wanted.saturating_sub(self.header.len()).min(bytes.len()).min(HEADER);
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            self.judge()?;
        }
        Ok(())
    }

    /// Judges the current message as soon as enough of it is there.
    fn judge(&mut self) -> io::Result<()> {
        let is_request = self.header.first() == Some(&AUTHENTICATION);
        let wanted = HEADER + if is_request { CODE } else { 0 };
        if self.header.len() < wanted {
            return Ok(());
        }
        let number =
            |at: usize| self.header[at..at + 4].iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte));
        let length = usize::try_from(number(1)).unwrap_or(usize::MAX);
        let code = is_request.then(|| number(HEADER));
        let body = length.checked_sub(wanted - 1).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        self.skip = body;
        self.header.clear();
        code.map_or(Ok(()), |code| self.judge_request(code))
    }

    fn judge_request(&mut self, code: u32) -> io::Result<()> {
        self.done = code == 0;
        match AuthMethod::of_request(code) {
            Some(AuthMethod::None) if self.asked => Ok(()),
            Some(method) if !self.allowed.allow(method) => Err(refused(method)),
            Some(_) => {
                self.asked = true;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn refused(method: AuthMethod) -> io::Error {
    let text = match method {
        AuthMethod::Password => {
            "the server asks for the password as it is, and nothing proves that it is the server; use \
             sslmode=verify-full, or allow it with require_auth=password"
                .to_owned()
        }
        method => {
            format!("the server uses the authentication method {}, which require_auth does not allow", method.name())
        }
    };
    io::Error::new(io::ErrorKind::PermissionDenied, AuthRefused(text))
}

/// A method of authentication that was not allowed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct AuthRefused(String);

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if !self.watch.done {
            self.watch.read(&buffer.filled()[before..])?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: TlsStream + Unpin> TlsStream for Guarded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    /// Feeds the messages in pieces of this size.
    fn watch(allowed: &str, messages: &[Vec<u8>], piece: usize) -> Result<bool, String> {
        let mut guarded = Guarded::new((), allowed.parse().unwrap());
        for bytes in messages.concat().chunks(piece) {
            guarded.watch.read(bytes).map_err(|error| error.to_string())?;
        }
        Ok(guarded.watch.done)
    }

    #[test]
    fn only_allowed_methods_pass_whatever_pieces_they_arrive_in() {
        let scram = [
            message(b'v', &[0; 12]),
            message(AUTHENTICATION, b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
            message(AUTHENTICATION, b"\0\0\0\x0br=1234"),
            message(AUTHENTICATION, b"\0\0\0\x0cv=1234"),
            message(AUTHENTICATION, b"\0\0\0\0"),
            message(b'S', b"TimeZone\0UTC\0"),
        ];
        let clear = [message(AUTHENTICATION, b"\0\0\0\x03")];
        let trusted = [message(AUTHENTICATION, b"\0\0\0\0"), message(b'Z', b"I")];
        for piece in [1, 2, 7, 1_000] {
            assert_eq!(watch("scram-sha-256", &scram, piece), Ok(true));
            assert_eq!(watch("!password", &scram, piece), Ok(true));
            assert!(watch("md5", &scram, piece).unwrap_err().contains("scram-sha-256"));
            assert!(watch("!password", &clear, piece).unwrap_err().contains("verify-full"));
            let behind_an_empty_one = [message(b'N', b""), clear[0].clone()];
            assert!(watch("!password", &behind_an_empty_one, piece).unwrap_err().contains("verify-full"));
            assert!(watch("!password", &[b"N\0\0\0\x03".to_vec()], piece).is_err(), "a length without itself");
            assert_eq!(watch("password", &clear, piece), Ok(false));
            assert_eq!(watch("none", &trusted, piece), Ok(true));
            assert!(watch("md5,scram-sha-256", &trusted, piece).unwrap_err().contains("none"));
        }
    }

    #[test]
    fn a_list_of_methods_allows_or_excludes() {
        let list = |text: &str| text.parse::<AuthMethods>();
        assert!(list("password").unwrap().names(AuthMethod::Password));
        assert!(
            !list("!md5").unwrap().names(AuthMethod::Password) && list("!md5").unwrap().allow(AuthMethod::Password)
        );
        assert!(!list("!md5,!password").unwrap().allow(AuthMethod::Password));
        assert!(list("md5, none").unwrap().allow(AuthMethod::None));
        for wrong in ["", "ldap", "!md5,password", "md5,!password"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }
}
