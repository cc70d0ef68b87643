//! The address of a request: the setting `url` with its placeholders filled, or the event's own.

use std::net::IpAddr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Host, Url};

use super::guard::{AddressGuard, ForbiddenAddress};
use crate::event::OutboxEvent;
use crate::event::template::{self, PLACEHOLDERS, value};

/// What a value may contain besides letters and digits: nothing that means anything in an address.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An address with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(String);

/// Why an event has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoTarget {
    #[error("its address is not a valid http:// or https:// address")]
    Malformed,
    #[error("its address has a user name or a password")]
    Credentials,
    #[error("{0}")]
    Forbidden(#[from] ForbiddenAddress),
    #[error("the value of {0} is a dot segment, which would change the path")]
    DotSegment(&'static str),
}

impl Template {
    /// # Errors
    /// What is wrong with it; it is not shown, because it may contain a secret.
    pub(super) fn new(text: &str) -> Result<Self, &'static str> {
        let [url, other] = ["x", "y"].map(|value| http(&fill(text, |_| value)));
        let url = url.ok_or("must be an http:// or https:// address")?;
        if other.is_none_or(|other| other.origin() != url.origin()) {
            return Err("has a placeholder before its path");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user name or a password; write an `authorization` under `headers`");
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether its host may be requested, as far as it is known before it is resolved.
    pub(super) fn check_host(&self, guard: &AddressGuard) -> Result<(), NoTarget> {
        check(&fill(&self.0, |_| "x"), guard).map(drop)
    }

    /// The address for an event.
    pub(super) fn target(&self, event: &OutboxEvent, guard: &AddressGuard) -> Result<Url, NoTarget> {
        for name in PLACEHOLDERS.into_iter().filter(|name| self.0.contains(name)) {
            if [".", ".."].contains(&value(name, event)) {
                return Err(NoTarget::DotSegment(name));
            }
        }
        let text = fill(&self.0, |name| value(name, event));
        check(&text, guard)
    }
}

/// The address that an event brings, checked.
pub(super) fn check(text: &str, guard: &AddressGuard) -> Result<Url, NoTarget> {
    let url = http(text).ok_or(NoTarget::Malformed)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(NoTarget::Credentials);
    }
    match url.host() {
        // Names are checked when they are resolved.
        Some(Host::Domain(_)) => {}
        Some(Host::Ipv4(address)) => guard.check(IpAddr::V4(address))?,
        Some(Host::Ipv6(address)) => guard.check(IpAddr::V6(address))?,
        None => return Err(NoTarget::Malformed),
    }
    Ok(url)
}

/// The host's name; with and without the dot at its end it is one.
pub(super) fn host(url: &Url) -> &str {
    let name = url.host_str().unwrap_or_default();
    name.strip_suffix('.').unwrap_or(name)
}

fn http(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (["http", "https"].contains(&url.scheme()) && url.has_host()).then_some(url)
}

fn fill<'v>(text: &str, value: impl Fn(&'static str) -> &'v str) -> String {
    template::fill(text, |filled, name| filled.extend(utf8_percent_encode(value(name), KEPT)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn event(event_type: &str, key: &str) -> OutboxEvent {
        OutboxEvent { event_type: event_type.to_owned(), ..fixtures::event(1, key) }
    }

    fn filled(template: &str, event: &OutboxEvent) -> Result<String, NoTarget> {
        Template::new(template).unwrap().target(event, &AddressGuard::default()).map(String::from)
    }

    #[test]
    fn a_value_never_changes_what_surrounds_it() {
        let hostile = event("../a?b#c/@evil.example:1\\ü", "k{type}");
        assert_eq!(
            filled("https://hooks.example/v1/{type}/{key}?k={key}&x={other}", &hostile).unwrap(),
            "https://hooks.example/v1/..%2Fa%3Fb%23c%2F%40evil.example%3A1%5C%C3%BC/k%7Btype%7D?k=k%7Btype%7D&x={other}"
        );
        for dots in [".", ".."] {
            assert_eq!(filled("https://h.example/{type}/x", &event(dots, "")), Err(NoTarget::DotSegment("{type}")));
        }
        assert_eq!(filled("https://h.example/{key}", &event("t", "")).unwrap(), "https://h.example/");
    }

    #[test]
    fn a_template_says_what_is_wrong_with_it() {
        for text in ["", "example.com", "ftp://h.example/", "https://", "{type}://h.example/"] {
            assert_eq!(Template::new(text), Err("must be an http:// or https:// address"), "{text}");
        }
        for text in [
            "https://{key}.example/",
            "https://{key}",
            "https:///{key}",
            "https://\t/{key}/x",
            "https:\\\\{key}/x",
            "https://h.example:{key}/",
            "https://h.example@{key}/",
        ] {
            assert!(Template::new(text).is_err(), "{text}");
        }
        assert!(Template::new("https://user:secret@h.example/").is_err());
        assert!(Template::new("https://h.example:8443/a/{type}?b={key}#{source}").is_ok());
    }

    /// Forms in which browsers and resolvers accept an address that is not public.
    #[test]
    fn no_form_of_a_forbidden_address_passes() {
        let guard = AddressGuard::default();
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "017700000001",
            "0",
            "0.0.0.0",
            "127.0.0.1.",
            "127.0.0.1:80",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::127.0.0.1]",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[2002:7f00:1::]",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "0251.0376.0251.0376",
            "169.254.43518",
            "10.0.0.1",
            "192.168.0.1",
            "172.16.0.1",
            "100.100.100.200",
            "user@127.0.0.1",
            "example.com@127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.192",
            "198.18.0.1",
        ] {
            for scheme in ["http", "https"] {
                let text = format!("{scheme}://{host}/hook");
                let error = check(&text, &guard).expect_err(&text);
                assert!(!matches!(error, NoTarget::DotSegment(_)), "{text}: {error:?}");
            }
        }
        for text in ["file:///etc/passwd", "gopher://127.0.0.1/", "//127.0.0.1/", "javascript:1", ""] {
            assert_eq!(check(text, &guard), Err(NoTarget::Malformed), "{text}");
        }
        for text in ["https://user@h.example/", "https://user:secret@h.example/", "https://:secret@h.example/"] {
            assert_eq!(check(text, &guard), Err(NoTarget::Credentials), "{text}");
        }
        assert!(check("https://93.184.216.34/hook", &guard).is_ok());
        assert_eq!(host(&check("https://H.Example.:8443/", &guard).unwrap()), "h.example");
    }
}
