//! When the certificates of outside hosts end, learned from the connections that plugins make anyway: nobody is called for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A host's certificate changes every few weeks; reading one at each response would be waste.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// A rule may allow any host of a domain.
const MAX_HOSTS: usize = 1_000;
/// A host that nobody calls any more is not watched any more.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Clone, Copy)]
struct SeenCertificate {
    looked: Instant,
    ends_unix_s: i64,
}

/// Of every host that was called over TLS by this process.
#[derive(Debug, Default)]
pub struct Certificates(Mutex<HashMap<String, SeenCertificate>>);

impl Certificates {
    /// Notes the certificate that a host has shown. What cannot be read tells nothing.
    pub(super) fn note(&self, url: &Url, der: impl FnOnce() -> Option<Vec<u8>>) {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return };
        let host = format!("{host}:{port}");
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(&host) {
            Some(seen) if seen.looked.elapsed() < LOOK_EVERY => return,
            None if all.len() >= MAX_HOSTS => return,
            _ => {}
        }
        let Some(der) = der() else { return };
        if let Ok((_, certificate)) = X509Certificate::from_der(&der) {
            let ends_unix_s = certificate.validity().not_after.timestamp();
            all.insert(host, SeenCertificate { looked: Instant::now(), ends_unix_s });
        }
    }

    /// By `host:port`: when the certificate that it showed last ends, in Unix seconds.
    pub fn ends(&self) -> HashMap<String, i64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, seen| seen.looked.elapsed() < FORGET_AFTER);
        all.iter().map(|(host, seen)| (host.clone(), seen.ends_unix_s)).collect()
    }
}
