//! The operator that a person at the provider is, with the rights that the person's groups give.

use patchbay_store::{NewOperator, OperatorKey, OperatorRow, OperatorSource, Provisioned};
use serde_json::json;
use uuid::Uuid;

use super::config::Rights;
use super::person::Person;
use super::{SsoParts, unknown_login};
use crate::error::Error;
use crate::people::{Visitor, forbidden, within};

/// What these operators are created by.
const MADE_BY: &str = "single sign-on";

impl SsoParts {
    /// The operator that this person is, with the rights that the groups give now.
    pub(super) async fn operator_of(
        &self,
        visitor: &Visitor,
        person: &Person,
    ) -> Result<OperatorRow, Error> {
        let rights = self.config.rights(&person.groups);
        if let Some(row) = self.known(person).await? {
            return self.following(visitor, row, rights, person).await;
        }
        let rights = rights.ok_or_else(|| self.no_role(person))?;
        self.provision(visitor, person, rights).await
    }

    pub(super) async fn known(&self, person: &Person) -> Result<Option<OperatorRow>, Error> {
        let key = OperatorKey::Identity {
            issuer: &self.config.issuer,
            subject: &person.subject,
        };
        Ok(within(self.operators.store.find_operator(key)).await?)
    }

    /// An operator who was made here, and linked a person, keeps the role that was given here.
    async fn following(
        &self,
        visitor: &Visitor,
        row: OperatorRow,
        rights: Option<Rights>,
        person: &Person,
    ) -> Result<OperatorRow, Error> {
        if row.source == OperatorSource::Local {
            return Ok(row);
        }
        let parts = &self.operators;
        let Some(rights) = rights else {
            within(parts.store.end_operator_sessions(row.id)).await?;
            parts.changed(row.id);
            return Err(self.no_role(person));
        };
        if (row.role, row.may_see_data) == (rights.role, rights.may_see_data) {
            return Ok(row);
        }
        let followed = parts
            .store
            .follow_groups(row.id, rights.role, rights.may_see_data);
        within(followed).await?;
        parts.changed(row.id);
        let details = json!({
            "role": rights.role, "roleBefore": row.role,
            "maySeeData": rights.may_see_data, "maySeeDataBefore": row.may_see_data,
        });
        parts
            .note(
                visitor,
                &row.name,
                "operator.follow-groups",
                &row.name,
                &details,
            )
            .await?;
        Ok(OperatorRow {
            role: rights.role,
            may_see_data: rights.may_see_data,
            ..row
        })
    }

    async fn provision(
        &self,
        visitor: &Visitor,
        person: &Person,
        rights: Rights,
    ) -> Result<OperatorRow, Error> {
        let parts = &self.operators;
        let names = person.names();
        for name in names.iter().filter(|name| parts.usable_name(name).is_ok()) {
            let new = NewOperator {
                id: Uuid::now_v7(),
                name,
                email: person.email.as_deref(),
                role: rights.role,
                may_see_data: rights.may_see_data,
                source: OperatorSource::Oidc,
                by: MADE_BY,
            };
            let issuer = &self.config.issuer;
            let made = parts
                .store
                .provision_operator(&new, issuer, &person.subject);
            match within(made).await? {
                Provisioned::NameTaken => {}
                Provisioned::Made(row) => {
                    let details = json!({
                        "role": rights.role, "maySeeData": rights.may_see_data,
                        "issuer": issuer, "subject": person.subject,
                    });
                    parts
                        .note(
                            visitor,
                            &row.name,
                            "operator.provision",
                            &row.name,
                            &details,
                        )
                        .await?;
                    return Ok(*row);
                }
                Provisioned::Known => {
                    let known = self.known(person).await?;
                    return known.ok_or_else(unknown_login);
                }
            }
        }
        Err(Error::conflict(format!(
            "Names like {} are all taken. An owner can create an operator for you, who links this person then: patchbay operator create NAME",
            names[0]
        )))
    }

    fn no_role(&self, person: &Person) -> Error {
        tracing::info!(
            issuer = self.config.issuer,
            subject = person.subject,
            groups = ?person.groups.iter().take(20).collect::<Vec<_>>(),
            claim = self.config.groups_claim,
            "single sign-on is refused: no group has a role in operators.oidc.roles"
        );
        let message = format!(
            "No group of yours has a role here. Your groups at {} (claim {}): {}. An owner can give one a role: operators.oidc.roles",
            self.config.label,
            self.config.groups_claim,
            shown_list(&person.groups)
        );
        forbidden("no-role", &message)
    }
}

/// Names of a provider, for people to read.
pub(super) fn shown_list(names: &[String]) -> String {
    const SHOWN: usize = 20;
    const LONGEST: usize = 80;
    if names.is_empty() {
        return "none".to_owned();
    }
    let short = |name: &String| -> String {
        let readable = name.chars().filter(|c| !c.is_control());
        readable.take(LONGEST).collect()
    };
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(short).collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_what_it_leaves_out() {
        let names: Vec<String> = (0..23).map(|n| n.to_string()).collect();
        assert!(shown_list(&names).ends_with("18, 19, and 3 more"));
        assert_eq!(shown_list(&[]), "none");
        assert_eq!(shown_list(&["a\u{1b}[31m".to_owned()]), "a[31m");
    }
}
