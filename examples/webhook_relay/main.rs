//! A webhook relay: `outbox worker` posts events with the settings in examples/webhook_relay/outbox.toml, and this program
//! receives them. It verifies the signature and handles each event once, as docs/webhooks.md says.
//!
//! ```sh
//! export DATABASE_URL=postgres://localhost/app OUTBOX_CONFIG=examples/webhook_relay/outbox.toml
//! (umask 077; echo "whsec_$(head -c 32 /dev/urandom | base64)" > webhook-secrets)
//! cargo run --example webhook_relay -- webhook-secrets &     # the receiver
//! outbox migrate
//! outbox worker &
//! outbox publish invoice.paid --source billing --key ada --data '{"invoice": 7}'
//! ```

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;

/// How far the worker's clock may differ, in seconds. An older request may be one that was recorded and is sent again.
const TOLERANCE: u64 = 300;

struct Receiver {
    /// Those of the file: while a secret is replaced, requests carry a signature by the old one and one by the new one.
    keys: Vec<hmac::Key>,
    /// What was handled. A service keeps this in its database, in the transaction of its own change: docs/inbox.md.
    handled: Mutex<HashSet<String>>,
}

impl Receiver {
    fn new(secrets: &str) -> anyhow::Result<Self> {
        let key = |secret: &str| {
            let bytes =
                BASE64_STANDARD.decode(secret.strip_prefix("whsec_").context("a secret begins with whsec_")?)?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        };
        let keys = secrets.split_whitespace().map(key).collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::ensure!(!keys.is_empty(), "the file has no secret");
        Ok(Self { keys, handled: Mutex::default() })
    }

    /// The id of the event, if the request is signed with one of the secrets and recent.
    fn verify(&self, request: &HttpRequest, body: &[u8], now: u64) -> Option<String> {
        let header = |name: &str| request.headers().get(name)?.to_str().ok();
        let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
        if now.abs_diff(timestamp.parse().ok()?) > TOLERANCE {
            return None;
        }
        let signed = [id.as_bytes(), timestamp.as_bytes(), body].join(&b'.');
        let mut signatures =
            header("webhook-signature")?.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
        let is_valid = |signature: &str| {
            let signature = BASE64_STANDARD.decode(signature).unwrap_or_default();
            self.keys.iter().any(|key| hmac::verify(key, &signed, &signature).is_ok()) // in constant time
        };
        signatures.any(is_valid).then(|| id.to_owned())
    }
}

/// The worker takes any 2xx as accepted. A 401 fails the event for good; a 5xx makes it wait.
async fn receive(receiver: web::Data<Receiver>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else {
        return HttpResponse::InternalServerError().finish();
    };
    let Some(id) = receiver.verify(&request, &body, now.as_secs()) else {
        return HttpResponse::Unauthorized().finish();
    };
    let Ok(event) = serde_json::from_slice::<serde_json::Value>(&body) else {
        return HttpResponse::BadRequest().finish();
    };
    // An event comes again, with the same id, if its first answer was lost.
    if receiver.handled.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
        println!("{} {}", event["type"], event["data"]);
    }
    HttpResponse::NoContent().finish()
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().context("usage: webhook_relay SECRETS_FILE [ADDRESS]")?;
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8081".to_owned());
    let receiver = web::Data::new(Receiver::new(&std::fs::read_to_string(file)?)?);
    let app = move || App::new().app_data(receiver.clone()).route("/hooks/{type}", web::post().to(receive));
    HttpServer::new(app).bind(address)?.run().await?;
    Ok(())
}
