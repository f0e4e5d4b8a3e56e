//! The address of the client: the peer of the connection, or the address that a trusted proxy
//! reports. And the network for which it stands where clients are counted.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use ipnet::IpNet;

/// The client's address; set in every request that came over a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

/// The request looks like one of a proxy, and no proxy is configured. So [`ClientAddress`] may be a
/// proxy's, and clients cannot be told apart by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnknownProxy;

/// A peer on this machine or in a private network that names another client without being trusted.
pub(super) fn untrusted_proxy(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> Option<IpAddr> {
    let peer = peer.to_canonical();
    let is_trusted = trusted.iter().any(|network| network.contains(&peer));
    (headers.contains_key(FORWARDED_FOR) && !is_trusted && is_near(peer)).then_some(peer)
}

impl UnknownProxy {
    /// Where proxies are configured, another peer is a client like any other: a header that it sends
    /// must not lift its limits.
    pub(super) fn of(untrusted: Option<IpAddr>, trusted: &[IpNet]) -> Option<Self> {
        (untrusted.is_some() && trusted.is_empty()).then_some(Self)
    }
}

/// Whether the address is of this machine, or of a network that is not the internet: private, of a
/// carrier (RFC 6598), unique local or link-local.
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_of_carrier = first == 100 && (64..128).contains(&second);
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || is_of_carrier
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The address itself, or the /64 network of an IPv6 address: its owner has all 2⁶⁴ addresses in it.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

/// State of a connection, shared by all its requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Connection {
    proven: Arc<AtomicBool>,
}

impl Connection {
    /// Whether the last credentials checked on this connection were right. One wrong attempt resets
    /// it, because a proxy may reuse the connection for another client.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    pub(super) fn set_proven(&self, proven: bool) {
        self.proven.store(proven, Ordering::Relaxed);
    }
}

const FORWARDED_FOR: &str = "x-forwarded-for";

impl ClientAddress {
    /// Each proxy appends the address that it received the request from. So the last address that
    /// is not a trusted proxy sent the request; the entries before it may be forged.
    pub(super) fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
        // Compared as bytes: what a client wrote first, in any encoding, must not hide what a proxy
        // appended.
        let named: Vec<&[u8]> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .collect();
        let mut client = peer.to_canonical();
        let mut before = named.into_iter().rev();
        while is_trusted(client)
            && let Some(address) = before.next().and_then(address)
        {
            client = address.to_canonical();
        }
        Self(client)
    }
}

fn address(named: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(named).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(
                FORWARDED_FOR,
                HeaderValue::from_bytes(line.as_bytes()).expect("a header"),
            );
        }
        let trusted: Vec<IpNet> = trusted
            .iter()
            .map(|network| network.parse().expect("a network"))
            .collect();
        ClientAddress::of(peer.parse().expect("an address"), &headers, &trusted)
            .0
            .to_string()
    }

    #[test]
    fn only_a_trusted_proxy_names_the_client() {
        assert_eq!(client("198.51.100.7", &["192.0.2.1"], &[]), "198.51.100.7");
        assert_eq!(
            client("10.0.0.1", &["192.0.2.1"], &["10.0.0.0/8"]),
            "192.0.2.1"
        );
        assert_eq!(
            client("::ffff:10.0.0.1", &["192.0.2.1"], &["10.0.0.0/8"]),
            "192.0.2.1"
        );
        assert_eq!(client("10.0.0.1", &[], &["10.0.0.0/8"]), "10.0.0.1");
    }

    #[test]
    fn a_near_peer_that_names_a_client_is_told_and_is_an_unknown_proxy_only_where_none_is_configured()
     {
        let of = |peer: &str, names: bool, trusted: &str| {
            let mut headers = HeaderMap::new();
            if names {
                headers.insert(FORWARDED_FOR, HeaderValue::from_static("192.0.2.1"));
            }
            let trusted = [trusted.parse().expect("a network")];
            let peer = peer.parse().expect("an address");
            let untrusted = untrusted_proxy(peer, &headers, &trusted);
            assert!(UnknownProxy::of(untrusted, &trusted).is_none(), "{peer}");
            assert_eq!(
                UnknownProxy::of(untrusted_proxy(peer, &headers, &[]), &[]).is_some(),
                names && is_near(peer.to_canonical()),
                "{peer}"
            );
            untrusted.is_some()
        };
        for near in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(of(near, true, "203.0.113.0/24"), "{near}");
            assert!(!of(near, false, "203.0.113.0/24"), "{near}");
        }
        assert!(!of("10.0.0.1", true, "10.0.0.0/8"), "it is trusted");
        assert!(!of("198.51.100.7", true, "10.0.0.0/8"), "it is a client");
        assert!(!of("2001:db8::1", true, "10.0.0.0/8"), "it is a client");
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn what_a_client_claims_for_itself_is_not_believed() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(
            client("10.0.0.1", &["1.1.1.1, 192.0.2.1, 10.0.0.2"], &trusted),
            "192.0.2.1"
        );
        assert_eq!(
            client("10.0.0.1", &["1.1.1.1", "192.0.2.1"], &trusted),
            "192.0.2.1"
        );
        assert_eq!(
            client("10.0.0.1", &["192.0.2.1, nonsense"], &trusted),
            "10.0.0.1"
        );
        for hidden in [
            "ü, 192.0.2.1",
            "1.1.1.1\u{7ff}, 192.0.2.1, 10.0.0.2",
            "\u{fffd},,192.0.2.1",
        ] {
            assert_eq!(
                client("10.0.0.1", &[hidden], &trusted),
                "192.0.2.1",
                "{hidden}"
            );
        }
    }
}
