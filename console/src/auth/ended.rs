//! Sessions that users ended before their time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::session::SESSION;

/// Ended sessions that are remembered one by one.
const MOST: usize = 10_000;

/// The sessions that have ended and whose cookies have not expired, by their token.
pub(super) struct EndedSessions(Mutex<Ended>);

struct Ended {
    sessions: HashMap<Uuid, DateTime<Utc>>,
    /// Sessions that began before this time are over too: a server does not know which of them ended before its start, nor
    /// those that it had to forget.
    before: DateTime<Utc>,
}

impl Default for EndedSessions {
    fn default() -> Self {
        Self(Mutex::new(Ended { sessions: HashMap::new(), before: Utc::now() }))
    }
}

impl EndedSessions {
    pub(super) fn end(&self, token: Uuid, begun_at: DateTime<Utc>) {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.insert(token, begun_at);
    }

    pub(super) fn contain(&self, token: Uuid, begun_at: DateTime<Utc>) -> bool {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun_at < ended.before || ended.sessions.contains_key(&token)
    }
}

impl Ended {
    fn insert(&mut self, token: Uuid, begun_at: DateTime<Utc>) {
        if self.sessions.len() >= MOST {
            let expired = Utc::now() - SESSION;
            self.sessions.retain(|_, begun_at| *begun_at > expired);
        }
        if self.sessions.len() >= MOST {
            // Half of them are forgotten, and with them all sessions that are as old.
            let mut begun: Vec<DateTime<Utc>> = self.sessions.values().copied().collect();
            begun.sort_unstable();
            let before = begun[begun.len() / 2];
            self.before = self.before.max(before);
            self.sessions.retain(|_, begun_at| *begun_at >= before);
        }
        self.sessions.insert(token, begun_at);
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn an_ended_session_stays_ended_however_many_follow() {
        let ended = EndedSessions::default();
        let start = Utc::now();
        let at = |n: i64| start + TimeDelta::microseconds(n);
        let (first, other) = (Uuid::new_v4(), Uuid::new_v4());
        ended.end(first, at(0));
        assert!(ended.contain(first, at(0)) && !ended.contain(other, at(0)));
        for n in 1..=30_000 {
            ended.end(Uuid::new_v4(), at(n));
        }
        assert!(ended.contain(first, at(0)));
        assert!(ended.0.lock().unwrap().sessions.len() <= MOST);
        assert!(!ended.contain(other, at(40_000)), "a new session is not affected");
        assert!(ended.contain(other, start - TimeDelta::hours(1)), "nor is one from before the start valid");
    }
}
