//! Which addresses guests may not reach: all except the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Blocked IPv4 networks: IANA's special-purpose registry (RFC 6890 and successors), multicast and
/// reserved space.
const BLOCKED_V4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // carrier-grade NAT; Alibaba's metadata service
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local; clouds' metadata services
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // IETF protocol assignments; Oracle's metadata service
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's host channel
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, broadcast
];

/// Whether a guest may connect there. `allowed` lists exceptions of the rule or of the operator.
pub(super) fn permitted(address: IpAddr, allowed: &[IpNet]) -> bool {
    allowed
        .iter()
        .any(|network| network.contains(&address.to_canonical()))
        || is_public(address)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

/// Global unicast is 2000::/3; within it, documentation, ORCHID and tunnels are not public.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let global = segments[0] & 0xe000 == 0x2000;
    let documentation = segments[0] == 0x2001 && segments[1] == 0x0db8 || segments[0] == 0x3fff;
    // 2001::/23: Teredo (2001::/32), benchmarking, ORCHID and other protocol assignments.
    let special = segments[0] == 0x2001 && segments[1] < 0x0200;
    // 6to4 is obsolete (RFC 7526), and the nearest relay would decide where a packet goes.
    let six_to_four = segments[0] == 0x2002;
    global && !documentation && !special && !six_to_four
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !BLOCKED_V4
        .iter()
        .any(|(network, length)| (bits ^ network.to_bits()) >> (32 - u32::from(*length)) == 0)
}

/// The IPv4 address that a translator would connect to. Translators with a prefix of their own
/// (64:ff9b:1::/48) are not public.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    match s {
        // v4-mapped, v4-translated, NAT64 with the well-known prefix.
        [0, 0, 0, 0, 0, 0xffff, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            Some(Ipv4Addr::from_bits(u32::from(s[6]) << 16 | u32::from(s[7])))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> bool {
        permitted(text.parse().expect("an address"), &[])
    }

    #[test]
    fn public_addresses_pass() {
        for address in [
            "8.8.8.8",
            "1.1.1.1",
            "2606:4700:4700::1111",
            "64:ff9b::8.8.8.8",
            "::ffff:8.8.8.8",
        ] {
            assert!(ok(address), "{address}");
        }
    }

    #[test]
    fn private_loopback_and_metadata_addresses_are_blocked_in_every_form() {
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::a00:1",
            "::8.8.8.8",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:0:1::8.8.8.8",
            "::ffff:169.254.169.254",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:808:808::1",
            "2001:0:7f00:1::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:20::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "100::1",
        ] {
            assert!(!ok(address), "{address}");
        }
    }

    #[test]
    fn an_exception_opens_exactly_its_network() {
        let allowed: Vec<IpNet> = vec!["127.0.0.1/32".parse().expect("a network")];
        assert!(permitted(
            "127.0.0.1".parse().expect("an address"),
            &allowed
        ));
        assert!(permitted(
            "::ffff:127.0.0.1".parse().expect("an address"),
            &allowed
        ));
        assert!(!permitted(
            "127.0.0.2".parse().expect("an address"),
            &allowed
        ));
    }
}
