//! Routes of audit trails and their entries.

use patchbay_api::answer::Page;
use patchbay_api::audit::{
    AuditEntries, AuditEntry, AuditTrail, AuditTrailsList, AuditTrailsRemove, AuditTrailsSet,
};
use patchbay_api::body::Json;
use patchbay_app::audit::Audit;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(entries)
        .add(trails)
        .add(set_trail)
        .add(remove_trail)
}

async fn entries(
    audit: Audit,
    _: Caller,
    ask: Ask<AuditEntries>,
) -> Result<Page<AuditEntry>, Error> {
    audit.entries(ask.query).await
}

async fn trails(
    audit: Audit,
    _: Caller,
    _: Ask<AuditTrailsList>,
) -> Result<Vec<AuditTrail>, Error> {
    audit.trails().await
}

async fn set_trail(
    audit: Audit,
    who: Caller,
    ask: Ask<AuditTrailsSet>,
) -> Result<AuditTrail, Error> {
    let Json(change) = ask.body;
    audit.set_trail(&who, &ask.path.trail, change).await
}

async fn remove_trail(audit: Audit, who: Caller, ask: Ask<AuditTrailsRemove>) -> Result<(), Error> {
    audit.remove_trail(&who, &ask.path.trail).await
}
