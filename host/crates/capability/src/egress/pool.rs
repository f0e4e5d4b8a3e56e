//! Connections, and the token that belongs to them, per rule of a revision: no revision rides on a connection or a token that another
//! one was allowed to have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use patchbay_model::RevisionDigest;
use patchbay_model::capability::HttpError;
use patchbay_model::manifest::{EgressRule, Manifest};
use reqwest::{Certificate, Client, Url};

use super::certificate::Certificates;
use super::exchange::chain;
use super::oauth2::TokenSlot;
use super::resolver::{Lookup, Pinned};
use super::{address, network};

/// Idle connections go soon: a revision may be retired at any time.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Clients kept, each with a copy of the trust roots; beyond it the one that was used least recently goes.
const MAX_OUTLETS: usize = 256;

/// The way out of one rule of one revision.
pub(super) struct Outlet {
    pub(super) client: Client,
    pub(super) token: TokenSlot,
    pub(super) certificates: Arc<Certificates>,
    allowed: Arc<[IpNet]>,
}

impl Outlet {
    /// Addresses that are written in the URL never reach the resolver, so they are checked here.
    pub(super) fn permits(&self, url: &Url) -> Result<(), HttpError> {
        let address = match url.host() {
            Some(url::Host::Ipv4(address)) => IpAddr::from(address),
            Some(url::Host::Ipv6(address)) => IpAddr::from(address),
            _ => return Ok(()),
        };
        if address::permitted(address, &self.allowed) {
            return Ok(());
        }
        Err(HttpError::Denied(format!("{address} is not a public address")))
    }
}

struct Kept {
    outlet: Arc<Outlet>,
    /// Whoever may still call holds the manifest.
    owner: Weak<Manifest>,
    used: Instant,
}

/// All outlets.
pub(super) struct Pool {
    allowed: Vec<IpNet>,
    roots: Vec<Certificate>,
    lookup: Arc<dyn Lookup>,
    pub(super) certificates: Arc<Certificates>,
    kept: Mutex<HashMap<(RevisionDigest, usize), Kept>>,
}

impl Pool {
    pub(super) fn new(allowed: Vec<IpNet>, roots: Vec<Certificate>, lookup: Arc<dyn Lookup>) -> Self {
        Self { allowed, roots, lookup, certificates: Arc::default(), kept: Mutex::default() }
    }

    /// The outlet of the rule at this place in the manifest.
    pub(super) fn outlet(
        &self,
        revision: RevisionDigest,
        manifest: &Arc<Manifest>,
        place: usize,
    ) -> Result<Arc<Outlet>, HttpError> {
        let key = (revision, place);
        if let Some(kept) = self.locked().get_mut(&key) {
            if !std::ptr::eq(kept.owner.as_ptr(), Arc::as_ptr(manifest)) {
                kept.owner = Arc::downgrade(manifest);
            }
            kept.used = Instant::now();
            return Ok(Arc::clone(&kept.outlet));
        }
        // Outside the lock: it reads the system's trust roots.
        let outlet = Arc::new(self.open(&manifest.egress[place])?);
        let mut kept = self.locked();
        kept.retain(|_, kept| kept.owner.strong_count() > 0);
        if kept.len() >= MAX_OUTLETS
            && let Some(oldest) = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key)
        {
            kept.remove(&oldest);
        }
        let new = Kept { outlet, owner: Arc::downgrade(manifest), used: Instant::now() };
        Ok(Arc::clone(&kept.entry(key).or_insert(new).outlet))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<(RevisionDigest, usize), Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, rule: &EgressRule) -> Result<Outlet, HttpError> {
        let mut allowed = self.allowed.clone();
        for text in &rule.allow_addresses {
            allowed.push(network(text).map_err(|error| HttpError::Denied(error.to_string()))?);
        }
        let allowed: Arc<[IpNet]> = allowed.into();
        let pinned = Pinned { allowed: Arc::clone(&allowed), lookup: Arc::clone(&self.lookup) };
        let client = Client::builder()
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
        Ok(Outlet { client, token: TokenSlot::default(), certificates, allowed })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.locked().len()
    }
}
