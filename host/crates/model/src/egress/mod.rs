//! Which outbound requests a manifest allows: pure rules, no network.
//!
//! [`Target`] is a URL in the one spelling that is matched and sent; [`UrlPattern`] says what it covers; [`EgressRule`] is a manifest's
//! entry. Among the rules that cover a request, the one with the longest literal prefix wins; ties are refused with the manifest.

mod pattern;
mod rule;
mod target;

pub use pattern::{PatternError, UrlPattern};
pub(crate) use rule::check;
pub use rule::{EgressAuth, EgressRule, breakers};
pub use target::{Target, TargetError};
