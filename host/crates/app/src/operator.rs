//! Who acts on a request for operators, and what that one may do.

use std::sync::Arc;

use patchbay_api::operation::Operation;
use patchbay_model::operator::{OperatorRole, Reach, Scope};
use uuid::Uuid;

use crate::error::{Error, Kind};

/// Groups of operations that no token opens, wholly or where they give rights to people.
const NEVER_BY_TOKEN: [&str; 2] = ["operators", "people"];

/// Whether no token with this scope could ever use it.
pub(crate) fn is_never_opened(scope: &Scope) -> bool {
    is_closed_to_tokens(&scope.group, scope.reach)
}

fn is_closed_to_tokens(group: &str, reach: Reach) -> bool {
    NEVER_BY_TOKEN.contains(&group) && (reach == Reach::Owner || group == "operators")
}

/// Who acts, as of now.
#[derive(Debug, Clone)]
pub struct Operator {
    /// What is recorded of everything that is done.
    pub name: Arc<str>,
    /// The row; absent for the login of the configuration, and for accounts of API clients.
    pub id: Option<Uuid>,
    pub credential: Credential,
    pub role: OperatorRole,
    /// May see data, results and logs of jobs.
    pub may_see_data: bool,
}

/// By what somebody was recognised.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Name and password of the configuration.
    Basic,
    Session(Uuid),
    Token {
        /// The 8 characters after `pbt_`.
        id: String,
        name: String,
        scopes: Vec<Scope>,
    },
    /// The access token of an account of API clients.
    Account,
}

impl Operator {
    /// The login of the configuration: it may do everything.
    pub fn of_configuration(name: &str) -> Self {
        Self {
            name: name.into(),
            id: None,
            credential: Credential::Basic,
            role: OperatorRole::Owner,
            may_see_data: true,
        }
    }

    /// An account with the role admin, for the few operations that it shares with operators.
    pub fn of_account(id: &str) -> Self {
        Self {
            name: format!("user {id}").into(),
            id: None,
            credential: Credential::Account,
            role: OperatorRole::Operator,
            may_see_data: true,
        }
    }

    /// `session`, `token` or `basic`, for whoever asks who they are.
    pub fn credential_kind(&self) -> &'static str {
        match self.credential {
            Credential::Basic => "basic",
            Credential::Session(_) => "session",
            Credential::Token { .. } => "token",
            Credential::Account => "account",
        }
    }

    /// Refuses an operation that asks for more than this one may.
    pub fn refuse(&self, operation: &Operation) -> Result<(), Error> {
        let Some(needed) = operation.access.role() else {
            return Ok(());
        };
        if let Credential::Token { name, .. } = &self.credential
            && self.role < needed
        {
            return Err(forbidden(format!(
                "This needs the role {needed}; the token {name} of {} has the role {}. If {} has it, make another token: patchbay token create \
                 NAME --role {needed}",
                self.name, self.role, self.name
            )));
        }
        if self.role < needed {
            return Err(forbidden(format!(
                "This needs the role {needed}; {} has the role {}. An owner can change that: patchbay operator role {} {needed}",
                self.name, self.role, self.name
            )));
        }
        let Credential::Token { name, scopes, .. } = &self.credential else {
            return Ok(());
        };
        if operation.is_about_caller() {
            return Ok(());
        }
        let group = operation.group();
        let reach = match (needed, operation.may_change()) {
            (OperatorRole::Owner, _) => Reach::Owner,
            (_, true) => Reach::Write,
            (_, false) => Reach::Read,
        };
        if is_closed_to_tokens(&group, reach) {
            return Err(forbidden(format!(
                "No token may do this: operators and roles of accounts are for people. Log in: patchbay login (the request came with the token {name})"
            )));
        }
        if !scopes.iter().any(|scope| scope.opens(&group, reach)) {
            let scope = Scope { group, reach };
            return Err(forbidden(format!(
                "The token {name} lacks the scope {scope}. Make one that has it: patchbay token create NAME --scope {scope}"
            )));
        }
        Ok(())
    }

    /// Refuses to show, or to tell anything of, data of jobs.
    pub fn refuse_data(&self, what: &str) -> Result<(), Error> {
        if self.may_see_data {
            return Ok(());
        }
        let message = format!(
            "{} may not see data of jobs, and {what}. An owner can allow it: patchbay operator data {} on",
            self.name, self.name
        );
        Err(Error::new(Kind::Forbidden, "data-hidden", message))
    }
}

fn forbidden(message: String) -> Error {
    Error::new(Kind::Forbidden, "forbidden", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(id: &str) -> &'static Operation {
        patchbay_api::operations()
            .find(|operation| operation.id == id)
            .expect("an operation")
    }

    fn with(role: OperatorRole, scopes: &[&str]) -> Operator {
        let scopes = scopes
            .iter()
            .map(|text| Scope::parse(text).expect("a scope"))
            .collect::<Vec<_>>();
        Operator {
            name: "ada".into(),
            id: None,
            credential: match scopes.is_empty() {
                true => Credential::Session(Uuid::nil()),
                false => Credential::Token {
                    id: "abcdefgh".to_owned(),
                    name: "ci".to_owned(),
                    scopes,
                },
            },
            role,
            may_see_data: false,
        }
    }

    #[test]
    fn a_role_opens_what_asks_for_no_more() {
        let may = |role, id| with(role, &[]).refuse(operation(id)).is_ok();
        assert!(may(OperatorRole::Viewer, "queues.list"));
        assert!(!may(OperatorRole::Viewer, "queues.pause"));
        assert!(may(OperatorRole::Operator, "queues.pause"));
        assert!(!may(OperatorRole::Operator, "secrets.set"));
        assert!(may(OperatorRole::Owner, "secrets.set"));
        let refused = with(OperatorRole::Viewer, &[]).refuse(operation("queues.pause"));
        let error = refused.expect_err("refused");
        assert!(error.message.contains("operator") && error.message.contains("viewer"));
    }

    #[test]
    fn a_token_opens_what_its_scopes_name_and_never_gives_rights_to_people() {
        let may = |scopes: &[&str], id| {
            with(OperatorRole::Owner, scopes)
                .refuse(operation(id))
                .is_ok()
        };
        assert!(may(&["queues:read"], "queues.list"));
        assert!(may(&["queues:read"], "jobs.list"));
        assert!(!may(&["queues:read"], "queues.pause"));
        assert!(may(&["queues:write"], "queues.pause"));
        assert!(!may(&["all:write"], "secrets.set"));
        assert!(may(&["owner:secrets"], "secrets.set"));
        assert!(!may(&["owner:operators"], "operators.create"));
        assert!(!may(&["owner:operators"], "operator_tokens.create"));
        assert!(!may(&["owner:people"], "people.set_role"));
        assert!(may(&["people:write"], "people.block"));
        assert!(may(&["metrics:read"], "operator_session.show"), "whoami");
    }
}
