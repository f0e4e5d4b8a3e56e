//! Routes of audit trails and their entries.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use patchbay_api::answer::{Media, Page, Success};
use patchbay_api::audit::{
    AcceptedGap, AdoptedTrail, AuditAcceptGap, AuditAdopt, AuditAnchors, AuditEntries, AuditEntry,
    AuditExpire, AuditExport, AuditImport, AuditProtection, AuditReport, AuditRetentionList,
    AuditRetentionReset, AuditRetentionSet, AuditTrail, AuditTrailsInstall, AuditTrailsList,
    AuditTrailsRemove, AuditTrailsSet, AuditTrailsShow, AuditVerify, EntriesCsv, ExpiredEntries,
    Imported, InstalledTrail, LedgerProtection, TrailRetention,
};
use patchbay_api::body::Json;
use patchbay_api::trails::{TrailsEntries, TrailsExport};
use patchbay_app::audit::{Audit, EntriesFile};
use patchbay_app::{Caller, Error};
use patchbay_model::audit_chain::Anchor;

use crate::error::ApiError;
use crate::routes::{Ask, CallerExtractor, Routes};
use crate::user_login::{From, SignedIn};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(entries)
        .add(trails)
        .add(show_trail)
        .add(set_trail)
        .add(install_trail)
        .add(remove_trail)
        .add(adopt)
        .add_raw::<TrailsEntries, _>(entries_for)
        .add_raw::<TrailsExport, _>(export_for)
        .add_raw::<AuditExport, _>(export)
        .add(verify)
        .add(anchors)
        .add(accept_gap)
        .add(retention)
        .add(set_retention)
        .add(reset_retention)
        .add(expire)
        .add(import)
        .add(protection)
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

async fn show_trail(
    audit: Audit,
    _: Caller,
    ask: Ask<AuditTrailsShow>,
) -> Result<AuditTrail, Error> {
    audit.trail(&ask.path.trail).await
}

async fn install_trail(
    audit: Audit,
    who: Caller,
    ask: Ask<AuditTrailsInstall>,
) -> Result<InstalledTrail, Error> {
    let Json(pack) = ask.body;
    audit.install_trail(&who, pack).await
}

async fn adopt(audit: Audit, who: Caller, ask: Ask<AuditAdopt>) -> Result<AdoptedTrail, Error> {
    audit.adopt(&who, &ask.path.trail).await
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

async fn export(
    State(audit): State<Audit>,
    CallerExtractor(who): CallerExtractor,
    ask: Ask<AuditExport>,
) -> Result<Response, ApiError> {
    Ok(download(audit.export(&who, ask.query).await?))
}

fn download(file: EntriesFile) -> Response {
    let headers = [
        (CONTENT_TYPE, EntriesCsv::TYPE.to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{}\"", file.name),
        ),
    ];
    (headers, Body::from_stream(file.lines)).into_response()
}

async fn entries_for(
    State(audit): State<Audit>,
    SignedIn(who): SignedIn,
    From(visitor): From,
    ask: Ask<TrailsEntries>,
) -> Result<Response, ApiError> {
    let read = audit.entries_for(&who, &visitor, &ask.path.trail, ask.query);
    let page: Success<Vec<AuditEntry>> = read.await?.into();
    Ok(axum::Json(page).into_response())
}

async fn export_for(
    State(audit): State<Audit>,
    SignedIn(who): SignedIn,
    From(visitor): From,
    ask: Ask<TrailsExport>,
) -> Result<Response, ApiError> {
    let begun = audit.export_for(&who, &visitor, &ask.path.trail, ask.query);
    Ok(download(begun.await?))
}

async fn verify(audit: Audit, who: Caller, ask: Ask<AuditVerify>) -> Result<AuditReport, Error> {
    let Json(asked) = ask.body;
    audit.verify(&who, asked).await
}

async fn anchors(audit: Audit, _: Caller, _: Ask<AuditAnchors>) -> Result<Vec<Anchor>, Error> {
    audit.anchors().await
}

async fn accept_gap(
    audit: Audit,
    who: Caller,
    ask: Ask<AuditAcceptGap>,
) -> Result<AcceptedGap, Error> {
    audit.accept_gap(&who, &ask.path.trail).await
}

async fn retention(
    audit: Audit,
    _: Caller,
    _: Ask<AuditRetentionList>,
) -> Result<Vec<TrailRetention>, Error> {
    audit.retention().await
}

async fn set_retention(
    audit: Audit,
    who: Caller,
    ask: Ask<AuditRetentionSet>,
) -> Result<(), Error> {
    let Json(change) = ask.body;
    audit
        .set_retention(&who, &ask.path.trail, change.keep_days)
        .await
}

async fn reset_retention(
    audit: Audit,
    who: Caller,
    ask: Ask<AuditRetentionReset>,
) -> Result<(), Error> {
    audit.reset_retention(&who, &ask.path.trail).await
}

async fn expire(audit: Audit, who: Caller, ask: Ask<AuditExpire>) -> Result<ExpiredEntries, Error> {
    audit.expire(&who, &ask.path.trail).await
}

async fn import(audit: Audit, who: Caller, ask: Ask<AuditImport>) -> Result<Imported, Error> {
    let Json(asked) = ask.body;
    audit.import(&who, &ask.path.trail, asked).await
}

async fn protection(
    audit: Audit,
    _: Caller,
    _: Ask<AuditProtection>,
) -> Result<LedgerProtection, Error> {
    audit.protection().await
}
