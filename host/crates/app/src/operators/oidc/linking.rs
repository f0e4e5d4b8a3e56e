//! Linking an operator who was made here to a person at the provider.

use std::time::Duration;

use patchbay_api::oidc::{self as api, OidcLink, OidcUnlink};
use patchbay_store::{OperatorKey, OperatorRow, OperatorSource, OperatorState};
use serde_json::json;
use uuid::Uuid;

use super::person::Person;
use super::{BegunSignIn, SingleSignOn, SsoParts};
use crate::actions::Caller;
use crate::error::Error;
use crate::operator::Credential;
use crate::operators::{OperatorParts, Operators};
use crate::people::{Visitor, forbidden, within};

/// Whoever finds an open browser must not link themselves.
const FRESH: Duration = Duration::from_secs(600);

impl SingleSignOn {
    /// Begins to link the caller to a person, who logs in at the provider next.
    pub async fn begin_link(
        &self,
        who: &Caller,
        query: &api::OidcStartQuery,
    ) -> Result<BegunSignIn, Error> {
        let parts = self.parts()?;
        let store = &parts.operators.store;
        let Credential::Session(session) = &who.operator.credential else {
            return Err(forbidden(
                "forbidden",
                "Only a session can be used to link an operator to a person at the provider. Log in with name and password first",
            ));
        };
        let row = parts.operators.local(who).await?;
        if !within(store.is_fresh_session(*session, FRESH)).await? {
            return Err(forbidden(
                "reauthenticate",
                "This needs a login with name and password within the last 10 minutes. Log in again, then repeat it",
            ));
        }
        let act = parts.begin(Some(row.id), query.return_to.as_deref());
        let details = json!({ "issuer": parts.config.issuer });
        parts
            .operators
            .actions
            .record_as::<OidcLink, _>(who, &row.name, details, act, |_| json!(null))
            .await
    }

    /// Unlinks the caller from all persons at providers.
    pub async fn unlink(
        &self,
        who: &Caller,
        operators: &Operators,
    ) -> Result<api::OidcUnlinked, Error> {
        let parts = &*operators.0;
        let row = parts.local(who).await?;
        let act = async {
            match within(parts.store.unlink_identities(row.id)).await? {
                0 => Err(Error::not_found(format!(
                    "{} is linked to nobody at a provider of single sign-on",
                    row.name
                ))),
                count => Ok(api::OidcUnlinked { count }),
            }
        };
        parts
            .actions
            .record::<OidcUnlink, _>(who, &row.name, json!({}), act)
            .await
    }
}

impl SsoParts {
    /// Links the operator who began this, if nobody else is that person.
    pub(super) async fn link(
        &self,
        visitor: &Visitor,
        operator: Uuid,
        person: &Person,
    ) -> Result<(), Error> {
        let parts = &self.operators;
        let found = parts.store.find_operator(OperatorKey::Id(operator));
        let Some(row) = within(found)
            .await?
            .filter(|row| row.state == OperatorState::Active)
        else {
            return Err(super::unknown_login());
        };
        let (issuer, subject) = (&self.config.issuer, &person.subject);
        let linked = parts
            .store
            .link_identity(row.id, issuer, subject, person.email.as_deref());
        if within(linked).await? {
            let details = json!({ "issuer": issuer, "subject": subject });
            let (name, action) = (&row.name, "operator.identity-linked");
            return parts.note(visitor, name, action, name, &details).await;
        }
        let known = self.known(person).await?;
        if known.is_some_and(|known| known.id == row.id) {
            return Ok(());
        }
        Err(Error::conflict(
            "This person at the provider is another operator here already, so nothing was linked. That operator can unlink first: \
             patchbay operator oidc unlink",
        ))
    }
}

impl OperatorParts {
    /// The row of a caller whose role is given here.
    async fn local(&self, who: &Caller) -> Result<OperatorRow, Error> {
        let row = match who.operator.id {
            Some(id) => within(self.store.find_operator(OperatorKey::Id(id))).await?,
            None => None,
        };
        let Some(row) = row else {
            return Err(forbidden(
                "forbidden",
                "The login of the configuration is no operator, so it cannot be linked. Log in with a name of your own",
            ));
        };
        if row.source == OperatorSource::Oidc {
            return Err(Error::conflict(format!(
                "{} comes from single sign-on: that is the only way to sign in, so nothing can be linked or unlinked",
                row.name
            )));
        }
        Ok(row)
    }
}
