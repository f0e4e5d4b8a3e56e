//! Addresses of HTTP servers.

use url::{Host, Url};

/// Whether a URL names this machine (loopback). Such URLs must not use `HTTP_PROXY` and its
/// siblings: the proxy would look for the loopback address on its own machine.
pub fn is_loopback(url: &str) -> bool {
    let url = Url::parse(url).ok();
    match url.as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
        Some(Host::Ipv6(address)) => {
            address.to_canonical().is_loopback() || address.is_unspecified()
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_this_machine_is_asked_without_a_proxy() {
        for url in [
            "http://127.0.0.1:8080",
            "http://127.9.9.9",
            "http://[::1]:1/",
            "http://localhost:8080",
            "http://0.0.0.0:1",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://10.0.0.1",
            "https://patchbay.example",
            "http://localhost.example",
            "nonsense",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
