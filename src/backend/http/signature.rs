//! Signatures by [Standard Webhooks](https://www.standardwebhooks.com), by which a receiver knows the sender.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;
use tokio::time::Instant;

use crate::settings::Secret;

const PREFIX: &str = "whsec_";

/// The shortest and the longest secret, in bytes, that Standard Webhooks takes.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// How long the secrets are used before they are read again.
const SECRETS_LIMIT: Duration = Duration::from_secs(10);

/// The secrets with which requests are signed, read again from time to time.
pub(super) struct Secrets {
    source: Secret,
    read: Mutex<Option<(Instant, Signer)>>,
}

impl Secrets {
    /// # Errors
    /// The secrets cannot be read, or used.
    pub(super) fn new(source: Secret) -> Result<Self, String> {
        let secrets = Self { source, read: Mutex::default() };
        secrets.signer().map(|_| secrets)
    }

    pub(super) fn signer(&self) -> Result<Signer, String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, signer)) = &*read
            && at.elapsed() < SECRETS_LIMIT
        {
            return Ok(signer.clone());
        }
        let text = self.source.read().map_err(|error| error.to_string())?;
        let signer = Signer::new(&text).map_err(|problem| format!("secrets_file {problem}"))?;
        *read = Some((Instant::now(), signer.clone()));
        Ok(signer)
    }
}

/// The secrets with which requests are signed. While a secret is being replaced there are two, and each signs.
#[derive(Clone)]
pub(super) struct Signer(Vec<hmac::Key>);

impl Signer {
    /// Reads secrets, one a line: `whsec_` and base64.
    ///
    /// # Errors
    /// What is wrong, without the secret.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let lines =
            text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<hmac::Key> =
            lines.map(|(n, line)| key(line).map_err(|problem| at(n, problem))).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err("has no secret".to_owned()) } else { Ok(Self(keys)) }
    }

    /// The value of `webhook-signature` for a request.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let sign = |key: &hmac::Key| {
            let mut signing = hmac::Context::with_key(key);
            signing.update(format!("{id}.{timestamp}.").as_bytes());
            signing.update(body);
            format!("v1,{}", BASE64_STANDARD.encode(signing.sign()))
        };
        self.0.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}

fn key(line: &str) -> Result<hmac::Key, &'static str> {
    let secret = line.strip_prefix(PREFIX).ok_or("does not begin with `whsec_`")?;
    let secret = BASE64_STANDARD.decode(secret).map_err(|_| "is not base64 behind `whsec_`")?;
    if !LENGTHS.contains(&secret.len()) {
        return Err("does not have 24 to 64 bytes");
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &secret))
}

fn at(line: usize, problem: &str) -> String {
    format!("has a line {} that {problem}", line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the documentation of Svix, on whose scheme the standard is built:
    /// <https://docs.svix.com/receiving/verifying-payloads/how-manual>.
    #[test]
    fn a_published_example_is_signed_alike() {
        let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn each_secret_signs_and_a_bad_one_is_named_by_its_line() {
        let secret = |byte: u8| format!("whsec_{}", BASE64_STANDARD.encode([byte; 32]));
        let both = Signer::new(&format!("# new\n{}\n\n{}", secret(1), secret(2))).unwrap().sign("id", 1, b"x");
        let of = |byte| Signer::new(&secret(byte)).unwrap().sign("id", 1, b"x");
        assert_eq!(both, format!("{} {}", of(1), of(2)));
        for (text, problem) in [
            ("", "has no secret"),
            ("secret", "has a line 1 that does not begin with `whsec_`"),
            ("#\nwhsec_!!", "has a line 2 that is not base64 behind `whsec_`"),
            ("whsec_YWJj", "has a line 1 that does not have 24 to 64 bytes"),
        ] {
            assert_eq!(Signer::new(text).err().unwrap(), problem);
        }
    }
}
