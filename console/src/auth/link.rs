//! A link that signs an operator in once, for a server that drew its own secret.

use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq;

/// The token of the link until it is used.
#[derive(Clone, Default)]
pub(super) struct SignInLink(Arc<Mutex<Option<String>>>);

impl SignInLink {
    pub(super) fn set(&self, token: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    /// Whether this is the token; it is spent then.
    pub(super) fn redeem(&self, given: &str) -> bool {
        let mut token = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_right = token.as_ref().is_some_and(|token| bool::from(token.as_bytes().ct_eq(given.as_bytes())));
        if is_right {
            *token = None;
        }
        is_right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_works_once() {
        let link = SignInLink::default();
        assert!(!link.redeem(""));
        link.set("token".to_owned());
        assert!(!link.redeem("other") && link.redeem("token") && !link.redeem("token"));
    }
}
