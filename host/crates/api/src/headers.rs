//! Headers of our own.

use http::HeaderName;

/// Of an upload: where it is from.
pub const SOURCE: HeaderName = HeaderName::from_static("x-patchbay-source");
/// `json`, `bytes`, `relay` or `empty`: it is a plugin that answers, and not the host.
pub const ANSWER: HeaderName = HeaderName::from_static("x-patchbay-answer");
/// The status that the plugin chose for an HTTP route.
pub const STATUS: HeaderName = HeaderName::from_static("x-patchbay-status");
