//! Keys of vendors: programs of partners that call the API with a key of their own.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List};
use crate::body::{Json, NoBody};
use crate::operation::NoQuery;
use crate::secrets::SecretText;
use crate::{operations, path_params};

path_params! {
    /// A key of a vendor.
    VendorKeyPath {
        /// The 12 characters of the key between `vk_live_` and the point
        key: String,
    }
}

operations! {
    /// List keys of vendors, the newest first. The keys themselves are never shown.
    VendorKeysList = "vendor_keys.list": GET "/api/admin/vendor-keys" ((), VendorKeysQuery, NoBody) -> List<VendorKey>,
        AdminOrViewer, Reads, errors [];
    /// Show a key of a vendor, and how often it was used on each of the last 30 days.
    VendorKeysShow = "vendor_keys.show": GET "/api/admin/vendor-keys/{key}" (VendorKeyPath, NoQuery, NoBody) -> Data<VendorKeyDetails>,
        AdminOrViewer, Reads, errors [];
    /// Issue a key to a vendor. The answer has the whole key, which is never shown again.
    VendorKeysIssue = "vendor_keys.issue": POST "/api/admin/vendor-keys" ((), NoQuery, Json<NewVendorKey>) -> Data<IssuedVendorKey>,
        AdminOrOwner, Changes, audit "vendor-key.issue", errors [];
    /// Issue a key in the place of another one, with the same name, scopes and limits. The other one
    /// goes on for a while, so that the vendor can change over.
    VendorKeysRotate = "vendor_keys.rotate": POST "/api/admin/vendor-keys/{key}/rotate" (VendorKeyPath, NoQuery, Json<VendorKeyRotation>) -> Data<IssuedVendorKey>,
        AdminOrOwner, Changes, audit "vendor-key.rotate", errors [409 "`conflict`: the key was replaced, is switched off, or is over"];
    /// Switch a key off until it is enabled again. One that is off stays as it is.
    VendorKeysDisable = "vendor_keys.disable": POST "/api/admin/vendor-keys/{key}/disable" (VendorKeyPath, NoQuery, NoBody) -> Data<VendorKey>,
        AdminOrOwner, Changes, audit "vendor-key.disable", errors [409 "`conflict`: the key can never be used again"];
    /// Switch a key on that was disabled. One that is on stays as it is.
    VendorKeysEnable = "vendor_keys.enable": POST "/api/admin/vendor-keys/{key}/enable" (VendorKeyPath, NoQuery, NoBody) -> Data<VendorKey>,
        AdminOrOwner, Changes, audit "vendor-key.enable", errors [409 "`conflict`: the key can never be used again"];
    /// Revoke a key for good. One that was revoked stays as it is.
    VendorKeysRevoke = "vendor_keys.revoke": POST "/api/admin/vendor-keys/{key}/revoke" (VendorKeyPath, NoQuery, NoBody) -> Data<VendorKey>,
        AdminOrOwner, Destroys("ends the key for good"), audit "vendor-key.revoke", errors [];
    /// Change the name, the scopes, the limit or the contact of a key. Its next request has them.
    VendorKeysEdit = "vendor_keys.edit": PATCH "/api/admin/vendor-keys/{key}" (VendorKeyPath, NoQuery, Json<VendorKeyChange>) -> Data<VendorKey>,
        AdminOrOwner, Changes, audit "vendor-key.edit", errors [];
    /// Show a vendor its own key: to try the key, or whether it has a scope.
    VendorKeysOwn = "vendor_keys.own": GET "/api/vendor/key" ((), OwnVendorKeyQuery, NoBody) -> Data<OwnVendorKey>,
        Vendor, Reads, errors [
            401 "`invalid-api-key`: no key was sent, or it is unknown, switched off, revoked or over",
            403 "`scope-missing`: the key lacks the scope that `scope` names",
        ];
}

/// Which keys to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct VendorKeysQuery {
    /// Only keys that can never be used again (revoked, expired, replaced), or only others.
    pub over: Option<bool>,
    /// Part of the name or of the contact, in any case.
    pub text: Option<String>,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// Keys per page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// A key of a vendor, as administrators see it. The key itself is not in it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VendorKey {
    /// Names the key: its 12 characters between `vk_live_` and the point.
    pub prefix: String,
    /// Whose key it is, and what for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Who looks after the vendor.
    pub assigned_to: Option<String>,
    /// Most requests in a minute, on all hosts together.
    pub rate_per_min: u32,
    /// Whether it can be used.
    pub state: VendorKeyState,
    /// When it was issued.
    pub created_at: DateTime<Utc>,
    /// Who issued it.
    pub created_by: String,
    /// When it was changed last.
    pub changed_at: DateTime<Utc>,
    /// Who changed it last.
    pub changed_by: String,
    /// When it expires; null: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// The key that a rotation has issued in its place.
    pub replaced_by: Option<String>,
    /// Until when it goes on after a rotation.
    pub ends_at: Option<DateTime<Utc>>,
    /// When it was last used, to about 10 s.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Only in the answer of a change: nothing has changed, because it was so already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
}

/// Whether a key can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VendorKeyState {
    /// Yes.
    Active,
    /// Yes, until `endsAt`: another key was issued in its place.
    Ending,
    /// Not until it is enabled.
    Disabled,
    /// Never again.
    Revoked,
    /// Never again: `expiresAt` or `endsAt` has passed.
    Expired,
}

/// A key with its use.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct VendorKeyDetails {
    /// The key.
    pub key: VendorKey,
    /// Requests of the last 30 days, by day and route, the newest day first; at most 1,000 rows.
    pub uses: Vec<VendorKeyUse>,
}

/// Requests of one day to one route. Hosts add them up every 10 s.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct VendorKeyUse {
    /// The day, in UTC.
    pub day: NaiveDate,
    /// Method and path of the route.
    pub route: String,
    /// Requests with the key.
    pub calls: u64,
    /// Of these, those that were refused: over the limit, without the scope, or with a key that was
    /// switched off or over.
    pub refused: u64,
}

/// A key to issue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewVendorKey {
    /// Whose key it is, and what for; at most 100 characters.
    pub name: String,
    /// What it may do, as `leads:write`: 1 to 32 texts of lower-case letters, digits, `-`, `_` and
    /// at most one `:`.
    pub scopes: Vec<String>,
    /// Who looks after the vendor, such as a sales head; at most 254 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_to: Option<String>,
    /// Most requests in a minute, 1 to 60,000; default 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60000)]
    pub rate_per_min: Option<u32>,
    /// In how many milliseconds it expires, from 1,000 to 315,360,000,000 (10 years); absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

/// How to replace a key.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VendorKeyRotation {
    /// How long the present key goes on, in milliseconds: 0 to 2,592,000,000 (30 days); default
    /// 86,400,000 (a day).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_ms: Option<u64>,
}

/// What to change of a key. Absent fields stay as they are.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VendorKeyChange {
    /// As of a new key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All scopes that it has from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// As of a new key; an empty text: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_to: Option<String>,
    /// As of a new key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60000)]
    pub rate_per_min: Option<u32>,
}

/// A key that was issued.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuedVendorKey {
    /// The key, without its secret part.
    pub key: VendorKey,
    /// The whole key, to be given to the vendor. It is shown only here.
    #[schema(value_type = String)]
    pub secret: SecretText,
}

/// What a vendor asks of its own key.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
pub struct OwnVendorKeyQuery {
    /// A scope that the key must have; otherwise the answer is 403.
    pub scope: Option<String>,
}

/// A key, as its vendor sees it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnVendorKey {
    /// Names the key.
    pub prefix: String,
    /// Whose key it is.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Most requests in a minute.
    pub rate_per_min: u32,
    /// Until when it can be used; null: without an end.
    pub valid_until: Option<DateTime<Utc>>,
    /// Requests of today (UTC), up to about 10 s ago.
    pub calls_today: u64,
    /// Of these, those that were refused.
    pub refused_today: u64,
}
