//! Routes of vendors' keys: for administrators, and for a vendor to try its own.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use patchbay_api::answer::{Page, Success};
use patchbay_api::vendor_keys::*;
use patchbay_app::vendor_keys::VendorKeys;
use patchbay_app::{Caller, Error};

use crate::error::ApiError;
use crate::routes::{Ask, Routes};
use crate::vendor_login::OfVendor;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(list)
        .add(show)
        .add(issue)
        .add(rotate)
        .add(disable)
        .add(enable)
        .add(revoke)
        .add(edit)
        .add_raw::<VendorKeysOwn, _>(own)
}

async fn list(
    keys: VendorKeys,
    _: Caller,
    ask: Ask<VendorKeysList>,
) -> Result<Page<VendorKey>, Error> {
    keys.list(ask.query).await
}

async fn show(
    keys: VendorKeys,
    _: Caller,
    ask: Ask<VendorKeysShow>,
) -> Result<VendorKeyDetails, Error> {
    keys.show(&ask.path.key).await
}

async fn issue(
    keys: VendorKeys,
    who: Caller,
    ask: Ask<VendorKeysIssue>,
) -> Result<IssuedVendorKey, Error> {
    keys.issue(&who, ask.body.0).await
}

async fn rotate(
    keys: VendorKeys,
    who: Caller,
    ask: Ask<VendorKeysRotate>,
) -> Result<IssuedVendorKey, Error> {
    keys.rotate(&who, &ask.path.key, ask.body.0).await
}

async fn disable(
    keys: VendorKeys,
    who: Caller,
    ask: Ask<VendorKeysDisable>,
) -> Result<VendorKey, Error> {
    keys.disable(&who, &ask.path.key).await
}

async fn enable(
    keys: VendorKeys,
    who: Caller,
    ask: Ask<VendorKeysEnable>,
) -> Result<VendorKey, Error> {
    keys.enable(&who, &ask.path.key).await
}

async fn revoke(
    keys: VendorKeys,
    who: Caller,
    ask: Ask<VendorKeysRevoke>,
) -> Result<VendorKey, Error> {
    keys.revoke(&who, &ask.path.key).await
}

async fn edit(keys: VendorKeys, who: Caller, ask: Ask<VendorKeysEdit>) -> Result<VendorKey, Error> {
    keys.edit(&who, &ask.path.key, ask.body.0).await
}

async fn own(
    State(keys): State<VendorKeys>,
    OfVendor(vendor): OfVendor,
    ask: Ask<VendorKeysOwn>,
) -> Response {
    match keys.own(&vendor, ask.query.scope.as_deref()).await {
        Ok(own) => axum::Json(Success::<OwnVendorKey>::from(own)).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}
