//! The address of the client: the peer of the connection, or the address that a trusted proxy
//! reports.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use ipnet::IpNet;

/// The client's address; set in every request that came over a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

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
