//! The answer of a script that sends events.

use redis::Value;

pub(super) enum Reply {
    Sent,
    /// Another session may send.
    Closed,
    Stopped {
        sent: usize,
        error: String,
    },
}

impl Reply {
    pub(super) fn read(answer: Value) -> Option<Self> {
        let Value::Array(parts) = answer else { return None };
        let mut parts = parts.into_iter();
        match redis::from_redis_value::<String>(parts.next()?).ok()?.as_str() {
            "sent" => Some(Self::Sent),
            "closed" => Some(Self::Closed),
            "stopped" => Some(Self::Stopped {
                sent: redis::from_redis_value(parts.next()?).ok()?,
                error: redis::from_redis_value(parts.next()?).ok()?,
            }),
            _ => None,
        }
    }
}
