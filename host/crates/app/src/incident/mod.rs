//! Incident bundles: one archive for somebody who examines an incident elsewhere, without anything
//! that must not leave the host.
//!
//! Owns the archive (`archive`) and what a host puts into it (`collect`). The rules for redacting
//! texts are in `patchbay_telemetry`. Missing files are listed with the reason: an incomplete
//! bundle is better than none, but must not look complete.

mod archive;
mod collect;

pub use self::archive::{BundleFile, Entry, Title, archive, contents};
pub use self::collect::{Incident, Packed, Sources};
