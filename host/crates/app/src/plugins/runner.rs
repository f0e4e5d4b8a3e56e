//! What answers the requests of a plugin's routes and webhooks, or why nothing does.

use std::sync::Arc;

use patchbay_runtime::Revision;

/// What answers the requests of a route.
#[derive(Clone)]
pub enum Runner {
    Revision(Arc<Revision>),
    /// The plugin crashed too often. It has the time when the quarantine began.
    Quarantined(String),
    /// The revision cannot run on this host, for this reason.
    NotLoaded(String),
    /// An operator has stopped the plugin at this time.
    Deactivated(String),
}

impl Runner {
    /// `active`, `quarantined`, `not loaded` or `deactivated`.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Revision(_) => "active",
            Self::Quarantined(_) => "quarantined",
            Self::NotLoaded(_) => "not loaded",
            Self::Deactivated(_) => "deactivated",
        }
    }

    /// Why nothing answers, in words; `None` where the revision does.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Revision(_) => None,
            Self::Quarantined(since) => {
                Some(format!("The plugin has been quarantined since {since}"))
            }
            Self::NotLoaded(reason) => Some(reason.clone()),
            Self::Deactivated(since) => {
                Some(format!("The plugin has been deactivated since {since}"))
            }
        }
    }

    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Revision(a), Self::Revision(b)) => Arc::ptr_eq(a, b),
            (Self::Quarantined(a), Self::Quarantined(b))
            | (Self::NotLoaded(a), Self::NotLoaded(b))
            | (Self::Deactivated(a), Self::Deactivated(b)) => a == b,
            _ => false,
        }
    }
}
