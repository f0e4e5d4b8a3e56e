//! What a guest may reach, and nothing else: egress, mail, key-value, other queues, secrets, its job's log and progress.
//!
//! Deny by default: a capability works only as far as the manifest asks for it and an operator has granted it. Nothing here ever traps a guest or shows it a
//! credential; what is refused is an ordinary error value with the reason.

mod breaker;
mod call;
mod egress;
mod grants;
mod job_output;
mod leak;
mod mail;
mod secret;

pub use breaker::{Breaker, BreakerState, BreakerView, Breakers, Refused};
pub use call::{Call, GuestCall, Services};
pub use egress::{Certificates, Egress, EgressConfig, EgressError};
pub use grants::GrantUses;
pub use mail::{MailConfig, MailError, MailTls, MailTransport};
pub use secret::{SecretSource, SecretValue};
