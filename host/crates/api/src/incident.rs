//! The incident bundle: one archive for somebody who looks into an incident elsewhere.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::answer::{File, Media};
use crate::body::NoBody;
use crate::operations;

operations! {
    /// Everything that helps to understand an incident, as one `.tar.gz`; what cannot be had just now is named in it with the reason.
    IncidentBundle = "incident.bundle": GET "/api/admin/incident" ((), IncidentQuery, NoBody) -> File<Bundle>,
        Operator, Reads, audit "incident.bundle", errors [];
}

/// How far back the bundle looks.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct IncidentQuery {
    /// How far back failures and actions go, in seconds, at most 2592000 (30 days); 3600.
    #[param(minimum = 1, maximum = 2592000)]
    pub since_s: Option<u64>,
}

/// The archive.
#[derive(Debug)]
pub enum Bundle {}

impl Media for Bundle {
    const TYPE: &'static str = "application/gzip";
    const ABOUT: &'static str = "the archive";
}
