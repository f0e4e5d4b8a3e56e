//! What this process's HTTP server has noticed about its surroundings, for alerts and metrics:
//! proxies that nobody has configured, and the certificate with which it serves HTTPS.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A proxy that has sent nothing for this long is no longer reported.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// More proxies than anybody has; a limit because an address costs its sender nothing.
const MAX_PROXIES: usize = 32;

/// The certificate that is served, and what is wrong with the files for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// End of its validity, in Unix seconds.
    pub ends_unix_s: i64,
    /// Why the files that are there now are not used; `None` while they are.
    pub problem: Option<String>,
}

#[derive(Debug, Default)]
pub struct HttpStanding {
    proxies: Mutex<BTreeMap<IpAddr, Instant>>,
    certificate: Mutex<Option<Certificate>>,
}

impl HttpStanding {
    /// This peer looks like a proxy, and is not one of `http.trusted_proxies`.
    pub fn note_untrusted_proxy(&self, peer: IpAddr) {
        let mut proxies = self.proxies.lock();
        if proxies.len() < MAX_PROXIES || proxies.contains_key(&peer) {
            proxies.insert(peer, Instant::now());
        }
    }

    /// Those of the last ten minutes.
    pub fn untrusted_proxies(&self) -> Vec<IpAddr> {
        let mut proxies = self.proxies.lock();
        proxies.retain(|_, seen| seen.elapsed() < FORGET_AFTER);
        proxies.keys().copied().collect()
    }

    pub fn set_certificate(&self, certificate: Certificate) {
        *self.certificate.lock() = Some(certificate);
    }

    /// `None` where this host serves plain HTTP.
    pub fn certificate(&self) -> Option<Certificate> {
        self.certificate.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn many_addresses_take_no_more_than_their_place() {
        let standing = HttpStanding::default();
        for n in 0..1_000 {
            standing.note_untrusted_proxy(Ipv4Addr::from_bits(n).into());
        }
        assert_eq!(standing.untrusted_proxies().len(), MAX_PROXIES);
    }
}
