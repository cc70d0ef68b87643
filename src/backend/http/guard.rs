//! The addresses that requests may go to: public ones, and those that the settings allow.
//!
//! The address of a webhook comes from its receiver. Without this, it could be one that only this machine reaches, such as a
//! database or a cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What is not public, by the IANA's registries of special-purpose addresses; and the host agent of Azure's machines, which only
/// they reach.
const SPECIAL_V4: [(Ipv4Addr, u8); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The only part of the space that is public.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What is not public in it. Of these, 2002::/16 holds addresses of version 4.
const SPECIAL_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Which addresses requests may go to.
#[derive(Debug, Clone, Default)]
pub(super) struct AddressGuard {
    allowed: Vec<IpNet>,
}

/// An address that requests may not go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its address is not public, and `allow_addresses` does not allow it")]
pub(super) struct ForbiddenAddress;

impl AddressGuard {
    /// Also allows these networks, such as `127.0.0.0/8` or `::1`.
    ///
    /// # Errors
    /// The text that is not a network.
    pub(super) fn allowing(networks: &[String]) -> Result<Self, &str> {
        let read = |text: &str| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let allowed = networks.iter().map(|text| read(text).map_err(|_| text.as_str())).collect::<Result<_, _>>()?;
        Ok(Self { allowed })
    }

    pub(super) fn check(&self, address: IpAddr) -> Result<(), ForbiddenAddress> {
        // The same host, as a socket of version 6 writes it.
        let address = address.to_canonical();
        if is_public(address) || self.allowed.iter().any(|network| network.contains(&address)) {
            return Ok(());
        }
        Err(ForbiddenAddress)
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !SPECIAL_V4.iter().any(|(start, length)| Ipv4Net::new_assert(*start, *length).contains(&address))
        }
        IpAddr::V6(address) => {
            let is_in = |(start, length): &(Ipv6Addr, u8)| Ipv6Net::new_assert(*start, *length).contains(&address);
            is_in(&PUBLIC_V6) && !SPECIAL_V6.iter().any(is_in)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &AddressGuard, address: &str) -> bool {
        guard.check(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn public_addresses_are_allowed_and_no_others() {
        let guard = AddressGuard::default();
        for address in ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"] {
            assert!(check(&guard, address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
        ] {
            assert!(!check(&guard, address), "{address}");
        }
    }

    #[test]
    fn the_settings_allow_more() {
        let networks = ["127.0.0.0/8", "::1", "fd12::/16"].map(str::to_owned);
        let guard = AddressGuard::allowing(&networks).unwrap();
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "::1", "fd12:1::1"] {
            assert!(check(&guard, address), "{address}");
        }
        assert!(!check(&guard, "10.0.0.1") && !check(&guard, "fd13::1"));
        assert_eq!(AddressGuard::allowing(&["10.0.0.0/33".to_owned()]).unwrap_err(), "10.0.0.0/33");
        assert_eq!(AddressGuard::allowing(&["localhost".to_owned()]).unwrap_err(), "localhost");
    }
}
