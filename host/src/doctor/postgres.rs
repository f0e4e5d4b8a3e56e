use std::time::Duration;

use patchbay_store::{DatabaseFacts, Store, StoreError};

use super::{Findings, INFRASTRUCTURE, LIMIT, Level};
use crate::config::Config;

pub(super) async fn check_database(config: &Config, findings: &mut Findings) -> Option<Store> {
    const CHECK: &str = "postgres";
    // Plugins' logins open connections of their own.
    let pool_max = i64::from(*config.database.pool_max) + *config.sql.max_connections as i64;
    let mend = "check DATABASE_URL (or DB_HOST, DB_PORT, DB_USERNAME, DB_PASSWORD, DB_NAME), and that Postgres runs";
    let connected = tokio::time::timeout(LIMIT, async {
        // A start under load takes a moment; a refusal is reported at once.
        let store = Store::connect(config.database.store(), Duration::from_secs(1)).await?;
        let facts = store.facts().await?;
        Ok::<_, StoreError>((store, facts))
    });
    let (store, facts) = match connected.await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error)
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            let mend = match error {
                // These errors already say what to do.
                StoreError::Unfit(_) | StoreError::ReadOnly(_) => INFRASTRUCTURE,
                _ => mend,
            };
            findings.bad(CHECK, Level::Error, format!("{error}{cause}"), mend);
            return None;
        }
        Err(_) => {
            findings.bad(CHECK, Level::Error, "no answer in time", mend);
            return None;
        }
    };
    findings.ok(
        CHECK,
        format!(
            "version {}, UTF8, writable, sessions of its own",
            facts.server_version
        ),
    );
    check_rights(&facts, findings);
    let most = i64::from(facts.max_connections);
    if facts.connections_in_use + pool_max > most {
        let message = format!(
            "{} of {most} connections are in use, and this host may take {pool_max} more",
            facts.connections_in_use
        );
        findings.bad(
            CHECK,
            Level::Warning,
            message,
            "lower database.pool_max or sql.max_connections, or raise max_connections",
        );
    } else {
        findings.ok(
            CHECK,
            format!(
                "connections: {} of {most} in use, {pool_max} at most for this host",
                facts.connections_in_use
            ),
        );
    }
    match store.pending_migrations().await {
        Ok(pending) if pending.is_empty() => findings.ok(CHECK, "schema is up to date"),
        Ok(pending) => findings.bad(
            CHECK,
            Level::Warning,
            format!("migrations to come: {}", pending.join(", ")),
            "run `patchbay migrate` (starting a host does it too)",
        ),
        Err(error) => findings.bad(
            CHECK,
            Level::Error,
            format!("cannot read the schema: {error}"),
            mend,
        ),
    }
    Some(store)
}

/// Checks the login's rights, as docs/operations/infrastructure.md lists them.
fn check_rights(facts: &DatabaseFacts, findings: &mut Findings) {
    const CHECK: &str = "postgres rights";
    let (login, database) = (&facts.login, &facts.database);
    if !facts.can_create && !facts.is_installed {
        findings.bad(
            CHECK,
            Level::Error,
            format!("{login} may not create the schemas patchbay and patchbay_outbox"),
            format!("grant create on database {database} to {login}"),
        );
    } else if !facts.foreign.is_empty() {
        let shown: Vec<&str> = facts.foreign.iter().take(5).map(String::as_str).collect();
        let more = facts.foreign.len().saturating_sub(shown.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        findings.bad(
            CHECK,
            Level::Error,
            format!("{login} does not own {}{more}", shown.join(", ")),
            format!(
                "alter schema, table or sequence … owner to {login}: migrations and the history's monthly tables need its owner"
            ),
        );
    } else {
        findings.ok(CHECK, format!("{login} owns what it needs in {database}"));
    }
    if facts.can_create_roles {
        findings.ok(CHECK, format!("{login} may create logins for plugins"));
    } else {
        findings.bad(
            CHECK,
            Level::Warning,
            format!(
                "{login} may not create roles: plugins that use SQL wait until an administrator has made their logins"
            ),
            format!("alter role {login} createrole, or run the statements that activating such a plugin names"),
        );
    }
}
