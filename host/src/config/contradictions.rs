//! Finds values that are valid alone but contradict each other.

use patchbay_app::operators::oidc::is_protected;
use patchbay_app::people::is_strong_hash;
use patchbay_mailbox::Mailbox;

use super::Config;
use super::database::Database;
use super::entry::ConfigEntry;
use super::general::General;
use super::http::Http;
use super::key::Setting;
use super::oidc::Oidc;
use super::operators::Operators;
use super::people::People;
use super::redis::Redis;
use super::secrets::Secrets;

fn in_people(people: &People, secrets: &Secrets, found: &mut Vec<String>) {
    let key = |setting: &ConfigEntry| setting.key;
    if *people.enabled && !secrets.key_file.is_set() && !secrets.key.is_set() {
        found.push(format!(
            "{} is true, but no master key is configured: set {} to a file with the output of `openssl rand -hex 32`",
            key(&people.enabled.entry),
            key(&secrets.key_file.entry)
        ));
    }
    found.extend(both_or_none(
        &people.master_password_hash,
        &people.master_totp_secret,
    ));
    if *people.cookies_cross_site && !*people.cookies {
        found.push(format!(
            "{} is true, but {} is not: set both, or neither",
            key(&people.cookies_cross_site.entry),
            key(&people.cookies.entry)
        ));
    }
    let is_master = people.master_password_hash.as_ref();
    if is_master.is_some_and(|hash| !is_strong_hash(hash)) {
        found.push(format!(
            "{} is not an argon2id hash of at least 19456 KiB and 2 passes: make one with `patchbay hash-password`",
            key(&people.master_password_hash.entry)
        ));
    }
    let own = people.jwt_secret.as_ref();
    if own.is_some_and(|own| people.jwt_secrets.iter().any(|(_, secret)| secret == own)) {
        found.push(format!(
            "{} and {} hold the same secret: remove one",
            key(&people.jwt_secret.entry),
            key(&people.jwt_secrets.entry)
        ));
    }
}

/// A value that could not be read is not compared with others.
pub(super) fn find(config: &Config) -> Vec<String> {
    let Config {
        general,
        http,
        database,
        redis,
        mail,
        admin,
        runtime,
        work,
        quarantine,
        alerts,
        secrets,
        people,
        operators,
        oidc,
        ..
    } = config;
    let mut found = Vec::new();
    found.extend(at_most_one(&database.url, &database.host));
    found.extend(at_most_one(&redis.url, &redis.host));
    found.extend(at_most_one(&secrets.key_file, &secrets.key));
    found.extend(at_most_one(&secrets.old_key_file, &secrets.old_key));
    in_redis(redis, &mut found);
    needed(database, redis, &mut found);
    found.extend(both_or_none(&http.tls_cert_file, &http.tls_key_file));
    found.extend(unprotected_origins(general, http));
    found.extend(both_or_none(&admin.username, &admin.password));
    found.extend(at_most_one(&mail.password, &mail.password_file));
    match mail.password_file.is_set() {
        true => found.extend(both_or_none(&mail.username, &mail.password_file)),
        false => found.extend(both_or_none(&mail.username, &mail.password)),
    }
    found.extend(new_key_besides(&secrets.old_key_file, secrets));
    found.extend(new_key_besides(&secrets.old_key, secrets));
    in_people(people, secrets, &mut found);
    in_oidc(oidc, operators, http, secrets, &mut found);
    found.extend(not_more(&database.pool_min, &database.pool_max));
    found.extend(not_more(&runtime.memory_mb, &runtime.max_memory_mb));
    found.extend(not_more(&runtime.deadline, &runtime.max_deadline));
    found.extend(not_more(&quarantine.crashes, &quarantine.calls));
    found.extend(not_more(&quarantine.jobs, &quarantine.crashes));
    let has_sender = mail.from.is_set()
        || mail
            .username
            .as_ref()
            .is_some_and(|name| name.parse::<Mailbox>().is_ok());
    let has_server = mail.host.is_set() || mail.username.is_set();
    if alerts.mail_to.is_set() && !(has_server && has_sender) {
        let (to, host, from) = (
            alerts.mail_to.entry.key,
            mail.host.entry.key,
            mail.from.entry.key,
        );
        found.push(format!(
            "{to} is set, but no mail server or no sender: set {host} and {from}"
        ));
    }
    if are_readable(&work.renew, &work.lock) && *work.renew * 2 >= *work.lock {
        let (renew, lock) = (with_value(&work.renew), with_value(&work.lock));
        found.push(format!(
            "{renew} must be less than half of {lock}, or locks are lost while jobs run"
        ));
    }
    if are_readable(&work.drain_limit, &work.stop_grace) && *work.drain_limit >= *work.stop_grace {
        let (drain, grace) = (with_value(&work.drain_limit), with_value(&work.stop_grace));
        found.push(format!(
            "{drain} must be less than {grace}, or the supervisor kills running jobs"
        ));
    }
    found
}

fn in_oidc(
    oidc: &Oidc,
    operators: &Operators,
    http: &Http,
    secrets: &Secrets,
    found: &mut Vec<String>,
) {
    found.extend(both_or_none(&oidc.issuer, &oidc.client_id));
    found.extend(at_most_one(&oidc.client_secret, &oidc.client_secret_file));
    if !oidc.issuer.is_set() {
        return;
    }
    let (issuer, public) = (oidc.issuer.entry.key, http.public_url.entry.key);
    match http.public_url.as_deref() {
        None if http.public_url.is_set() => {}
        None => found.push(format!(
            "{issuer} is set, but {public} is not: the provider sends browsers back to that address"
        )),
        Some(url) => {
            let url = url.parse::<url::Url>();
            if url.is_ok_and(|url| !is_protected(&url)) {
                let url = with_value(&http.public_url);
                found.push(format!(
                    "{url} must be https:// while {issuer} is set, unless it is this machine: browsers would send sessions in the clear"
                ));
            }
        }
    }
    if !oidc.roles.is_set() {
        let roles = oidc.roles.entry.key;
        found.push(format!(
            "{issuer} is set, but {roles} is not, so nobody could sign in: set it to a list of group:role"
        ));
    }
    let asks_here = *operators.require_totp && oidc.require_amr.is_empty();
    if asks_here && !secrets.key_file.is_set() && !secrets.key.is_set() {
        found.push(format!(
            "{issuer} is set without {}, so this host asks for its own second factor, but no master key is configured, which seals it: set {}",
            oidc.require_amr.entry.key, secrets.key_file.entry.key
        ));
    }
}

/// Whoever is between a browser and a page without HTTPS can change the page, and then calls the API
/// with its reader's credentials.
fn unprotected_origins(general: &General, http: &Http) -> Option<String> {
    let is_local = |origin: &str| {
        let host = origin
            .parse()
            .ok()
            .and_then(|url: url::Url| match url.host()? {
                url::Host::Domain(name) => {
                    Some(name == "localhost" || name.ends_with(".localhost"))
                }
                url::Host::Ipv4(address) => Some(address.is_loopback()),
                url::Host::Ipv6(address) => Some(address.is_loopback()),
            });
        host.unwrap_or(false)
    };
    let unprotected: Vec<&str> = http
        .cors_origins
        .iter()
        .map(String::as_str)
        .filter(|origin| origin.starts_with("http:") && !is_local(origin))
        .collect();
    let is_refused = general.environment.as_str() == "production" && !unprotected.is_empty();
    is_refused.then(|| {
        format!(
            "{} must hold only https:// origins while {} is production: {}",
            http.cors_origins.entry.key,
            general.environment.entry.key,
            unprotected.join(", ")
        )
    })
}

/// The texts contain nothing of a login.
fn in_redis(redis: &Redis, found: &mut Vec<String>) {
    let (config, contradictions) = redis.completed();
    for part in contradictions {
        found.push(format!(
            "{} and {part} contradict each other: set one",
            redis.url.entry.key
        ));
    }
    found.extend(both_or_none(&redis.sentinels, &redis.sentinel_master));
    found.extend(both_or_none(&redis.cert_file, &redis.key_file));
    for address in [&redis.url, &redis.host] {
        if redis.sentinels.is_set() && address.is_set() {
            let (sentinels, address) = (redis.sentinels.entry.key, address.entry.key);
            found.push(format!("{sentinels} and {address} contradict each other, because the Sentinels know the address: set one"));
        }
    }
    let is_readable = redis.entries().iter().all(|entry| entry.is_readable);
    if has_address(redis)
        && is_readable
        && let Err(reason) = config.check()
    {
        let named = if redis.url.is_set() {
            redis.url.entry.key
        } else {
            "Redis's address"
        };
        found.push(format!("{named}: {reason}"));
    }
}

fn has_address(redis: &Redis) -> bool {
    redis.url.is_set() || redis.host.is_set() || redis.sentinels.is_set()
}

fn needed(database: &Database, redis: &Redis, found: &mut Vec<String>) {
    let missing = |key: &Setting<_>, what| {
        format!(
            "{} is not set: set {what} (`patchbay dev` needs neither)",
            key.entry.key
        )
    };
    if !database.url.is_set() && !database.host.is_set() {
        found.push(missing(&database.url, "DATABASE_URL or DB_HOST"));
    }
    if !has_address(redis) {
        found.push(missing(
            &redis.url,
            "REDIS_URL or REDIS_HOST, or redis.sentinels",
        ));
    }
}

fn new_key_besides<T>(old: &Setting<T>, secrets: &Secrets) -> Option<String> {
    let is_alone = old.is_set() && !secrets.key_file.is_set() && !secrets.key.is_set();
    is_alone.then(|| {
        format!(
            "{} is set, but no new key: set {}",
            old.entry.key, secrets.key_file.entry.key
        )
    })
}

fn at_most_one<A, B>(a: &Setting<A>, b: &Setting<B>) -> Option<String> {
    let from = |entry: &ConfigEntry| {
        format!(
            "{} (from {})",
            entry.key,
            entry.source.as_deref().unwrap_or_default()
        )
    };
    let are_set = a.is_set() && b.is_set();
    are_set.then(|| {
        format!(
            "{} and {} contradict each other: set one",
            from(&a.entry),
            from(&b.entry)
        )
    })
}

fn both_or_none<A, B>(a: &Setting<A>, b: &Setting<B>) -> Option<String> {
    let (is_one, a, b) = (a.is_set() != b.is_set(), a.entry.key, b.entry.key);
    is_one.then(|| format!("{a} and {b} belong together: set both or none"))
}

fn not_more<T: PartialOrd>(small: &Setting<T>, large: &Setting<T>) -> Option<String> {
    let is_more = are_readable(small, large) && **small > **large;
    is_more.then(|| format!("{} is more than {}", with_value(small), with_value(large)))
}

fn are_readable<T>(a: &Setting<T>, b: &Setting<T>) -> bool {
    a.entry.is_readable && b.entry.is_readable
}

/// With the value as it was given.
fn with_value<T>(setting: &Setting<T>) -> String {
    format!(
        "{} ({})",
        setting.entry.key,
        setting.entry.value.as_deref().unwrap_or_default()
    )
}
