//! What owners do with operators.

use patchbay_api::operators::{
    self as api, OperatorsCreate, OperatorsDisable, OperatorsEnable, OperatorsEndSessions,
    OperatorsLink, OperatorsSetData, OperatorsSetRole,
};
use patchbay_model::audit::{ActorKind, OPERATORS};
use patchbay_store::{NewHostEntry, NewOperator, OperatorRow, OperatorSource, OperatorState};
use serde_json::{Value, json};
use uuid::Uuid;

use super::enrolment::LINK_LIFE;
use super::{OperatorParts, Operators};
use crate::actions::Caller;
use crate::error::Error;
use crate::operator::Operator;
use crate::people::{Visitor, within};

/// Names that stand for something else where actors are recorded.
const RESERVED: [&str; 5] = ["host", "upgrade", "anonymous", "unknown", "user"];
const MAX_EMAIL: usize = 254;

impl Operators {
    /// Who the caller is, and what the caller may do.
    pub fn whoami(&self, who: &Operator) -> api::CurrentOperator {
        use super::Credential;
        let (token, scopes) = match &who.credential {
            Credential::Token { name, scopes, .. } => (
                Some(name.clone()),
                Some(scopes.iter().map(ToString::to_string).collect()),
            ),
            _ => (None, None),
        };
        api::CurrentOperator {
            name: who.name.to_string(),
            role: who.role,
            may_see_data: who.may_see_data,
            credential: who.credential_kind().to_owned(),
            token,
            scopes,
        }
    }

    /// All operators, by name.
    pub async fn list(&self) -> Result<Vec<api::OperatorView>, Error> {
        let rows = within(self.0.store.operators()).await?;
        Ok(rows.iter().map(view).collect())
    }

    /// One operator with open sessions and tokens.
    pub async fn show(&self, name: &str) -> Result<api::OperatorDetails, Error> {
        let parts = &*self.0;
        let row = parts.named(name).await?;
        let sessions = parts.store.operator_sessions(row.id, parts.sessions.idle());
        let sessions = within(sessions).await?;
        let tokens = within(parts.store.operator_tokens(Some(row.id))).await?;
        let left = within(parts.store.count_recovery_codes(row.id)).await?;
        Ok(api::OperatorDetails {
            operator: view(&row),
            recovery_codes_left: u32::try_from(left).unwrap_or_default(),
            tokens: u32::try_from(tokens.len()).unwrap_or_default(),
            sessions: sessions
                .into_iter()
                .map(|session| api::OperatorSession {
                    id: session.id,
                    method: session.method,
                    created_at: session.created_at,
                    last_seen_at: session.last_seen_at,
                    ends_at: session.ends_at,
                    address: session.address,
                    user_agent: session.user_agent,
                })
                .collect(),
        })
    }

    /// Makes an operator, with a link to set password and second factor.
    pub async fn create(
        &self,
        who: &Caller,
        body: api::NewOperator,
    ) -> Result<api::InvitedOperator, Error> {
        let parts = &*self.0;
        // The link could not be used: a second factor is sealed.
        parts.sealed.need_master_key()?;
        let name = parts.usable_name(&body.name)?;
        let email = usable_email(body.email.as_deref())?;
        let may_see_data = body.may_see_data.unwrap_or(false);
        let new = NewOperator {
            id: Uuid::now_v7(),
            name,
            email,
            role: body.role,
            may_see_data,
            source: OperatorSource::Local,
            by: &who.actor,
        };
        let act = async {
            let row = within(parts.store.add_operator(&new)).await?;
            parts.invited(&row).await
        };
        let details = json!({ "role": body.role, "maySeeData": may_see_data });
        parts
            .actions
            .record_as::<OperatorsCreate, _>(who, name, details, act, |_| json!(null))
            .await
    }

    /// Gives an operator another role; the next request has it.
    pub async fn set_role(
        &self,
        who: &Caller,
        name: &str,
        body: api::OperatorRoleChange,
    ) -> Result<api::OperatorView, Error> {
        let parts = &*self.0;
        let row = parts.named(name).await?;
        if row.source == OperatorSource::Oidc {
            return Err(Error::conflict(
                "The role of this operator comes from groups at the provider of single sign-on, at each login. Change the groups there",
            ));
        }
        let details = json!({ "role": body.role, "before": row.role });
        let act = async {
            let changed = within(parts.store.set_operator_role(row.id, body.role)).await?;
            parts.after(&row, changed).await
        };
        parts
            .actions
            .record_as::<OperatorsSetRole, _>(who, &row.name, details, act, recorded)
            .await
    }

    /// Sets whether an operator may see data of jobs.
    pub async fn set_data(
        &self,
        who: &Caller,
        name: &str,
        body: api::OperatorDataChange,
    ) -> Result<api::OperatorView, Error> {
        let parts = &*self.0;
        let row = parts.named(name).await?;
        if row.source == OperatorSource::Oidc {
            return Err(Error::conflict(
                "Whether this operator may see data comes from groups at the provider of single sign-on (operators.oidc.payload_groups), at each login. \
                 Change the groups there",
            ));
        }
        let details = json!({ "maySeeData": body.may_see_data, "before": row.may_see_data });
        let act = async {
            let set = parts
                .store
                .set_operator_sees_data(row.id, body.may_see_data);
            let changed = within(set).await?;
            parts.after(&row, changed).await
        };
        parts
            .actions
            .record_as::<OperatorsSetData, _>(who, &row.name, details, act, recorded)
            .await
    }

    /// Disables an operator: sessions, tokens and links end at once.
    pub async fn disable(&self, who: &Caller, name: &str) -> Result<api::OperatorView, Error> {
        let parts = &*self.0;
        let row = parts.named(name).await?;
        let act = async {
            let changed = within(parts.store.set_operator_enabled(row.id, false)).await?;
            parts.after(&row, changed).await
        };
        parts
            .actions
            .record_as::<OperatorsDisable, _>(who, &row.name, json!({}), act, recorded)
            .await
    }

    /// Lets a disabled operator log in again.
    pub async fn enable(&self, who: &Caller, name: &str) -> Result<api::OperatorView, Error> {
        let parts = &*self.0;
        let row = parts.named(name).await?;
        let act = async {
            let changed = within(parts.store.set_operator_enabled(row.id, true)).await?;
            parts.after(&row, changed).await
        };
        parts
            .actions
            .record_as::<OperatorsEnable, _>(who, &row.name, json!({}), act, recorded)
            .await
    }

    /// Makes a link with which an operator sets another password and second factor.
    pub async fn link(&self, who: &Caller, name: &str) -> Result<api::InvitedOperator, Error> {
        let parts = &*self.0;
        let row = parts.named(name).await?;
        if row.state == OperatorState::Disabled {
            return Err(Error::conflict(format!(
                "{name} is disabled. Enable first: patchbay operator enable {name}"
            )));
        }
        parts.sealed.need_master_key()?;
        let act = async { parts.invited(&row).await };
        parts
            .actions
            .record_as::<OperatorsLink, _>(who, &row.name, json!({}), act, |_| json!(null))
            .await
    }

    /// Ends every session of an operator.
    pub async fn end_sessions(
        &self,
        who: &Caller,
        name: &str,
    ) -> Result<api::OperatorSessionsEnded, Error> {
        let parts = &*self.0;
        let row = parts.named(name).await?;
        let act = async {
            let ended = within(parts.store.end_operator_sessions(row.id)).await?;
            parts.changed(row.id);
            Ok(api::OperatorSessionsEnded { ended })
        };
        parts
            .actions
            .record::<OperatorsEndSessions, _>(who, &row.name, json!({}), act)
            .await
    }

    /// Notes an attempt that was refused.
    pub fn note_refused(&self, refused: super::Refused) {
        self.0.refusals.note(refused);
    }
}

impl OperatorParts {
    async fn invited(&self, row: &OperatorRow) -> Result<api::InvitedOperator, Error> {
        let link = self.new_link(row.id, row.state).await?;
        Ok(api::InvitedOperator {
            link: link.to_string(),
            valid_for_seconds: LINK_LIFE.as_secs(),
            operator: view(row),
        })
    }

    /// The operator after a change that this process has made, or that was not needed.
    async fn after(&self, row: &OperatorRow, changed: bool) -> Result<api::OperatorView, Error> {
        self.changed(row.id);
        let row = self.named(&row.name).await?;
        Ok(api::OperatorView {
            already: !changed,
            ..view(&row)
        })
    }

    pub(super) fn usable_name<'a>(&self, name: &'a str) -> Result<&'a str, Error> {
        let mut bytes = name.bytes();
        let is_name = name.len() <= 63
            && bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
            && bytes.all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
            });
        if !is_name {
            return Err(Error::invalid(
                "name: must have 1 to 63 characters of a-z, 0-9, dot, underscore and hyphen, and begin with a letter",
            ));
        }
        if RESERVED.contains(&name) || self.config.basic_name.as_deref() == Some(name) {
            return Err(Error::invalid(format!(
                "name: {name} stands for something else in the records of who did what. Choose the name of a person"
            )));
        }
        Ok(name)
    }

    /// Appends an entry about something that an operator did for themselves.
    pub(super) async fn note(
        &self,
        visitor: &Visitor,
        actor: &str,
        action: &str,
        entity: &str,
        details: &Value,
    ) -> Result<(), Error> {
        let key = Uuid::now_v7().to_string();
        let entry = NewHostEntry {
            trail: OPERATORS,
            entry_key: &key,
            actor_kind: ActorKind::Operator,
            actor_id: Some(actor),
            actor_name: Some(actor),
            action,
            entity: Some(entity),
            address: visitor.address,
            platform: None,
            correlation_id: visitor.trace.correlation_id.as_deref(),
            entry: details,
        };
        within(self.store.append_entry(&entry)).await?;
        Ok(())
    }
}

fn recorded(operator: &api::OperatorView) -> Value {
    json!({ "already": operator.already })
}

fn usable_email(email: Option<&str>) -> Result<Option<&str>, Error> {
    let email = email.map(str::trim).filter(|email| !email.is_empty());
    let is_bad = |email: &str| {
        email.len() > MAX_EMAIL || !email.contains('@') || email.contains(char::is_control)
    };
    match email {
        Some(email) if is_bad(email) => Err(Error::invalid("email: must be a mail address")),
        email => Ok(email),
    }
}

pub(super) fn view(row: &OperatorRow) -> api::OperatorView {
    api::OperatorView {
        name: row.name.clone(),
        email: row.email.clone(),
        role: row.role,
        may_see_data: row.may_see_data,
        state: row.state.as_str().to_owned(),
        source: row.source.as_str().to_owned(),
        has_second_factor: row.totp.is_some(),
        created_at: row.created_at,
        created_by: row.created_by.clone(),
        last_login_at: row.last_login_at,
        already: false,
    }
}
