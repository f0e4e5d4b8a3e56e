//! One archive with what somebody needs who looks into an incident elsewhere, and nothing that must not leave.
//!
//! Owns the archive (`archive`) and what a host puts into it (`collect`); the rules for words are `patchbay_telemetry`'s. What cannot be had
//! is named in the archive with the reason: half a picture is better than none, and must not look whole.

mod archive;
mod collect;

pub use self::archive::{BundleFile, Entry, Title, archive, contents};
pub use self::collect::{Incident, Packed, Sources};
