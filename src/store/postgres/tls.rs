//! TLS to PostgreSQL, by rustls.

use std::error::Error;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{RootCertificates, SslMode, TlsParameters};
use super::auth_guard::{AuthMethods, Guarded};

type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
type AnyError = Box<dyn Error + Send + Sync>;

/// Encrypts connections as an address says.
#[derive(Clone)]
pub(super) struct Tls {
    connect: MakeRustlsConnect,
    /// Whether the server's certificate has to name the host.
    names_host: bool,
}

impl Tls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// A file cannot be read, or holds no certificate or key.
    pub(super) fn new(parameters: &TlsParameters) -> Result<Self, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot be served by TLS: {error}"))?;
        let builder = match parameters.mode {
            SslMode::VerifyFull => builder.with_root_certificates(roots(&parameters.roots)?),
            mode => {
                let authorities = (mode == SslMode::VerifyCa).then(|| roots(&parameters.roots)).transpose()?;
                let verifier = AnyHost { authorities, provider: provider() };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let config = match &parameters.client {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => {
                let key_of_client =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("sslkey", key, error))?;
                let all = certificates_in("sslcert", certificates)?;
                builder
                    .with_client_auth_cert(all, key_of_client)
                    .map_err(|error| format!("has an sslcert and an sslkey that cannot be used: {error}"))?
            }
        };
        let names_host = parameters.mode == SslMode::VerifyFull;
        Ok(Self { connect: MakeRustlsConnect::new(config), names_host })
    }

    /// Encrypts a connection that lets the server ask for these methods.
    pub(super) fn connector(&self, allowed: AuthMethods) -> Connector {
        Connector { tls: Some(self.clone()), allowed }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(from: &RootCertificates) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates = match from {
        RootCertificates::System => rustls_native_certs::load_native_certs().certs,
        RootCertificates::File(file) => certificates_in("sslrootcert", file)?,
    };
    roots.add_parsable_certificates(certificates);
    Ok(roots)
}

fn certificates_in(parameter: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("has an {parameter} without a certificate: {}", file.display())),
        Err(error) => Err(unreadable(parameter, file, error)),
    }
}

fn unreadable(parameter: &str, file: &Path, error: impl std::fmt::Display) -> String {
    format!("has an {parameter} that cannot be read: {}: {error}", file.display())
}

/// What a connection goes through: TLS, and the watch over what the server asks for.
#[derive(Clone)]
pub(super) struct Connector {
    tls: Option<Tls>,
    allowed: AuthMethods,
}

impl Connector {
    /// Only watches.
    pub(super) fn plain(allowed: AuthMethods) -> Self {
        Self { tls: None, allowed }
    }
}

pub(super) struct Handshake {
    tls: Option<<MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect>,
    allowed: AuthMethods,
}

/// The name that a server is told if its host is none; see RFC 6761.
const NO_NAME: &str = "host.invalid";

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Guarded<Stream>;
    type TlsConnect = Handshake;
    type Error = AnyError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, AnyError> {
        let make = |tls: &mut Tls| {
            // A host such as 127.1 cannot be in a certificate, but can be connected to.
            let is_name = tls.names_host || ServerName::try_from(domain).is_ok();
            let domain = if is_name { domain } else { NO_NAME };
            MakeTlsConnect::<Socket>::make_tls_connect(&mut tls.connect, domain)
        };
        let tls = self.tls.as_mut().map(make).transpose()?;
        Ok(Handshake { tls, allowed: self.allowed })
    }
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Guarded<Stream>;
    type Error = AnyError;
    type Future = Pin<Box<dyn Future<Output = Result<Guarded<Stream>, AnyError>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        async move {
            let stream = match self.tls {
                None => Stream::Plain(socket),
                Some(tls) => Stream::Encrypted(Box::new(tls.connect(socket).await?)),
            };
            Ok(Guarded::new(stream, self.allowed))
        }
        .boxed()
    }
}

/// A connection with or without TLS.
pub(super) enum Stream {
    Plain(Socket),
    Encrypted(Box<Encrypted>),
}

/// Calls a method of whichever stream it is.
macro_rules! on_the_stream {
    ($stream:expr, $pinned:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Plain(stream) => {
                let $pinned = Pin::new(stream);
                $call
            }
            Stream::Encrypted(stream) => {
                let $pinned = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_the_stream!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_the_stream!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_the_stream!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_the_stream!(self, stream => stream.poll_shutdown(cx))
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        match self {
            Self::Plain(_) => ChannelBinding::none(),
            Self::Encrypted(stream) => stream.channel_binding(),
        }
    }
}

/// Verifies less than the host's name: with authorities that one of them signed the certificate (`sslmode=verify-ca`),
/// without them nothing (`require` and weaker).
#[derive(Debug)]
struct AnyHost {
    authorities: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(authorities) = &self.authorities {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, authorities, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
