//! Connections and access tokens, per rule of a revision: no revision uses a connection or token
//! that only another one was allowed to have.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use patchbay_model::RevisionDigest;
use patchbay_model::capability::HttpError;
use patchbay_model::manifest::{EgressRule, Manifest};
use reqwest::{Certificate, Client};

use super::certificate::Certificates;
use super::client::EgressClient;
use super::exchange::chain;
use super::network;
use super::resolver::{Lookup, Pinned};

/// Short, because a revision may be retired at any time.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Most clients kept, each with a copy of the trust roots. The least recently used one is dropped.
const MAX_CLIENTS: usize = 256;

struct CachedClient {
    client: Arc<EgressClient>,
    /// Every caller holds the manifest: without it, the client is unused.
    owner: Weak<Manifest>,
    used: Instant,
}

pub(super) struct Clients {
    allowed: Vec<IpNet>,
    roots: Vec<Certificate>,
    lookup: Arc<dyn Lookup>,
    pub(super) certificates: Arc<Certificates>,
    cached: Mutex<HashMap<(RevisionDigest, usize), CachedClient>>,
}

impl Clients {
    pub(super) fn new(
        allowed: Vec<IpNet>,
        roots: Vec<Certificate>,
        lookup: Arc<dyn Lookup>,
    ) -> Self {
        Self {
            allowed,
            roots,
            lookup,
            certificates: Arc::default(),
            cached: Mutex::default(),
        }
    }

    /// The client of the rule at this index of the manifest.
    pub(super) fn client(
        &self,
        revision: RevisionDigest,
        manifest: &Arc<Manifest>,
        place: usize,
    ) -> Result<Arc<EgressClient>, HttpError> {
        let key = (revision, place);
        if let Some(cached) = self.cached.lock().get_mut(&key) {
            if !std::ptr::eq(cached.owner.as_ptr(), Arc::as_ptr(manifest)) {
                cached.owner = Arc::downgrade(manifest);
            }
            cached.used = Instant::now();
            return Ok(Arc::clone(&cached.client));
        }
        // Outside the lock, because it reads the system's trust roots.
        let client = Arc::new(self.open(&manifest.egress[place])?);
        let mut cached = self.cached.lock();
        cached.retain(|_, cached| cached.owner.strong_count() > 0);
        if cached.len() >= MAX_CLIENTS
            && let Some(oldest) = cached
                .iter()
                .min_by_key(|(_, cached)| cached.used)
                .map(|(key, _)| *key)
        {
            cached.remove(&oldest);
        }
        let new = CachedClient {
            client,
            owner: Arc::downgrade(manifest),
            used: Instant::now(),
        };
        Ok(Arc::clone(&cached.entry(key).or_insert(new).client))
    }

    fn open(&self, rule: &EgressRule) -> Result<EgressClient, HttpError> {
        let mut allowed = self.allowed.clone();
        for text in &rule.allow_addresses {
            allowed.push(network(text).map_err(|error| HttpError::Denied(error.to_string()))?);
        }
        let allowed: Arc<[IpNet]> = allowed.into();
        let pinned = Pinned {
            allowed: Arc::clone(&allowed),
            lookup: Arc::clone(&self.lookup),
        };
        let http = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .pool_idle_timeout(POOL_IDLE)
            .dns_resolver(Arc::new(pinned))
            .tls_info(true)
            .tls_certs_merge(self.roots.iter().cloned())
            .build()
            .map_err(|error| HttpError::Other(chain(&error)))?;
        let certificates = Arc::clone(&self.certificates);
        Ok(EgressClient {
            http,
            token: tokio::sync::Mutex::default(),
            certificates,
            allowed,
        })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.cached.lock().len()
    }
}
