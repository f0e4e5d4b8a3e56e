//! The incident bundle: one archive for people who analyse an incident elsewhere.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::answer::{File, Media};
use crate::body::NoBody;
use crate::operations;

operations! {
    /// Collect everything that helps to understand an incident into one `.tar.gz`. Parts that are
    /// unavailable are listed in it with the reason.
    IncidentBundle = "incident.bundle": GET "/api/admin/incident" ((), IncidentQuery, NoBody) -> File<Bundle>,
        Operator, Reads, audit "incident.bundle", data Shown(&[]), errors [];
}

/// How far back the bundle looks.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct IncidentQuery {
    /// Include failures and actions of this many seconds; default 3600.
    #[param(minimum = 1, maximum = 2592000)]
    pub since_s: Option<u64>,
}

/// The archive, as `.tar.gz`.
#[derive(Debug)]
pub enum Bundle {}

impl Media for Bundle {
    const TYPE: &'static str = "application/gzip";
    const ABOUT: &'static str = "the archive";
}
