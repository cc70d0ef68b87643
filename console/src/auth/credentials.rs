//! The configured secrets, and the users that they identify.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actix_outbox::{Secret, WebSettings};
use actix_web::cookie::Key;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use tokio::sync::Mutex;

use super::user::{Role, User};
use crate::error::WebError;

/// The minimum length of a secret in bytes, so that it cannot be guessed.
const SHORTEST_SECRET: usize = 16;

/// Secrets are read again after this time, so that they can be changed while the console runs.
const REREAD_INTERVAL: Duration = Duration::from_secs(5);

/// The configured secrets. All clones share what was read last.
#[derive(Clone)]
pub(super) struct Credentials(Arc<Shared>);

struct Shared {
    /// Empty: no secret is configured.
    sources: Vec<Source>,
    keys: RwLock<Arc<[UserKey]>>,
    last_read: Mutex<LastRead>,
    /// Signs the sessions and tokens of users without a secret; different in each run.
    own_key: Key,
}

/// A user and where the user's secret is.
#[derive(Clone)]
struct Source {
    user: User,
    secret: Secret,
}

struct LastRead {
    at: Instant,
    /// What was logged; it is not repeated.
    problems: Vec<String>,
}

/// What is kept of a secret: enough to recognise it, too little to reveal it.
#[derive(Clone)]
pub(super) struct UserKey {
    pub(super) user: User,
    digest: [u8; 32],
    /// Signs the sessions of this secret's user. Each role and name has its own key, so that a reader's cookie reveals nothing
    /// of an operator's secret, and remains a reader's if that secret becomes an operator's.
    pub(super) key: Key,
}

impl UserKey {
    fn new(user: User, secret: &str) -> Self {
        let digest = digest(secret);
        let purpose: &[u8] = match user.role() {
            Role::Operator => b"sessions of outbox operators",
            Role::Reader => b"sessions of outbox readers",
        };
        let name = digest_bytes(user.name().as_bytes());
        let key = Sha512::new().chain_update(purpose).chain_update(name).chain_update(digest).finalize();
        Self { user, digest, key: Key::from(&key) }
    }

    fn read(source: &Source) -> Result<Self, WebError> {
        let secret = source.secret.read()?;
        if secret.len() < SHORTEST_SECRET {
            return Err(WebError::ShortSecret { shortest: SHORTEST_SECRET });
        }
        Ok(Self::new(source.user.clone(), &secret))
    }

    fn has_secret_of(&self, other: &Self) -> bool {
        bool::from(self.digest.ct_eq(&other.digest))
    }
}

impl Credentials {
    pub(super) fn none() -> Self {
        Self::with(Vec::new(), Vec::new())
    }

    /// # Errors
    /// [`WebError::ShortSecret`] for a secret of less than 16 bytes, [`WebError::EqualSecrets`], and [`WebError::Secret`].
    pub(super) fn secrets(operator: &Secret, reader: Option<&Secret>) -> Result<Self, WebError> {
        let sources = [(Role::Operator, Some(operator)), (Role::Reader, reader)].into_iter();
        Self::read(sources.filter_map(|(role, secret)| unnamed(role, secret)).collect())
    }

    /// # Errors
    /// [`WebError::Secret`], [`WebError::ShortSecret`], [`WebError::EqualSecrets`], [`WebError::EqualNames`], and
    /// [`WebError::ReadersAlone`].
    pub(super) fn from_settings(settings: &WebSettings) -> Result<Self, WebError> {
        let mut sources = Vec::new();
        sources.extend(unnamed(Role::Operator, settings.operator_secret.as_ref()));
        sources.extend(
            settings.operators.iter().map(|one| Source { user: User::operator(&one.name), secret: one.secret.clone() }),
        );
        let has_operator = !sources.is_empty();
        sources.extend(unnamed(Role::Reader, settings.reader_secret.as_ref()));
        sources.extend(
            settings.readers.iter().map(|one| Source { user: User::reader(&one.name), secret: one.secret.clone() }),
        );
        if !has_operator && !sources.is_empty() {
            return Err(WebError::ReadersAlone);
        }
        Self::read(sources)
    }

    fn read(sources: Vec<Source>) -> Result<Self, WebError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = sources.iter().find(|source| !names.insert(source.user.name())) {
            return Err(WebError::EqualNames { name: twice.user.name().to_owned() });
        }
        let keys: Vec<UserKey> = sources.iter().map(UserKey::read).collect::<Result<_, _>>()?;
        check_that_secrets_differ(&keys)?;
        Ok(Self::with(sources, keys))
    }

    fn with(sources: Vec<Source>, keys: Vec<UserKey>) -> Self {
        let last_read = Mutex::new(LastRead { at: Instant::now(), problems: Vec::new() });
        Self(Arc::new(Shared { sources, keys: RwLock::new(keys.into()), last_read, own_key: Key::generate() }))
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.sources.is_empty()
    }

    /// Reads the secrets again if that is due. A user whose secret cannot be read again, or is too short, keeps the last one;
    /// if two are equal, all do.
    pub(super) async fn refresh(&self) {
        if self.is_none() {
            return;
        }
        let mut last_read = self.0.last_read.lock().await;
        if last_read.at.elapsed() < REREAD_INTERVAL {
            return;
        }
        let (shared, known) = (Arc::clone(&self.0), self.keys());
        let reading = actix_web::web::block(move || reread(&shared.sources, &known));
        let Ok((keys, problems)) = reading.await else { return };
        for problem in problems.iter().filter(|problem| !last_read.problems.contains(problem)) {
            tracing::warn!(problem, "a secret of the console cannot be changed; the last one stays valid");
        }
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
        *last_read = LastRead { at: Instant::now(), problems };
    }

    pub(super) fn keys(&self) -> Arc<[UserKey]> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The user with this secret. Takes as long for a wrong secret as for a right one.
    pub(super) fn user_of(&self, secret: &str) -> Option<User> {
        let given = digest(secret);
        let keys = self.keys();
        let mut found = None;
        for key in keys.iter() {
            if bool::from(given.ct_eq(&key.digest)) {
                found = Some(&key.user);
            }
        }
        found.cloned()
    }

    /// The key that signs the sessions of this user.
    pub(super) fn key_of(&self, user: &User) -> Option<Key> {
        if self.is_none() {
            return Some(self.0.own_key.clone());
        }
        self.keys().iter().find(|key| key.user == *user).map(|key| key.key.clone())
    }

    pub(super) fn own_key(&self) -> &Key {
        &self.0.own_key
    }
}

/// The keys of all users, and why some are the old ones.
fn reread(sources: &[Source], known: &[UserKey]) -> (Vec<UserKey>, Vec<String>) {
    let mut problems = Vec::new();
    let read = sources.iter().zip(known).map(|(source, old)| {
        UserKey::read(source).unwrap_or_else(|error| {
            problems.push(format!("{}: {error}", source.user.name()));
            old.clone()
        })
    });
    let keys: Vec<UserKey> = read.collect();
    match check_that_secrets_differ(&keys) {
        Ok(()) => (keys, problems),
        Err(error) => {
            problems.push(error.to_string());
            (known.to_vec(), problems)
        }
    }
}

fn check_that_secrets_differ(keys: &[UserKey]) -> Result<(), WebError> {
    for (n, key) in keys.iter().enumerate() {
        if let Some(other) = keys[n + 1..].iter().find(|other| other.has_secret_of(key)) {
            let [one, other] = [key, other].map(|key| key.user.name().to_owned());
            return Err(WebError::EqualSecrets { one, other });
        }
    }
    Ok(())
}

fn unnamed(role: Role, secret: Option<&Secret>) -> Option<Source> {
    secret.map(|secret| Source { user: User::unnamed(role), secret: secret.clone() })
}

fn digest(secret: &str) -> [u8; 32] {
    digest_bytes(secret.as_bytes())
}

fn digest_bytes(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use actix_outbox::{SecretError, WebUser};

    use super::*;

    const OPERATOR: &str = "the operators' secret";
    const READER: &str = "the readers' secret";

    fn web_settings(set: impl FnOnce(&mut WebSettings)) -> WebSettings {
        let mut web = WebSettings::default();
        set(&mut web);
        web
    }

    fn refused(set: impl FnOnce(&mut WebSettings)) -> String {
        Credentials::from_settings(&web_settings(set)).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_secret_tells_the_user_and_a_wrong_one_none() {
        let both = Credentials::secrets(&OPERATOR.into(), Some(&READER.into())).unwrap();
        assert_eq!(both.user_of(OPERATOR), Some(User::operator("operator")));
        assert_eq!(both.user_of(READER), Some(User::reader("reader")));
        for wrong in ["", "the operators' secre", "the operators' secret ", "\0"] {
            assert_eq!(both.user_of(wrong), None, "{wrong:?}");
        }
        let operators_alone = Credentials::secrets(&OPERATOR.into(), None).unwrap();
        assert_eq!(operators_alone.user_of(READER), None);
        assert_eq!(Credentials::none().user_of(""), None);
        assert!(Credentials::secrets(&"short".into(), None).is_err());
        assert!(Credentials::secrets(&OPERATOR.into(), Some(&"".into())).is_err());
        let equal = Credentials::secrets(&OPERATOR.into(), Some(&OPERATOR.into()));
        assert!(matches!(equal, Err(WebError::EqualSecrets { .. })));
    }

    #[test]
    fn users_have_names_and_secrets_of_their_own() {
        let settings = web_settings(|web| {
            web.operators = vec![WebUser::new("ann", OPERATOR), WebUser::new("bob", "the secret of bob")];
            web.readers = vec![WebUser::new("eve", READER)];
        });
        let credentials = Credentials::from_settings(&settings).unwrap();
        assert_eq!(credentials.user_of("the secret of bob"), Some(User::operator("bob")));
        assert_eq!(credentials.user_of(READER), Some(User::reader("eve")));

        let twice = refused(|web| web.operators = vec![WebUser::new("ann", OPERATOR), WebUser::new("ann", READER)]);
        assert!(twice.contains("two users are named \"ann\""), "{twice}");
        let taken = refused(|web| {
            web.operator_secret = Some(OPERATOR.into());
            web.readers = vec![WebUser::new("operator", READER)];
        });
        assert!(taken.contains("\"operator\""), "{taken}");
        let equal = refused(|web| {
            web.operators = vec![WebUser::new("ann", OPERATOR)];
            web.readers = vec![WebUser::new("eve", OPERATOR)];
        });
        assert!(equal.contains("\"ann\" and \"eve\" have the same secret") && !equal.contains(OPERATOR), "{equal}");
        assert!(refused(|web| web.operators = vec![WebUser::new("ann", "short")]).contains("too short"));
        assert!(refused(|web| web.readers = vec![WebUser::new("eve", READER)]).contains("no operator"));
    }

    #[test]
    fn a_secret_is_read_from_a_file_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, format!("{OPERATOR}\n")).unwrap();
        let settings = web_settings(|web| web.operator_secret = Some(Secret::from_file(&path)));
        assert!(Credentials::from_settings(&settings).unwrap().user_of(OPERATOR).is_some());
        assert!(Credentials::from_settings(&WebSettings::default()).unwrap().is_none());
        let nowhere = web_settings(|web| web.operator_secret = Some(Secret::from_file(folder.path().join("nowhere"))));
        assert!(matches!(Credentials::from_settings(&nowhere), Err(WebError::Secret(SecretError::File { .. }))));
    }

    #[test]
    fn a_changed_secret_replaces_the_last_one_unless_it_may_not_be_used() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["ann", "bob"].map(|name| folder.path().join(name));
        let write = |n: usize, secret: &str| std::fs::write(&paths[n], secret).unwrap();
        write(0, OPERATOR);
        write(1, READER);
        let users = || paths.iter().zip(["ann", "bob"]).map(|(path, name)| WebUser::new(name, Secret::from_file(path)));
        let settings = web_settings(|web| web.operators = users().collect());
        let credentials = Credentials::from_settings(&settings).unwrap();
        let changed = |credentials: &Credentials| reread(&credentials.0.sources, &credentials.keys());
        write(0, "another secret of ann");
        let (keys, problems) = changed(&credentials);
        assert!(keys[0].has_secret_of(&UserKey::new(User::operator("ann"), "another secret of ann")));
        assert!(keys[1].has_secret_of(&credentials.keys()[1]) && problems.is_empty(), "{problems:?}");
        for (bad, why) in [("short", "too short"), ("", "empty"), (READER, "\"ann\" and \"bob\" have the same secret")]
        {
            write(0, bad);
            let (keys, problems) = changed(&credentials);
            assert!(problems.len() == 1 && problems[0].contains(why), "{problems:?}");
            let stays = keys.iter().zip(credentials.keys().iter()).all(|(key, last)| key.has_secret_of(last));
            assert!(stays, "both last secrets stay");
        }
    }
}
