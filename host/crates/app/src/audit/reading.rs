//! Entries of audit trails for accounts. A trail's pack says which roles may read it; of logins,
//! everybody may read what he did himself, and administrators all of them.
//!
//! Whoever reads the logins of others, or downloads a trail, is recorded among operators' actions.

use patchbay_api::answer::Page;
use patchbay_api::audit::AuditEntry;
use patchbay_api::trails::{TrailExportQuery, TrailQuery};
use patchbay_model::TrailName;
use patchbay_model::audit::{LOGIN_LOGS, is_of_the_host};
use patchbay_store::AuditFilter;
use serde_json::json;

use super::{Audit, EntriesFile, cursor, limit, year_checked};
use crate::Error;
use crate::actions::{Caller, Confirmation};
use crate::operator::Operator;
use crate::people::{Principal, Role, Visitor, within};

/// What an account may read of a trail.
enum Scope {
    Everything,
    /// What it did itself.
    Own,
}

impl Audit {
    pub async fn entries_for(
        &self,
        who: &Principal,
        visitor: &Visitor,
        trail: &str,
        asked: TrailQuery,
    ) -> Result<Page<AuditEntry>, Error> {
        let (trail, scope) = self.readable(who, trail).await?;
        let details = serde_json::to_value(&asked).unwrap_or_default();
        let most = limit(asked.limit)?;
        let filter = AuditFilter {
            trail: Some(trail.clone()),
            actor: asked.user,
            account: own(&scope, who),
            action: asked.action,
            entity: asked.entity,
            since: year_checked("since", asked.since)?,
            until: year_checked("until", asked.until)?,
            before: cursor(asked.cursor)?,
            ..AuditFilter::default()
        };
        let read = self.page(&filter, most);
        if trail.as_str() != LOGIN_LOGS || matches!(scope, Scope::Own) {
            return read.await;
        }
        let caller = caller(who, visitor);
        let count = |page: &Page<AuditEntry>| json!({ "entries": page.items.len() });
        self.actions
            .record_action(&caller, "audit.read", trail.as_str(), details, read, count)
            .await
    }

    /// Begins to stream entries.
    pub async fn export_for(
        &self,
        who: &Principal,
        visitor: &Visitor,
        trail: &str,
        asked: TrailExportQuery,
    ) -> Result<EntriesFile, Error> {
        let (trail, scope) = self.readable(who, trail).await?;
        let details = serde_json::to_value(&asked).unwrap_or_default();
        let filter = AuditFilter {
            trail: Some(trail.clone()),
            actor: asked.user,
            account: own(&scope, who),
            action: asked.action,
            entity: asked.entity,
            since: year_checked("since", asked.since)?,
            until: year_checked("until", asked.until)?,
            ..AuditFilter::default()
        };
        self.stream(&caller(who, visitor), filter, trail.as_str(), details)
            .await
    }

    /// One answer for a trail that is not there and for one that is closed to this account.
    async fn readable(&self, who: &Principal, name: &str) -> Result<(TrailName, Scope), Error> {
        let refused =
            || Error::not_found("There is no such audit trail, or this account may not read it");
        let trail: TrailName = name.parse().map_err(|_| refused())?;
        if trail.as_str() == LOGIN_LOGS {
            let scope = match who.role {
                Some(Role::Admin) => Scope::Everything,
                _ => Scope::Own,
            };
            return Ok((trail, scope));
        }
        let role = who.role.ok_or_else(refused)?;
        if is_of_the_host(trail.as_str()) {
            return Err(refused());
        }
        let rows = within(self.store.audit_trails(Some(&trail))).await?;
        let readers = rows.into_iter().flat_map(|row| row.readers);
        let mut readers = readers.filter_map(|reader| Role::parse(&reader));
        match readers.any(|reader| reader == role) {
            true => Ok((trail, Scope::Everything)),
            false => Err(refused()),
        }
    }
}

fn own(scope: &Scope, who: &Principal) -> Option<String> {
    matches!(scope, Scope::Own).then(|| who.user.id.clone())
}

fn caller(who: &Principal, visitor: &Visitor) -> Caller {
    let operator = Operator::of_account(&who.user.id);
    Caller {
        actor: operator.name.to_string(),
        operator,
        trace: visitor.trace.clone(),
        from: visitor.address,
        reason: None,
        confirmation: Confirmation::Given,
    }
}
