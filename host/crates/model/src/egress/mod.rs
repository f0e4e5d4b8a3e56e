//! Which outbound requests a manifest allows: pure rules, no network.
//!
//! [`Target`] is a normalised URL, the one that is matched and sent; [`UrlPattern`] says what it
//! covers; [`EgressRule`] is a manifest's entry. If several rules cover a request, the one with the
//! longest literal prefix wins; a manifest whose rules tie is refused.

mod credential;
mod pattern;
mod rule;
mod target;

pub use credential::CredentialPlaces;
pub use pattern::{PatternError, UrlPattern};
pub(crate) use rule::check;
pub use rule::{EgressAuth, EgressRule, breakers};
pub use target::{Target, TargetError};
