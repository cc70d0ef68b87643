//! The configured secrets, and the roles that they give.

use actix_outbox::{Secret, WebSettings};
use actix_web::cookie::Key;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use crate::error::WebError;

/// The minimum length of a secret in bytes, so that it cannot be guessed.
const SHORTEST_SECRET: usize = 16;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Read.
    Reader,
    /// Read, and change events.
    Operator,
}

/// The configured secrets.
#[derive(Clone)]
pub(super) enum Credentials {
    /// No secret; only this machine has access.
    None(Key),
    Secrets {
        operator: RoleKey,
        reader: Option<RoleKey>,
    },
}

/// What is kept of a secret: enough to recognise it, too little to reveal it.
#[derive(Clone)]
pub(super) struct RoleKey {
    digest: [u8; 32],
    /// Signs the sessions of this secret's users. Each role has its own key, so that a reader's cookie reveals nothing of the
    /// operators' secret, and remains a reader's if that secret becomes the operators'.
    key: Key,
}

impl RoleKey {
    fn new(secret: &str, role: Role) -> Self {
        let digest = digest(secret);
        let purpose: &[u8] = match role {
            Role::Operator => b"sessions of outbox operators",
            Role::Reader => b"sessions of outbox readers",
        };
        let key = Sha512::new().chain_update(purpose).chain_update(digest).finalize();
        Self { digest, key: Key::from(&key) }
    }
}

impl Credentials {
    pub(super) fn none() -> Self {
        Self::None(Key::generate())
    }

    /// # Errors
    /// [`WebError::ShortSecret`] for a secret of less than 16 bytes, [`WebError::EqualSecrets`], and [`WebError::Secret`].
    pub(super) fn secrets(operator: &Secret, reader: Option<&Secret>) -> Result<Self, WebError> {
        let (operator, reader) = (operator.read()?, reader.map(Secret::read).transpose()?);
        if [Some(&operator), reader.as_ref()].into_iter().flatten().any(|secret| secret.len() < SHORTEST_SECRET) {
            return Err(WebError::ShortSecret { shortest: SHORTEST_SECRET });
        }
        if reader.as_ref() == Some(&operator) {
            return Err(WebError::EqualSecrets);
        }
        let reader = reader.map(|reader| RoleKey::new(&reader, Role::Reader));
        Ok(Self::Secrets { operator: RoleKey::new(&operator, Role::Operator), reader })
    }

    /// # Errors
    /// [`WebError::Secret`], [`WebError::ShortSecret`], [`WebError::EqualSecrets`], and [`WebError::ReadersAlone`].
    pub(super) fn from_settings(settings: &WebSettings) -> Result<Self, WebError> {
        let (operator, reader) = (settings.operator_secret.as_ref(), settings.reader_secret.as_ref());
        match (operator, reader) {
            (Some(operator), reader) => Self::secrets(operator, reader),
            (None, Some(_)) => Err(WebError::ReadersAlone),
            (None, None) => Ok(Self::none()),
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None(_))
    }

    /// The role of this secret. Takes as long for a wrong secret as for a right one.
    pub(super) fn role_of(&self, secret: &str) -> Option<Role> {
        let Self::Secrets { operator, reader } = self else { return None };
        let given = digest(secret);
        let is_operator = bool::from(given.ct_eq(&operator.digest));
        let is_reader = reader.as_ref().is_some_and(|reader| bool::from(given.ct_eq(&reader.digest)));
        match (is_operator, is_reader) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Reader),
            (false, false) => None,
        }
    }

    /// The key that signs the sessions of this role; none if no secret gives it.
    pub(super) fn key(&self, role: Role) -> Option<&Key> {
        match (self, role) {
            (Self::None(key), _) => Some(key),
            (Self::Secrets { operator, .. }, Role::Operator) => Some(&operator.key),
            (Self::Secrets { reader, .. }, Role::Reader) => reader.as_ref().map(|reader| &reader.key),
        }
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use actix_outbox::SecretError;

    use super::*;

    const OPERATOR: &str = "the operators' secret";
    const READER: &str = "the readers' secret";

    fn web_settings(set: impl FnOnce(&mut WebSettings)) -> WebSettings {
        let mut web = WebSettings::default();
        set(&mut web);
        web
    }

    #[test]
    fn a_secret_tells_the_role_and_a_wrong_one_none() {
        let both = Credentials::secrets(&OPERATOR.into(), Some(&READER.into())).unwrap();
        assert_eq!(both.role_of(OPERATOR), Some(Role::Operator));
        assert_eq!(both.role_of(READER), Some(Role::Reader));
        for wrong in ["", "the operators' secre", "the operators' secret ", "\0"] {
            assert_eq!(both.role_of(wrong), None, "{wrong:?}");
        }
        let operators_alone = Credentials::secrets(&OPERATOR.into(), None).unwrap();
        assert_eq!(operators_alone.role_of(READER), None);
        assert_eq!(Credentials::none().role_of(""), None);
        assert!(Credentials::secrets(&"short".into(), None).is_err());
        assert!(Credentials::secrets(&OPERATOR.into(), Some(&"".into())).is_err());
        let equal = Credentials::secrets(&OPERATOR.into(), Some(&OPERATOR.into()));
        assert!(matches!(equal, Err(WebError::EqualSecrets)));
    }

    #[test]
    fn a_secret_is_read_from_a_file_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, format!("{OPERATOR}\n")).unwrap();
        let settings = web_settings(|web| web.operator_secret = Some(Secret::from_file(&path)));
        assert_eq!(Credentials::from_settings(&settings).unwrap().role_of(OPERATOR), Some(Role::Operator));
        assert!(Credentials::from_settings(&WebSettings::default()).unwrap().is_none());
        let nowhere = web_settings(|web| web.operator_secret = Some(Secret::from_file(folder.path().join("nowhere"))));
        assert!(matches!(Credentials::from_settings(&nowhere), Err(WebError::Secret(SecretError::File { .. }))));
        let readers = web_settings(|web| web.reader_secret = Some(READER.into()));
        assert!(matches!(Credentials::from_settings(&readers), Err(WebError::ReadersAlone)));
    }
}
