//! Accounts of API clients that a guest proposes. The host makes them, as plain users without a
//! password; what a guest may say of one is its address, a name and a telephone number.

use async_trait::async_trait;
use patchbay_model::PluginName;
use patchbay_model::capability::CapabilityError;
use patchbay_model::grant::Ask;
use patchbay_model::manifest::Manifest;
use tracing::Instrument;

use crate::HostCall;
use crate::call::{Denied, Gate};
use crate::guest::{Answer, Guest, error};

/// Longest value of each field, in bytes.
const MAX_FIELD_BYTES: usize = 1_024;

/// What a guest says of an account.
#[derive(Debug, Clone)]
pub struct AccountProposal {
    pub email: String,
    pub name: Option<String>,
    pub phone: Option<String>,
}

/// The account with the address of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposedAccount {
    pub id: String,
    /// Made by this proposal.
    pub is_new: bool,
}

/// Makes accounts.
#[async_trait]
pub trait AccountProposals: Send + Sync + 'static {
    /// An account with the role of plain users, without a password and not verified, unless there is
    /// one with this address, which stays as it is. One more than `max_per_day` new ones of this
    /// plugin within 24 hours is refused.
    async fn propose(
        &self,
        plugin: &PluginName,
        proposal: AccountProposal,
        max_per_day: u32,
    ) -> Result<ProposedAccount, CapabilityError>;
}

pub(crate) fn is_asked_for_by(manifest: &Manifest) -> bool {
    manifest.accounts.is_some()
}

async fn propose(
    gate: Gate,
    proposal: AccountProposal,
) -> Result<ProposedAccount, CapabilityError> {
    gate.not_in_transaction()?;
    let call = gate.call();
    let spec = call.manifest.accounts.as_ref();
    let spec = spec.ok_or_else(|| Denied("the manifest has no [accounts]".into()))?;
    gate.granted(Ask::accounts(spec))?;
    let fields = [
        ("email", Some(&proposal.email)),
        ("name", proposal.name.as_ref()),
        ("phone", proposal.phone.as_ref()),
    ];
    for (field, value) in fields {
        if value.is_some_and(|value| value.len() > MAX_FIELD_BYTES) {
            return Err(CapabilityError::invalid(format!(
                "{field} must have at most {MAX_FIELD_BYTES} bytes"
            )));
        }
    }
    let accounts = &gate.services().made.accounts;
    accounts
        .propose(&call.manifest.name, proposal, spec.max_per_day())
        .instrument(call.span.clone())
        .await
}

macro_rules! bind {
    ($version:ident) => {
        mod $version {
            use super::*;
            use patchbay_runtime::wit::$version::accounts::{Account, Host, Proposal};

            impl Host for Guest<'_> {
                async fn propose(&mut self, proposal: Proposal) -> Answer<Account> {
                    let proposal = AccountProposal {
                        email: proposal.email,
                        name: proposal.name,
                        phone: proposal.phone,
                    };
                    let propose = |gate| propose(gate, proposal);
                    let proposed = self.through(HostCall::Accounts, propose).await?;
                    Ok(proposed
                        .map(|account| Account {
                            id: account.id,
                            is_new: account.is_new,
                        })
                        .map_err(error))
                }
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
