//! `patchbay doctor`: every finding says how to mend it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use patchbay_app::queues::diagnosis;
use patchbay_app::scheduling;
use patchbay_app::vault::{KeySource, Keys, readable_by_others};
use patchbay_cli::Output;
use patchbay_model::QueueName;
use patchbay_model::manifest::Manifest;
use patchbay_model::shell::word;
use patchbay_queue::{Broker, MAX_CLOCK_SKEW_MS, QueueError, Trouble};
use patchbay_store::{DatabaseFacts, SecretRow, SignatureRow, Store, StoreError};
use serde::Serialize;

use crate::config::{Config, ConfigError};
use crate::dev_state::DevState;
use crate::limits::{self, TooSmall};

const SECRETS: &str = "secrets";
/// What works, and how.
const INFRASTRUCTURE: &str = "see docs/operations/infrastructure.md";
/// The longest wait for Postgres or Redis.
const LIMIT: Duration = Duration::from_secs(10);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    Ok,
    Warning,
    Error,
}

/// What a check has found, and how to mend it.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
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

/// Every check of a configuration that can be used.
pub(crate) async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.ok("configuration", "can be used");
    examine_with(config, &mut findings).await;
    findings.0
}

async fn examine_with(config: &Config, findings: &mut Findings) {
    check_config(config, findings);
    check_limits(config, findings);
    let store = check_database(config, findings).await;
    check_redis(config, findings).await;
    let keys = check_master_key(config, findings);
    if let Some(store) = store {
        let kept = check_secrets(keys.as_ref(), &store, findings).await;
        check_plugins(config, &store, &kept, findings).await;
        check_schedules(config, &store, findings).await;
        store.close().await;
    }
}

pub(crate) async fn run(file: Option<&Path>, output: Output) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    match configuration(file) {
        Ok((config, message)) => {
            findings.ok("configuration", message);
            examine_with(&config, &mut findings).await;
        }
        Err(error) => {
            for problem in error.0 {
                let mend = "`patchbay config` and docs/operations/configuration.md list every key";
                findings.bad("configuration", Level::Error, problem, mend);
            }
        }
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

/// This one, or, where there is none, that of the host which `patchbay dev` runs here.
fn configuration(file: Option<&Path>) -> Result<(Config, String), ConfigError> {
    let error = match Config::from_process(file) {
        Ok(config) => return Ok((config, "can be used".into())),
        Err(error) => error,
    };
    let Some(dev) = DevState::find().filter(|dev| !dev.given.is_empty()) else { return Err(error) };
    let message = format!("that of `patchbay dev` in {}", dev.dir.display());
    Config::of_dev(file, dev.given).map(|config| (config, message)).map_err(|_| error)
}

fn check_config(config: &Config, findings: &mut Findings) {
    match config.admin.operator() {
        Some(_) => findings.ok("operator", "configured"),
        None => findings.bad(
            "operator",
            Level::Warning,
            "nobody may use /api/admin",
            "set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD",
        ),
    }
    match config.mail.account() {
        Some(mail) if config.mail.sender().is_none() => findings.bad(
            "mail",
            Level::Warning,
            format!("{}:{}, and no sender: plugins that set none fail as not-configured", mail.host, mail.port),
            "set EMAIL_FROM",
        ),
        Some(mail) => findings.ok("mail", format!("{}:{}", mail.host, mail.port)),
        None => findings.bad(
            "mail",
            Level::Warning,
            "no account: plugins that send mail fail as not-configured",
            "set EMAIL_USER and EMAIL_PASS, or mail.host",
        ),
    }
    let alerts = &config.alerts;
    if alerts.webhook_url.is_none() && alerts.slack_url.is_none() && alerts.mail_to.is_empty() {
        let mend = "set alerts.webhook_url, alerts.slack_url or alerts.mail_to, then: patchbay alert test";
        findings.bad("alerts", Level::Warning, "no channel: nobody is told of an alert", mend);
    } else {
        findings.ok("alerts", "somebody is told");
    }
    let cache = &*config.runtime.cache_dir;
    let writable = std::fs::create_dir_all(cache).and_then(|()| tempfile::tempfile_in(cache));
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

fn check_limits(config: &Config, findings: &mut Findings) {
    const CHECK: &str = "limits";
    let problems = limits::problems(config);
    if problems.is_empty() {
        return findings.ok(CHECK, "open files and address space, of this shell");
    }
    for problem in problems {
        let level = match problem {
            TooSmall::AddressSpace { is_hopeless: true, .. } => Level::Error,
            _ => Level::Warning,
        };
        findings.bad(CHECK, level, problem.to_string(), INFRASTRUCTURE);
    }
}

async fn check_database(config: &Config, findings: &mut Findings) -> Option<Store> {
    const CHECK: &str = "postgres";
    // Plugins' logins open theirs besides.
    let pool_max = i64::from(*config.database.pool_max) + *config.sql.max_connections as i64;
    let mend = "check DATABASE_URL (or DB_HOST, DB_PORT, DB_USERNAME, DB_PASSWORD, DB_NAME), and that Postgres runs";
    let connected = tokio::time::timeout(LIMIT, async {
        // A start under load takes a moment; what is refused is told at once.
        let store = Store::connect(config.database.store(), Duration::from_secs(1)).await?;
        let facts = store.facts().await?;
        Ok::<_, StoreError>((store, facts))
    });
    let (store, facts) = match connected.await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let mend = match error {
                // They say it themselves.
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
    findings.ok(CHECK, format!("version {}, UTF8, writable, sessions of its own", facts.server_version));
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

/// What the login may do, by docs/operations/infrastructure.md.
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
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        findings.bad(
            CHECK,
            Level::Error,
            format!("{login} does not own {}{more}", shown.join(", ")),
            format!(
                "alter schema, table or sequence … owner to {login}: migrations and the history's months need its owner"
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

async fn check_redis(config: &Config, findings: &mut Findings) {
    const CHECK: &str = "redis";
    let mend = "check REDIS_URL (or REDIS_HOST, REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD, redis.sentinels), and that Redis runs";
    let connected = tokio::time::timeout(LIMIT, Broker::connect(config.redis.queues())).await;
    let queues = match connected {
        Ok(Ok(queues)) => queues,
        Ok(Err(QueueError::CannotServe { trouble, .. })) => {
            return findings.bad(CHECK, Level::Error, trouble.to_string(), trouble.next());
        }
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            return findings.bad(CHECK, Level::Error, format!("{error}{cause}"), mend);
        }
        Err(_) => return findings.bad(CHECK, Level::Error, "no answer in time", mend),
    };
    if let Some(trouble) = queues.look().await.trouble.filter(|trouble| !matches!(trouble, Trouble::Evicts(_))) {
        findings.bad(CHECK, Level::Error, trouble.to_string(), trouble.next());
        if !matches!(trouble, Trouble::Rights(_)) {
            return;
        }
    }
    check_redis_rights(&queues, findings).await;
    let asked = tokio::time::timeout(LIMIT, async {
        let facts = queues.server().await?;
        let names = queues.list().await?;
        let taken = queues.taken_keys(&names).await?;
        Ok::<_, QueueError>((facts, names.into_iter().zip(taken)))
    });
    let (facts, taken) = match asked.await {
        Ok(Ok(facts)) => facts,
        Ok(Err(error)) => return findings.bad(CHECK, Level::Error, error.to_string(), mend),
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
    match &facts.trouble {
        _ if facts.maxmemory_policy == "noeviction" => findings.ok(CHECK, "maxmemory-policy is noeviction"),
        Some(trouble @ Trouble::Evicts(_)) => {
            findings.bad(CHECK, Level::Error, trouble.to_string(), trouble.next());
        }
        _ => {
            let message = format!("maxmemory-policy is {}, and there is no limit yet", facts.maxmemory_policy);
            let mend = "set maxmemory-policy noeviction: with a limit, any other policy deletes jobs or locks";
            findings.bad(CHECK, Level::Warning, message, mend);
        }
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
    for (queue, taken) in taken {
        for key in taken {
            let (stands, next) = diagnosis::taken(&queue, &key);
            findings.bad(CHECK, Level::Error, format!("queue {}: {stands}", word(queue.as_str())), next);
        }
    }
    match facts.clock_skew_ms.saturating_abs() {
        0..=500 => findings.ok("clock", format!("{} ms from Redis's", facts.clock_skew_ms)),
        off => {
            let level = if off.unsigned_abs() > MAX_CLOCK_SKEW_MS { Level::Error } else { Level::Warning };
            let message = format!("{} ms from Redis's", facts.clock_skew_ms);
            findings.bad("clock", level, message, "synchronise both machines with NTP: delays and locks depend on it");
        }
    }
}

async fn check_redis_rights(queues: &Broker, findings: &mut Findings) {
    const CHECK: &str = "redis";
    match tokio::time::timeout(LIMIT, queues.missing_rights()).await {
        Ok(Ok(missing)) if missing.is_empty() => findings.ok(CHECK, "the user has every right that Patchbay needs"),
        Ok(Ok(missing)) => {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let missing = missing.join(" ");
            let mend = format!("ACL SETUSER <user> {missing}");
            findings.bad(CHECK, Level::Error, format!("the user lacks rights: {missing}"), mend);
        }
        Ok(Err(error)) => findings.bad(CHECK, Level::Warning, format!("rights are unknown: {error}"), "try again"),
        Err(_) => findings.bad(CHECK, Level::Warning, "rights are unknown: no answer in time", "try again"),
    }
}

/// The keys, when they can be read.
fn check_master_key(config: &Config, findings: &mut Findings) -> Option<Keys> {
    for source in config.secrets.master_keys().into_iter().flatten() {
        if let KeySource::File { key, path } = source
            && readable_by_others(&path)
        {
            let message = format!("{key} ({}) is open to others than its owner", path.display());
            findings.bad(SECRETS, Level::Warning, message, format!("chmod 600 {}", path.display()));
        }
    }
    match Keys::load(config.secrets.master_keys()) {
        Ok(keys) => {
            match keys.id() {
                Some(id) => findings.ok(SECRETS, format!("sealed with key {id}")),
                None => findings.ok(SECRETS, "no master key: they come from the environment only"),
            }
            Some(keys)
        }
        Err(error) => {
            let mend = "docs/operations/secrets.md says how to make a key, and how to change it";
            findings.bad(SECRETS, Level::Error, error.0.join("; "), mend);
            None
        }
    }
}

/// Gives what the vault holds.
async fn check_secrets(keys: Option<&Keys>, store: &Store, findings: &mut Findings) -> Vec<SecretRow> {
    // Before the first migration there is nothing to look at; that was reported above.
    let Ok(rows) = store.secrets(None).await else { return Vec::new() };
    let Some(keys) = keys else { return rows };
    if keys.is_empty() {
        if !rows.is_empty() {
            let message = format!("the vault holds {} and no master key is configured: none can be used", rows.len());
            findings.bad(SECRETS, Level::Error, message, "set secrets.key_file to the key that sealed them");
        }
        return rows;
    }
    let unreadable: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let reason = keys.check(row).err()?;
            Some(format!("{} {}, version {}: {reason} ({})", row.plugin, row.name, row.version, row.sealed.key_id))
        })
        .collect();
    let outdated = rows.iter().filter(|row| Some(row.sealed.key_id.as_str()) != keys.id()).count();
    if !unreadable.is_empty() {
        let mend = "configure that key as secrets.old_key_file, or set these secrets again";
        findings.bad(SECRETS, Level::Error, format!("cannot be opened: {}", unreadable.join("; ")), mend);
    } else if outdated > 0 {
        let message = format!("{outdated} of {} are sealed with the old master key", rows.len());
        findings.bad(SECRETS, Level::Warning, message, "patchbay secret rekey; then take the old key out");
    } else {
        findings.ok(SECRETS, format!("the vault holds {}, and all can be opened", rows.len()));
    }
    check_history_keys(keys, store, findings).await;
    rows
}

/// Keys that seal data and results of jobs.
async fn check_history_keys(keys: &Keys, store: &Store, findings: &mut Findings) {
    const CHECK: &str = "history";
    let rows = store.history_keys().await.unwrap_or_default();
    let closed = rows.iter().filter(|row| keys.open_history_key(row).is_err()).count();
    let outdated = rows.iter().filter(|row| Some(row.sealed.key_id.as_str()) != keys.id()).count();
    if closed > 0 {
        let message = format!(
            "{closed} of {} keys of the history cannot be opened: data and results under them stay closed",
            rows.len()
        );
        findings.bad(
            CHECK,
            Level::Warning,
            message,
            "configure the master key before as secrets.old_key_file, then patchbay secret rekey",
        );
    } else if outdated > 0 {
        let message = "the key of the history's data and results is sealed with the old master key";
        findings.bad(CHECK, Level::Warning, message, "patchbay secret rekey; then take the old key out");
    }
}

async fn check_plugins(config: &Config, store: &Store, kept: &[SecretRow], findings: &mut Findings) {
    const CHECK: &str = "plugins";
    let rows = match store.revisions(None).await {
        Ok(rows) => rows,
        // Before the first migration there is nothing to look at; that was reported above.
        Err(_) => return,
    };
    for row in rows.iter().filter(|row| row.is_current && row.state == "quarantined") {
        let mend = format!("activate another revision, or: patchbay plugin release {}", row.plugin);
        findings.bad(CHECK, Level::Error, format!("{} is quarantined: its queues wait", row.plugin), mend);
    }
    let active: Vec<_> = rows.iter().filter(|row| row.state == "active").collect();
    if active.is_empty() {
        return findings.bad(
            CHECK,
            Level::Warning,
            "none is active: no queue is worked on",
            "patchbay plugin push FILE --activate",
        );
    }
    let trusted = config.plugins.trusted();
    if trusted.are_required() {
        findings.ok("signatures", format!("required, by one of {}", trusted.ids()));
    }
    for row in active {
        let name = &row.plugin;
        if trusted.are_required() {
            let kept = store.signatures(&row.digest).await.unwrap_or_default();
            let kept: Vec<_> = kept.iter().filter_map(SignatureRow::signature).collect();
            if let Err(reason) = trusted.check(&row.digest, &kept) {
                let mend =
                    "sign it (`patchbay plugin sign`) and push it again, or trust its key (plugins.trusted_keys)";
                findings.bad("signatures", Level::Error, format!("{name}: {reason}"), mend);
            }
        }
        let Ok(manifest) = Manifest::from_stored(row.manifest.clone()) else {
            let mend = format!("push it again, or: patchbay plugin rollback {name}");
            findings.bad(CHECK, Level::Error, format!("{name}: this version cannot read its manifest"), mend);
            continue;
        };
        let missing: Vec<&str> = manifest
            .secrets
            .iter()
            .map(|secret| secret.name.as_str())
            .filter(|secret| !kept.iter().any(|row| &row.plugin == name && row.name.as_str() == *secret))
            .filter(|secret| config.plugin_secret(name, secret).is_none())
            .collect();
        if missing.is_empty() {
            findings.ok(CHECK, format!("{name} {} {}", row.version, row.digest.short()));
        } else {
            let commands: Vec<String> =
                missing.iter().map(|secret| format!("patchbay secret set {name} {secret}")).collect();
            let mend = commands.join("; ");
            findings.bad(
                CHECK,
                Level::Warning,
                format!("{name}: secrets without a value: {}", missing.join(", ")),
                mend,
            );
        }
    }
}

/// Schedules that have no next tick, in queues that are handled here.
async fn check_schedules(config: &Config, store: &Store, findings: &mut Findings) {
    const CHECK: &str = "schedules";
    // What is wrong with Postgres or Redis was reported above.
    let (Ok(rows), Ok(revisions)) = (store.schedules().await, store.revisions(None).await) else { return };
    let connected = tokio::time::timeout(LIMIT, Broker::connect(config.redis.queues())).await;
    let Ok(Ok(queues)) = connected else { return };
    let queues = queues.with_default_zone(*config.schedule.default_zone);
    let active = revisions.into_iter().filter(|row| row.is_current);
    let manifests = active.filter_map(|row| Manifest::from_stored(row.manifest).ok());
    let mut handled: BTreeSet<QueueName> = rows.iter().filter_map(|row| row.queue.parse().ok()).collect();
    handled.extend(manifests.flat_map(|manifest| manifest.queues).map(|queue| queue.name));
    let mut troubles: Vec<String> = Vec::new();
    for row in rows.iter().filter(|row| row.paused_by.is_none()) {
        troubles
            .extend(scheduling::spec(row, queues.default_zone()).err().map(|reason| format!("{}: {reason}", row.id)));
    }
    for queue in handled {
        // A damaged queue is listed as such.
        let views = tokio::time::timeout(LIMIT, queues.schedulers(&queue)).await.ok().and_then(Result::ok);
        troubles.extend(
            views.into_iter().flatten().filter_map(|view| Some(format!("{queue} {}: {}", view.id, view.trouble?))),
        );
    }
    if troubles.is_empty() {
        let zone = queues.default_zone();
        return findings.ok(CHECK, format!("all have a next tick; the zone of those that name none is {zone}"));
    }
    let message = format!("without a next tick, or with a last one ahead: {}", troubles.join("; "));
    findings.bad(CHECK, Level::Warning, message, "mend them where they were made; patchbay schedule list");
}
