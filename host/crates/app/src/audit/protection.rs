//! Who could change entries: what the host's login may do, and how an administrator of the database
//! takes it away.

use patchbay_api::audit::LedgerProtection;
use patchbay_store::Protection;

use super::Audit;
use crate::Error;

/// The role that owns the tables afterwards. Nobody logs in as it.
const OWNER: &str = "patchbay_audit";
const TABLES: &str = "patchbay.audit_entries, patchbay.audit_batches, patchbay.audit_expiries";
const FUNCTIONS: [&str; 6] = [
    "audit_field(text)",
    "audit_leaf(patchbay.audit_entries)",
    "set_audit_leaf()",
    "note_pending_audit_entry()",
    "refuse_change_of_audit()",
    "refuse_delete_of_audit_entry()",
];

impl Audit {
    pub async fn protection(&self) -> Result<LedgerProtection, Error> {
        Ok(view(&self.store.audit_protection().await?))
    }
}

/// What holds, in words, and what improves it.
pub fn view(seen: &Protection) -> LedgerProtection {
    let Protection { login, owner, .. } = seen;
    let (level, meaning) = if !seen.is_guarded || (seen.may_change && !seen.is_superuser) {
        (
            "unguarded",
            format!(
                "A trigger of the tables is off or missing, or {login} may change entries. Find out who has changed that; patchbay audit verify shows whether entries were changed"
            ),
        )
    } else if seen.is_superuser {
        (
            "superuser",
            format!(
                "{login} is a superuser of the database: triggers stop it, and it can turn them off. Let the host use a login of its own; patchbay audit verify shows changes"
            ),
        )
    } else if seen.is_owner {
        (
            "own-login",
            format!(
                "{login} has no right to change entries, but owns the tables and could give it to itself; patchbay audit verify shows changes"
            ),
        )
    } else if seen.could_join_owner {
        (
            "own-login",
            format!(
                "The tables belong to {owner}, but {login} may create roles, and this version of Postgres lets it join {owner} by that; patchbay audit verify shows changes"
            ),
        )
    } else {
        (
            "separate-owner",
            format!("The tables belong to {owner}, and {login} may only read and add entries"),
        )
    };
    LedgerProtection {
        level: level.to_owned(),
        meaning,
        login: login.clone(),
        owner: owner.clone(),
        statements: if level == "separate-owner" {
            Vec::new()
        } else {
            statements(seen)
        },
    }
}

/// For a superuser.
fn statements(seen: &Protection) -> Vec<String> {
    let login = format!("\"{}\"", seen.login.replace('"', "\"\""));
    let mut all = Vec::new();
    if seen.is_superuser {
        all.push(format!(
            "-- {login} is a superuser. Make another login for the host first, let it own the other tables, and name it in DATABASE_URL."
        ));
    }
    all.push(format!("create role {OWNER} nologin"));
    for table in TABLES.split(", ") {
        all.push(format!("alter table {table} owner to {OWNER}"));
    }
    for function in FUNCTIONS {
        all.push(format!(
            "alter function patchbay.{function} owner to {OWNER}"
        ));
    }
    all.push(format!("grant usage on schema patchbay to {OWNER}"));
    all.push(format!("revoke all on {TABLES} from {login}, public"));
    all.push(format!("grant select, insert on {TABLES} to {login}"));
    for (table, triggers) in [
        (
            "audit_entries",
            &["leaf", "pending", "append_only", "append_only_delete"][..],
        ),
        ("audit_batches", &["append_only"]),
        ("audit_expiries", &["append_only"]),
    ] {
        for trigger in triggers {
            all.push(format!(
                "alter table patchbay.{table} enable always trigger {trigger}"
            ));
        }
    }
    if seen.could_join_owner || !seen.is_superuser {
        all.push(format!(
            "-- Before Postgres 16, a login that may create roles can join {OWNER}. Then also: alter role {login} nocreaterole (plugins' logins are then made by an administrator)"
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Protection {
        Protection {
            login: "patchbay".into(),
            database: "app".into(),
            owner: "patchbay".into(),
            is_superuser: false,
            is_owner: true,
            could_join_owner: false,
            may_change: false,
            is_guarded: true,
        }
    }

    #[test]
    fn the_level_is_the_weakest_point() {
        let level = |change: fn(&mut Protection)| {
            let mut protection = seen();
            change(&mut protection);
            view(&protection).level
        };
        assert_eq!(level(|_| {}), "own-login");
        assert_eq!(level(|seen| seen.is_guarded = false), "unguarded");
        assert_eq!(level(|seen| seen.may_change = true), "unguarded");
        assert_eq!(level(|seen| seen.is_owner = false), "separate-owner");
        let joins = |seen: &mut Protection| {
            seen.is_owner = false;
            seen.could_join_owner = true;
        };
        assert_eq!(level(joins), "own-login");
        let superuser = |seen: &mut Protection| {
            seen.is_superuser = true;
            seen.may_change = true;
        };
        assert_eq!(level(superuser), "superuser");
    }
}
