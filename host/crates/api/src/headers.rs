//! HTTP headers specific to Patchbay.

use http::HeaderName;

/// Request header of an upload: where the file comes from.
pub const SOURCE: HeaderName = HeaderName::from_static("x-patchbay-source");
/// `json`, `bytes`, `relay` or `empty`: the kind of a plugin's answer. Absent if the host itself
/// answers.
pub const ANSWER: HeaderName = HeaderName::from_static("x-patchbay-answer");
/// The status that the plugin chose for an HTTP route.
pub const STATUS: HeaderName = HeaderName::from_static("x-patchbay-status");
