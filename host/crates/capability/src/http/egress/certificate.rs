//! When the certificates of outside hosts end, as seen on connections that plugins make anyway.
//! Never opens a connection.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::Url;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A host's certificate changes every few weeks; reading it at each response would be waste.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// A rule may allow any host of a domain, so there is a limit.
const MAX_HOSTS: usize = 1_000;
/// A host that is not called for this long is no longer watched.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Clone, Copy)]
struct SeenCertificate {
    looked: Instant,
    ends_unix_s: i64,
}

/// The certificates of all hosts that this process has called over TLS.
#[derive(Debug, Default)]
pub struct Certificates(Mutex<HashMap<String, SeenCertificate>>);

impl Certificates {
    /// Records the certificate that a host presented. One that cannot be read is ignored.
    pub(super) fn note(&self, url: &Url, der: impl FnOnce() -> Option<Vec<u8>>) {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return;
        };
        let host = format!("{host}:{port}");
        let mut all = self.0.lock();
        match all.get(&host) {
            Some(seen) if seen.looked.elapsed() < LOOK_EVERY => return,
            None if all.len() >= MAX_HOSTS => return,
            _ => {}
        }
        let Some(der) = der() else { return };
        if let Ok((_, certificate)) = X509Certificate::from_der(&der) {
            let ends_unix_s = certificate.validity().not_after.timestamp();
            all.insert(
                host,
                SeenCertificate {
                    looked: Instant::now(),
                    ends_unix_s,
                },
            );
        }
    }

    /// When the last certificate of each `host:port` ends, in Unix seconds.
    pub fn ends(&self) -> HashMap<String, i64> {
        let mut all = self.0.lock();
        all.retain(|_, seen| seen.looked.elapsed() < FORGET_AFTER);
        all.iter()
            .map(|(host, seen)| (host.clone(), seen.ends_unix_s))
            .collect()
    }
}
