//! Accounts that plugins propose. They are plain users without a password, and not verified: whoever
//! reads the mails of the address claims one by signing up, as for any other account.

use async_trait::async_trait;
use patchbay_capability::{AccountProposal, AccountProposals, ProposedAccount};
use patchbay_model::PluginName;
use patchbay_model::capability::CapabilityError;
use patchbay_store::{Store, UsersTable};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use super::{address, within};
use crate::error::for_guests;

/// As the old backend's columns take them, in characters.
const MAX_NAME: usize = 255;
const MAX_PHONE: usize = 20;

/// Makes accounts in the table of the configuration.
pub struct Proposals {
    store: Store,
    /// Absent where this host serves no accounts: the name of the table, and the column by which the
    /// old backend blocks accounts.
    accounts: Option<(String, Option<String>)>,
    table: OnceCell<UsersTable>,
}

impl Proposals {
    /// `accounts`: the table as `schema.table`, and the column that blocks; nothing where the host
    /// serves no accounts.
    pub fn new(store: Store, accounts: Option<(String, Option<String>)>) -> Self {
        Self {
            store,
            accounts,
            table: OnceCell::new(),
        }
    }
}

/// The proposal's address in its one spelling, and columns of the account. An error names the field,
/// never its value.
fn columns(proposal: &AccountProposal) -> Result<(String, Map<String, Value>), CapabilityError> {
    let norm = address::norm(&proposal.email)
        .ok_or_else(|| CapabilityError::invalid("email: must be a mail address"))?;
    let mut values = Map::new();
    for (field, column, most, text) in [
        ("name", "fullName", MAX_NAME, &proposal.name),
        ("phone", "phone", MAX_PHONE, &proposal.phone),
    ] {
        let Some(text) = text
            .as_deref()
            .map(str::trim)
            .filter(|text| !text.is_empty())
        else {
            continue;
        };
        if text.chars().count() > most || text.chars().any(char::is_control) {
            return Err(CapabilityError::invalid(format!(
                "{field}: must be one line of at most {most} characters"
            )));
        }
        values.insert(column.into(), text.into());
    }
    Ok((norm, values))
}

#[async_trait]
impl AccountProposals for Proposals {
    async fn propose(
        &self,
        plugin: &PluginName,
        proposal: AccountProposal,
        max_per_day: u32,
    ) -> Result<ProposedAccount, CapabilityError> {
        let Some((name, blocked)) = &self.accounts else {
            return Err(CapabilityError {
                code: "not-configured",
                message: "this host serves no accounts (people.enabled)".into(),
                retryable: false,
            });
        };
        let (norm, mut values) = columns(&proposal)?;
        let read = || within(self.store.users_table(name, blocked.as_deref()));
        let table = self.table.get_or_try_init(read).await.map_err(for_guests)?;
        values.insert("role".into(), table.spelling("role", "user").into());
        values.insert("stage".into(), table.stage(1).into());
        values.insert("isVerified".into(), "false".into());
        values.insert("isProfileComplete".into(), "false".into());
        let proposed = self
            .store
            .propose_user(table, plugin, &norm, &values, max_per_day);
        let (id, is_new) = within(proposed).await.map_err(for_guests)?;
        Ok(ProposedAccount { id, is_new })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposal_has_one_address_and_short_texts_and_nothing_else_becomes_a_column() {
        let proposal = |email: &str, name: &str, phone: &str| AccountProposal {
            email: email.into(),
            name: Some(name.into()),
            phone: Some(phone.into()),
        };
        let (norm, values) =
            columns(&proposal(" Ann@Example.com ", " Ann ", "")).expect("a proposal");
        assert_eq!(norm, "ann@example.com");
        assert_eq!(
            Value::Object(values),
            serde_json::json!({ "fullName": "Ann" })
        );
        for (wrong, field) in [
            (proposal("nobody", "A", "1"), "email"),
            (proposal("a@example.com, b@example.com", "A", "1"), "email"),
            (proposal("a@example.com", "A\nB", "1"), "name"),
            (proposal("a@example.com", &"A".repeat(256), "1"), "name"),
            (proposal("a@example.com", "A", &"1".repeat(21)), "phone"),
        ] {
            let error = columns(&wrong).expect_err("refused");
            assert!(
                error.code == "invalid" && error.message.starts_with(field),
                "{field}"
            );
        }
    }
}
