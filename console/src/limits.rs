//! Rate limits for each client address.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Requests a second from one address, and immediately after a pause.
const REQUESTS: NonZeroU32 = NonZeroU32::new(100).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(500).unwrap();

/// Sign-in attempts, successful or not, before the limit applies, and then the time for each further one.
const TRIES: NonZeroU32 = NonZeroU32::new(5).unwrap();
const TRY_PAUSE: Duration = Duration::from_secs(10);

/// Idle addresses are forgotten every this many requests.
const CLEANING: u32 = 1_000;

pub(crate) struct Limits {
    requests: DefaultKeyedRateLimiter<IpAddr>,
    tries: DefaultKeyedRateLimiter<IpAddr>,
    /// Wrong tokens that are logged.
    wrong_tokens: DefaultKeyedRateLimiter<IpAddr>,
    request_count: AtomicU32,
}

impl Default for Limits {
    fn default() -> Self {
        let tries = Quota::with_period(TRY_PAUSE).unwrap_or(Quota::per_minute(TRIES)).allow_burst(TRIES);
        Self {
            requests: RateLimiter::keyed(Quota::per_second(REQUESTS).allow_burst(BURST)),
            tries: RateLimiter::keyed(tries),
            wrong_tokens: RateLimiter::keyed(tries),
            request_count: AtomicU32::new(0),
        }
    }
}

impl Limits {
    /// Whether another request is allowed.
    pub(super) fn allow_request(&self, from: IpAddr) -> bool {
        let from = rate_limit_key(from);
        if self.request_count.fetch_add(1, Ordering::Relaxed).is_multiple_of(CLEANING) {
            self.requests.retain_recent();
            self.tries.retain_recent();
            self.wrong_tokens.retain_recent();
        }
        self.requests.check_key(&from).is_ok()
    }

    /// Whether another sign-in attempt is allowed.
    pub(super) fn allow_try(&self, from: IpAddr) -> bool {
        self.tries.check_key(&rate_limit_key(from)).is_ok()
    }

    /// Whether another wrong token is logged.
    pub(super) fn log_wrong_token(&self, from: IpAddr) -> bool {
        self.wrong_tokens.check_key(&rate_limit_key(from)).is_ok()
    }
}

/// The address, or for IPv6 its /64: a client with one IPv6 address usually has its whole /64.
fn rate_limit_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::from(std::net::Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_may_try_a_few_secrets_and_another_is_not_held_up_by_that() {
        let limits = Limits::default();
        let [one, another] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let allowed = (0..20).filter(|_| limits.allow_try(one)).count();
        assert_eq!(allowed, 5);
        assert!(limits.allow_try(another));
        let in_one_network = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, n, n, n, n]);
        let allowed = (0..20).filter(|n| limits.allow_try(in_one_network(*n))).count();
        assert_eq!(allowed, 5, "from all addresses of a /64 together");
        assert!(limits.allow_request(one));
        let allowed = (0..2_000).filter(|_| limits.allow_request(another)).count();
        assert!((500..1_000).contains(&allowed), "{allowed}");
    }
}
