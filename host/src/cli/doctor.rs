//! `patchbay doctor`: every finding says how to mend it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use patchbay_model::manifest::Manifest;
use patchbay_queue::Queues;
use patchbay_store::Store;
use serde::Serialize;

use super::Output;
use crate::config::Config;

/// The longest wait for Postgres or Redis.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.0.push(Finding { check, level: Level::Ok, message: message.into(), mend: None });
    }

    fn bad(&mut self, check: &'static str, level: Level, message: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { check, level, message: message.into(), mend: Some(mend.into()) });
    }
}

pub(super) async fn run(file: Option<&Path>, output: Output) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    match Config::from_process(file) {
        Ok(config) => {
            findings.ok("configuration", "can be used");
            check_config(&config, &mut findings);
            let store = check_database(&config, &mut findings).await;
            check_redis(&config, &mut findings).await;
            if let Some(store) = store {
                check_plugins(&config, &store, &mut findings).await;
                store.close().await;
            }
        }
        Err(error) => findings.bad(
            "configuration",
            Level::Error,
            error.to_string(),
            "`patchbay config` and docs/operations/configuration.md list every key",
        ),
    }
    let rows = findings.0.iter().map(|finding| {
        let mark = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        let mend = finding.mend.as_ref().map(|mend| format!(" → {mend}")).unwrap_or_default();
        vec![mark.to_owned(), finding.check.to_owned(), format!("{}{mend}", finding.message)]
    });
    output.table(&["", "CHECK", "FINDING"], rows.collect(), &findings.0);
    let failed = findings.0.iter().any(|finding| finding.level == Level::Error);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check_config(config: &Config, findings: &mut Findings) {
    match config.operator() {
        Some(_) => findings.ok("operator", "configured"),
        None => findings.bad(
            "operator",
            Level::Warning,
            "nobody may use /api/admin",
            "set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD",
        ),
    }
    match config.mail() {
        Some(mail) => findings.ok("mail", format!("{}:{}", mail.host, mail.port)),
        None => findings.bad(
            "mail",
            Level::Warning,
            "no account: plugins that send mail fail as not-configured",
            "set EMAIL_USER and EMAIL_PASS, or mail.host",
        ),
    }
    let cache = config.cache_dir();
    let writable = std::fs::create_dir_all(&cache).and_then(|()| tempfile::tempfile_in(&cache));
    match writable {
        Ok(_) => findings.ok("cache", cache.display().to_string()),
        Err(error) => findings.bad(
            "cache",
            Level::Error,
            format!("{}: {error}", cache.display()),
            "set runtime.cache_dir to a directory that only this user can write",
        ),
    }
}

async fn check_database(config: &Config, findings: &mut Findings) -> Option<Store> {
    const CHECK: &str = "postgres";
    // Plugins' logins open theirs besides.
    let pool_max = i64::from(config.store().max_connections) + config.sql_max_connections() as i64;
    let mend = "check DATABASE_URL (or DB_HOST, DB_PORT, DB_USERNAME, DB_PASSWORD, DB_NAME), and that Postgres runs";
    let connected = tokio::time::timeout(LIMIT, async {
        let store = Store::connect(config.store()).await?;
        let facts = store.facts().await?;
        Ok::<_, patchbay_store::StoreError>((store, facts))
    });
    let (store, facts) = match connected.await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            findings.bad(CHECK, Level::Error, format!("{error}{cause}"), mend);
            return None;
        }
        Err(_) => {
            findings.bad(CHECK, Level::Error, "no answer in time", mend);
            return None;
        }
    };
    if facts.server_version_num < 150_000 {
        findings.bad(
            CHECK,
            Level::Error,
            format!("version {}", facts.server_version),
            "Patchbay needs PostgreSQL 15 or newer",
        );
    } else {
        findings.ok(CHECK, format!("version {}", facts.server_version));
    }
    if !facts.can_create {
        let mend = "grant create on database <name> to <login>, or create the schema patchbay owned by it";
        findings.bad(CHECK, Level::Error, "this login may not create the schema patchbay", mend);
    }
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
            format!("connections: {} of {most} in use, {pool_max} at most for this host", facts.connections_in_use),
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
        Err(error) => findings.bad(CHECK, Level::Error, format!("cannot read the schema: {error}"), mend),
    }
    Some(store)
}

async fn check_redis(config: &Config, findings: &mut Findings) {
    const CHECK: &str = "redis";
    let mend = "check REDIS_URL (or REDIS_HOST, REDIS_PORT, REDIS_PASSWORD), and that Redis runs";
    let asked = tokio::time::timeout(LIMIT, async { Queues::connect(config.queues()).await?.server().await });
    let facts = match asked.await {
        Ok(Ok(facts)) => facts,
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            return findings.bad(CHECK, Level::Error, format!("{error}{cause}"), mend);
        }
        Err(_) => return findings.bad(CHECK, Level::Error, "no answer in time", mend),
    };
    let major: u32 = facts.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major < 7 {
        findings.bad(CHECK, Level::Warning, format!("version {}", facts.version), "Patchbay is tested with Redis 7");
    } else {
        findings.ok(CHECK, format!("version {}", facts.version));
    }
    if facts.aof_enabled {
        findings.ok(CHECK, "append-only file is on");
    } else {
        let mend = "set appendonly yes and appendfsync everysec: without it a restart of Redis loses accepted jobs";
        findings.bad(CHECK, Level::Warning, "append-only file is off", mend);
    }
    if facts.maxmemory_policy == "noeviction" {
        findings.ok(CHECK, "maxmemory-policy is noeviction");
    } else {
        let mend = "set maxmemory-policy noeviction: any other policy deletes queues when memory is short";
        findings.bad(CHECK, Level::Error, format!("maxmemory-policy is {}", facts.maxmemory_policy), mend);
    }
    let used_mb = facts.used_memory >> 20;
    if facts.maxmemory == 0 {
        findings.ok(CHECK, format!("{used_mb} MiB used, no limit"));
    } else if facts.used_memory * 4 > facts.maxmemory * 3 {
        let message = format!("{used_mb} of {} MiB used", facts.maxmemory >> 20);
        findings.bad(
            CHECK,
            Level::Warning,
            message,
            "above 85 % new jobs are refused: remove finished jobs or raise maxmemory",
        );
    } else {
        findings.ok(CHECK, format!("{used_mb} of {} MiB used", facts.maxmemory >> 20));
    }
    match facts.clock_skew_ms.abs() {
        0..=500 => findings.ok("clock", format!("{} ms from Redis's", facts.clock_skew_ms)),
        off => {
            let level = if off > 5_000 { Level::Error } else { Level::Warning };
            let message = format!("{} ms from Redis's", facts.clock_skew_ms);
            findings.bad("clock", level, message, "synchronise both machines with NTP: delays and locks depend on it");
        }
    }
}

async fn check_plugins(config: &Config, store: &Store, findings: &mut Findings) {
    const CHECK: &str = "plugins";
    let rows = match store.revisions(None).await {
        Ok(rows) => rows,
        // Before the first migration there is nothing to look at; that was reported above.
        Err(_) => return,
    };
    let active: Vec<_> = rows.iter().filter(|row| row.state == "active").collect();
    if active.is_empty() {
        return findings.bad(
            CHECK,
            Level::Warning,
            "none is active: no queue is worked on",
            "patchbay plugin push FILE --activate",
        );
    }
    for row in active {
        let name = &row.plugin;
        let Ok(manifest) = Manifest::from_packed(row.manifest.to_string().as_bytes()) else {
            let mend = format!("push it again, or: patchbay plugin rollback {name}");
            findings.bad(CHECK, Level::Error, format!("{name}: this version cannot read its manifest"), mend);
            continue;
        };
        let missing: Vec<&str> = manifest
            .secrets
            .iter()
            .map(|secret| secret.name.as_str())
            .filter(|secret| config.plugin_secret(name, secret).is_none())
            .collect();
        if missing.is_empty() {
            findings.ok(CHECK, format!("{name} {} {}", row.version, row.digest.short()));
        } else {
            let mend = format!("set PATCHBAY_SECRET_{}", missing.join(" and PATCHBAY_SECRET_"));
            findings.bad(
                CHECK,
                Level::Warning,
                format!("{name}: secrets without a value: {}", missing.join(", ")),
                mend,
            );
        }
    }
}
