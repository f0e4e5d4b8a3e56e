//! Whose key a request brings, and whether it may be used now.
//!
//! Keys that are unknown, switched off, revoked and over are refused alike. A key has 256 random
//! bits, so nobody guesses one: limits of wrong keys only keep a crowd away from Postgres, and never
//! stop a key that this process has seen to be right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use patchbay_api::vendor_keys::OwnVendorKey;
use patchbay_store::{IdentityChange, VendorKeyCheck};
use subtle::ConstantTimeEq;

use super::secret::{hash, prefix_of};
use super::{VendorKeys, VendorParts};
use crate::error::{Error, Kind};
use crate::identity_changes::Follower;
use crate::limits::{Class, FailureClass};
use crate::people::within;
use crate::remembered::{Asked, MOST_REMEMBERED};

const WRONG_KEYS: FailureClass = FailureClass {
    name: "vendor-network",
    what: "wrong API keys from this network",
    free: 20,
    longest: Duration::from_secs(60),
    forgotten_after: Duration::from_secs(900),
};

/// A vendor, with the key that its request has brought.
#[derive(Debug, Clone)]
pub struct Vendor {
    /// The prefix of its first key: the same after each rotation.
    pub id: Arc<str>,
    pub prefix: Arc<str>,
    pub name: Arc<str>,
    pub scopes: Arc<[String]>,
    pub rate_per_min: u32,
    pub valid_until: Option<DateTime<Utc>>,
    /// By which its use is counted.
    route: Arc<str>,
}

impl Vendor {
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }
}

/// A key as Postgres has it.
pub(super) struct KnownKey {
    vendor: Arc<str>,
    secret_hash: Vec<u8>,
    name: Arc<str>,
    scopes: Arc<[String]>,
    rate_per_min: u32,
    is_active: bool,
    valid_until: Option<DateTime<Utc>>,
    /// By the clock of this process.
    ends: Option<Instant>,
}

impl KnownKey {
    /// `asked`: before the row was read.
    fn new(row: VendorKeyCheck, asked: Instant) -> Self {
        let ends = row.seconds_left.map(|left| {
            // A time too far ahead to be told apart from no end is none.
            let left = Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX);
            asked.checked_add(left).unwrap_or(asked)
        });
        Self {
            vendor: row.first_prefix.into(),
            secret_hash: row.secret_hash,
            name: row.name.into(),
            scopes: row.scopes.into(),
            rate_per_min: u32::try_from(row.rate_per_min).unwrap_or(1).max(1),
            is_active: row.is_active,
            valid_until: row.valid_until,
            ends,
        }
    }

    fn is_genuine(&self, shown: &[u8; 32]) -> bool {
        self.secret_hash.ct_eq(shown).into()
    }

    fn can_be_used(&self) -> bool {
        self.is_active && self.ends.is_none_or(|ends| Instant::now() < ends)
    }
}

fn invalid_key() -> Error {
    Error::new(Kind::Unauthorized, "invalid-api-key", "Invalid API key")
}

impl VendorKeys {
    /// The vendor whose key this is, if it may be used now and its limit is not used up.
    ///
    /// `network`: where the request comes from; `None` where that tells nobody apart. `route`: the
    /// method and path of its operation.
    pub async fn authenticate(
        &self,
        key: Option<&str>,
        network: Option<&str>,
        route: &str,
    ) -> Result<Vendor, Error> {
        let Some(key) = key else {
            let message =
                "API key missing. Send it as X-API-Key: KEY, or Authorization: Bearer KEY";
            return Err(Error::new(Kind::Unauthorized, "invalid-api-key", message));
        };
        let parts = &self.parts;
        match parts.find(key, network).await? {
            Some((prefix, known)) => {
                parts.uses.called(prefix, route);
                let allowed = parts.allow(prefix, &known, network).await;
                if allowed.is_err() {
                    parts.uses.refused(prefix, route);
                }
                allowed.map(|()| Vendor {
                    id: Arc::clone(&known.vendor),
                    prefix: prefix.into(),
                    name: Arc::clone(&known.name),
                    scopes: Arc::clone(&known.scopes),
                    rate_per_min: known.rate_per_min,
                    valid_until: known.valid_until,
                    route: route.into(),
                })
            }
            None => {
                parts.uses.invalid();
                Err(parts.refuse(network).await)
            }
        }
    }

    /// Refuses a vendor whose key lacks the scope.
    pub fn require_scope(&self, vendor: &Vendor, scope: &str) -> Result<(), Error> {
        if vendor.has_scope(scope) {
            return Ok(());
        }
        self.parts.uses.refused(&vendor.prefix, &vendor.route);
        // A name that the vendor has sent is not repeated: only those that it has.
        let message = format!(
            "Access denied. This API key lacks the scope that was asked for. Its scopes: {}",
            vendor.scopes.join(", ")
        );
        Err(Error::new(Kind::Forbidden, "scope-missing", message))
    }

    /// A vendor's own key.
    pub async fn own(&self, vendor: &Vendor, scope: Option<&str>) -> Result<OwnVendorKey, Error> {
        if let Some(scope) = scope {
            self.require_scope(vendor, scope)?;
        }
        let store = &self.parts.store;
        let (calls, refused) = within(store.vendor_key_uses_today(&vendor.prefix)).await?;
        Ok(OwnVendorKey {
            prefix: vendor.prefix.to_string(),
            name: vendor.name.to_string(),
            scopes: vendor.scopes.to_vec(),
            rate_per_min: vendor.rate_per_min,
            valid_until: vendor.valid_until,
            calls_today: calls.unsigned_abs(),
            refused_today: refused.unsigned_abs(),
        })
    }
}

impl VendorParts {
    /// The key in Postgres that this is, whether or not it may be used.
    async fn find<'k>(
        &self,
        key: &'k str,
        network: Option<&str>,
    ) -> Result<Option<(&'k str, Arc<KnownKey>)>, Error> {
        let Some(prefix) = prefix_of(key) else {
            self.refuse_while_waiting(network).await?;
            return Ok(None);
        };
        let shown = hash(key);
        let remembered = self.known.get(&prefix.to_owned());
        if let Some(known) = remembered.filter(|known| known.is_genuine(&shown)) {
            return Ok(Some((prefix, known)));
        }
        if !self.right.lock().contains(&shown) {
            self.refuse_while_waiting(network).await?;
        }
        let (drops, asked) = (self.known.drops(), Instant::now());
        let Some(row) = within(self.store.vendor_key_check(prefix)).await? else {
            return Ok(None);
        };
        let known = Arc::new(KnownKey::new(row, asked));
        if !known.is_genuine(&shown) {
            return Ok(None);
        }
        self.known.put(prefix.to_owned(), &known, drops);
        let mut right = self.right.lock();
        if right.len() >= MOST_REMEMBERED {
            right.clear();
        }
        right.insert(shown);
        Ok(Some((prefix, known)))
    }

    async fn allow(
        &self,
        prefix: &str,
        known: &KnownKey,
        network: Option<&str>,
    ) -> Result<(), Error> {
        if !known.can_be_used() {
            return Err(self.refuse(network).await);
        }
        let class = Class {
            name: "vendor",
            what: "requests with this API key",
            count: known.rate_per_min,
            window: Duration::from_secs(60),
        };
        // Without Redis, vendors go on, and this host counts alone.
        let taken = self.limits.take_here_without_redis(&class, prefix);
        taken.await.map(drop)
    }

    async fn refuse_while_waiting(&self, network: Option<&str>) -> Result<(), Error> {
        match network {
            Some(network) => self.limits.refuse_while_waiting(&WRONG_KEYS, network).await,
            None => Ok(()),
        }
    }

    /// Counts a wrong key.
    async fn refuse(&self, network: Option<&str>) -> Error {
        if let Some(network) = network {
            // Without Redis nothing is counted, and the answer is the same.
            self.limits.failed(&WRONG_KEYS, network).await.ok();
        }
        invalid_key()
    }

    /// This process has changed a key itself: its own next request must see it.
    pub(super) fn key_changed(&self, prefix: &str) {
        self.known.drop_those(|known, _| known == prefix);
    }
}

impl Follower for VendorParts {
    fn asked(&self) -> Asked {
        self.known.asked()
    }

    fn set_hears(&self, hears: bool) {
        self.known.set_hears(hears);
    }

    fn changed(&self, change: &IdentityChange) {
        match change {
            IdentityChange::VendorKey(prefix) => self.key_changed(prefix),
            IdentityChange::All => self.known.drop_those(|_, _| true),
            _ => {}
        }
    }
}
