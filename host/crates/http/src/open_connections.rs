//! Counts open connections by network, so that no network has all of them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;

use super::client_address::network;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct OpenConnections {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Of one network.
    most: usize,
    /// Their connections are those of many clients, and are not counted.
    proxies: Arc<[IpNet]>,
}

/// Counts as open until it is dropped.
pub(super) struct Counted {
    of: Option<(OpenConnections, IpAddr)>,
}

impl OpenConnections {
    pub(super) fn new(most: usize, proxies: Arc<[IpNet]>) -> Self {
        Self {
            counts: Arc::default(),
            most,
            proxies,
        }
    }

    /// `None`: the network has as many as one may have.
    pub(super) fn count(&self, peer: SocketAddr) -> Option<Counted> {
        let address = peer.ip().to_canonical();
        if self.proxies.iter().any(|proxy| proxy.contains(&address)) {
            return Some(Counted { of: None });
        }
        let network = network(address);
        let mut counts = self.counts.lock();
        let open = counts.entry(network).or_default();
        if *open >= self.most {
            return None;
        }
        *open += 1;
        Some(Counted {
            of: Some((self.clone(), network)),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some((all, network)) = &self.of else {
            return;
        };
        let mut counts = all.counts.lock();
        if let Some(open) = counts.get_mut(network) {
            *open -= 1;
            if *open == 0 {
                counts.remove(network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_so_many_and_others_and_proxies_are_not_held_up() {
        let proxies = ["10.0.0.0/8".parse().expect("a network")];
        let all = OpenConnections::new(2, proxies.into());
        let from = |text: &str| all.count(text.parse().expect("an address"));
        let first = from("[2001:db8::1]:1");
        let _second = from("[2001:db8::2]:2");
        assert!(from("[2001:db8::3]:3").is_none(), "the same /64");
        assert!(from("[2001:db8:0:1::1]:1").is_some());
        assert!(from("192.0.2.1:1").is_some() && from("[::ffff:192.0.2.1]:1").is_some());
        drop(first);
        assert!(from("[2001:db8::3]:3").is_some());
        let of_proxy: Vec<_> = (1..9)
            .map(|port| from(&format!("10.1.1.1:{port}")))
            .collect();
        assert!(of_proxy.iter().all(Option::is_some));
        drop(of_proxy);
        assert_eq!(all.counts.lock().len(), 1, "only what is open is kept");
    }
}
