//! Keys of vendors: programs of partners that call the API with a key of their own. Here are the
//! keys, their scopes, limits and numbers; what a vendor gets by them is the business of routes.

mod access;
mod administration;
mod secret;
mod uses;

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use patchbay_store::Store;

pub use access::Vendor;
pub use uses::meter;

use crate::Parts;
use crate::actions::Actions;
use crate::limits::Limits;
use crate::remembered::Remembered;
use access::KnownKey;
use uses::Uses;

/// What all requests with keys share.
pub(crate) struct VendorParts {
    store: Store,
    limits: Limits,
    known: Remembered<String, KnownKey>,
    /// Hashes of keys that were right.
    right: Mutex<HashSet<[u8; 32]>>,
    uses: Uses,
}

impl VendorParts {
    pub(crate) fn new(store: Store, limits: Limits) -> Self {
        Self {
            store,
            limits,
            known: Remembered::default(),
            right: Mutex::default(),
            uses: Uses::default(),
        }
    }

    /// Requests with keys since the start of the process, by what came of them.
    pub(crate) fn results(&self) -> [(&'static str, u64); 3] {
        self.uses.results()
    }
}

#[derive(Clone)]
pub struct VendorKeys {
    parts: Arc<VendorParts>,
    actions: Actions,
}

impl VendorKeys {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            parts: Arc::clone(&parts.vendors),
            actions: parts.actions.clone(),
        }
    }
}
