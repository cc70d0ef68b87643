//! Where a request comes from and to which name it was sent: the checks of Host, peer, proxies and Origin.

use std::net::{IpAddr, Ipv4Addr};

use actix_web::dev::ServiceRequest;
use actix_web::http::header;
use ipnet::IpNet;

use super::error::{AccessError, Sent};
use crate::error::WebError;

/// Headers that proxies add, in addition to all that begin with `X-Forwarded`.
const FORWARDED: [&str; 7] =
    ["forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"];

/// The names by which browsers may call the server, in addition to those of this machine.
#[derive(Clone, Default)]
pub(super) struct HostNames(Vec<String>);

impl HostNames {
    /// # Errors
    /// [`WebError::HostName`] for a text that is not a name without a port.
    pub(super) fn parse<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Result<Self, WebError> {
        let name = |name: T| {
            let name = name.as_ref().to_ascii_lowercase();
            let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name).to_owned();
            let is_address = bare.parse::<IpAddr>().is_ok();
            let is_name = !bare.is_empty() && !bare.contains([':', '/', '@', ' ', '[', ']']);
            if is_address || is_name { Ok(bare) } else { Err(WebError::HostName { name }) }
        };
        names.into_iter().map(name).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a request to `host` (with a port or without) is allowed. `or_any`: without names, every name is.
    pub(super) fn allow(&self, host: &str, or_any: bool) -> bool {
        let Some(name) = split_host(host).map(|(name, _)| name.to_ascii_lowercase()) else { return false };
        if is_loopback_name(&name) || self.0.contains(&name) {
            return true;
        }
        self.0.is_empty() && or_any
    }

    /// Checks that a request does not come from another site. Browsers send the origin of a change; programs do not.
    pub(super) fn check_origin(&self, request: &ServiceRequest) -> Result<(), AccessError> {
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let is_ours = origin.to_str().is_ok_and(|origin| self.is_same_site(origin, &host(request)));
        if is_ours { Ok(()) } else { Err(AccessError::Origin(sent(request))) }
    }

    /// Whether a page of this origin is one of the server with this `Host`: if name and port are the same, or if the page has a
    /// configured name and a proxy sent a `Host` of its own, or without the port. The scheme does not count: a proxy may have
    /// added TLS.
    fn is_same_site(&self, origin: &str, host: &str) -> bool {
        let Some((scheme, site)) = origin.split_once("://") else { return false };
        let (Some((page, page_port)), Some((name, port))) = (split_host(site), split_host(host)) else { return false };
        let default = if scheme == "https" { "443" } else { "80" };
        let is_same_name = !name.is_empty() && page.eq_ignore_ascii_case(name);
        if is_same_name && port.is_some() {
            return page_port.unwrap_or(default) == port.unwrap_or(default);
        }
        let is_default = is_same_name && page_port.is_none_or(|port| port == default);
        is_default || self.0.contains(&page.to_ascii_lowercase())
    }
}

/// The proxies whose `X-Forwarded-For` and `X-Forwarded-Prefix` are trusted.
#[derive(Clone, Default)]
pub(super) struct Proxies(Vec<IpNet>);

impl Proxies {
    /// # Errors
    /// [`WebError::Proxy`] for a text that is neither an address nor a network.
    pub(super) fn parse<T: AsRef<str>>(addresses: impl IntoIterator<Item = T>) -> Result<Self, WebError> {
        let network = |address: T| {
            let address = address.as_ref();
            let network = address.parse().or_else(|_| address.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| WebError::Proxy { address: address.to_owned() })
        };
        addresses.into_iter().map(network).collect::<Result<_, _>>().map(Self)
    }

    /// The address of the client that sent the request, to this server or to the proxies before it.
    pub(super) fn client_address(&self, request: &ServiceRequest) -> IpAddr {
        self.client_of(peer(request), forwarded_for(request))
    }

    /// Whether the request comes from one of the proxies.
    pub(super) fn sent(&self, request: &ServiceRequest) -> bool {
        self.include(peer(request))
    }

    fn include(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// The client's address of a request from `peer`: the last address in `forwarded_for` (the nearest is last) that is not a
    /// configured proxy. Any client can forge the addresses before it.
    fn client_of<'a>(&self, peer: IpAddr, forwarded_for: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
        let mut client = peer;
        for address in forwarded_for.rev() {
            if !self.include(client) {
                break;
            }
            let Ok(address) = address.trim().parse() else { break };
            client = address;
        }
        client
    }
}

/// Checks that the client is on this machine.
pub(super) fn check_loopback(request: &ServiceRequest) -> Result<(), AccessError> {
    // A proxy on this machine forwards requests of other machines.
    let is_local = peer(request).to_canonical().is_loopback() && !is_forwarded(request);
    if is_local { Ok(()) } else { Err(AccessError::Peer) }
}

/// Where a request comes from and to which name it was sent, for a refusal.
pub(crate) fn sent(request: &ServiceRequest) -> Sent {
    let origin = request.headers().get(header::ORIGIN);
    Sent { origin: origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned()), host: host(request) }
}

pub(crate) fn has_origin(request: &ServiceRequest) -> bool {
    request.headers().contains_key(header::ORIGIN)
}

/// The host name to which the client sent the request; headers of proxies are ignored.
pub(crate) fn host(request: &ServiceRequest) -> String {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned()
}

/// Whether the client uses TLS, to this server or to the proxy before it.
pub(crate) fn is_secure(request: &ServiceRequest) -> bool {
    request.connection_info().scheme() == "https"
}

fn peer(request: &ServiceRequest) -> IpAddr {
    request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
}

/// Whether a proxy forwarded the request.
fn is_forwarded(request: &ServiceRequest) -> bool {
    let is_proxy_header = |name: &str| name.starts_with("x-forwarded") || FORWARDED.contains(&name);
    request.headers().keys().any(|name| is_proxy_header(name.as_str()))
}

/// The client's addresses according to proxies, the nearest proxy's last.
fn forwarded_for(request: &ServiceRequest) -> impl DoubleEndedIterator<Item = &str> {
    let lines: Vec<&str> = request.headers().get_all("x-forwarded-for").filter_map(|line| line.to_str().ok()).collect();
    lines.into_iter().flat_map(|line| line.split(','))
}

/// The host's name and its port; none if it is not a valid host.
fn split_host(host: &str) -> Option<(&str, Option<&str>)> {
    let (name, rest) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some(bracketed) => bracketed,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.chars().all(|digit| digit.is_ascii_digit());
    match rest.strip_prefix(':') {
        None => rest.is_empty().then_some((name, None)),
        Some(port) => is_port(port).then_some((name, Some(port).filter(|port| !port.is_empty()))),
    }
}

fn is_loopback_name(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_of_ours_is_believed_where_a_request_comes_from() {
        let client = |proxies: &[&str], peer: &str, forwarded_for: &[&str]| {
            let proxies = Proxies::parse(proxies).unwrap();
            proxies.client_of(peer.parse().unwrap(), forwarded_for.iter().copied()).to_string()
        };
        let ours = ["10.0.0.0/24", "::1"];
        assert_eq!(client(&[], "10.0.0.7", &["192.0.2.1"]), "10.0.0.7");
        assert_eq!(client(&ours, "10.0.0.7", &[]), "10.0.0.7");
        assert_eq!(client(&ours, "10.0.0.7", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(client(&ours, "::ffff:10.0.0.7", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(client(&ours, "::1", &["192.0.2.9", " 192.0.2.1", " 10.0.0.8"]), "192.0.2.1");
        assert_eq!(client(&ours, "10.0.1.7", &["192.0.2.1"]), "10.0.1.7");
        assert_eq!(client(&ours, "10.0.0.7", &["192.0.2.1", "unknown"]), "10.0.0.7");
        assert!(matches!(Proxies::parse(["proxy.example"]), Err(WebError::Proxy { .. })));
    }

    #[test]
    fn a_page_is_ours_if_its_name_and_port_are_those_that_the_request_was_sent_to() {
        let none = HostNames::default();
        for (origin, host) in [
            ("http://localhost:9750", "localhost:9750"),
            ("http://Outbox.example", "outbox.example"),
            ("https://outbox.example", "outbox.example:443"),
            ("http://outbox.example:80", "outbox.example"),
            ("http://[::1]:9750", "[::1]:9750"),
        ] {
            assert!(none.is_same_site(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://outbox.example:8080", "outbox.example"),
            ("http://outbox.example", "outbox.example:8080"),
            ("https://outbox.example", "outbox.example:80"),
            ("http://evil.example", "outbox.example"),
            ("null", "outbox.example"),
            ("", ""),
            ("http://", ""),
        ] {
            assert!(!none.is_same_site(origin, host), "{origin} {host}");
        }
        let named = HostNames::parse(["outbox.example"]).unwrap();
        assert!(named.is_same_site("http://outbox.example:8080", "outbox.example"), "the proxy dropped the port");
        assert!(named.is_same_site("http://outbox.example:8080", "127.0.0.1:9750"), "the proxy sent its own view");
        for (origin, host) in [
            ("http://outbox.example:8080", "outbox.example:8081"),
            ("http://evil.example:8080", "outbox.example"),
            ("http://localhost:8080", "localhost"),
        ] {
            assert!(!named.is_same_site(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn a_host_that_is_not_ours_is_not_known() {
        let none = HostNames::default();
        for host in ["localhost", "LOCALHOST:9750", "127.0.0.1:9750", "127.8.0.1", "[::1]:9750", "[::1]"] {
            assert!(none.allow(host, false), "{host}");
        }
        for host in ["[::1].evil.example", "localhost:80@evil.example", "127.0.0.1:9750:evil", "[::1"] {
            assert!(!none.allow(host, false), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:80", "10.0.0.1", "[::2]:1", "127.0.0.1.evil.example"] {
            assert!(!none.allow(host, false), "{host}");
        }
        assert!(none.allow("anything.example", true));
        let named = HostNames::parse(["Outbox.example.com", "[2001:db8::1]"]).unwrap();
        assert!(named.allow("[2001:db8::1]:443", true));
        for wrong in ["outbox.example.com:443", "https://outbox.example.com", ""] {
            assert!(matches!(HostNames::parse([wrong]), Err(WebError::HostName { .. })), "{wrong}");
        }
        assert!(named.allow("outbox.example.com:443", true) && named.allow("localhost", true));
        assert!(!named.allow("evil.example", true));
    }
}
