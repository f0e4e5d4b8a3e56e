//! What `patchbay dev` takes from the environment or a file instead of starting it itself. Never
//! names a password.

use url::Url;

use crate::config::{Config, Setting};

/// One sentence per service that dev does not start.
pub(super) fn told(set: &Config) -> Vec<String> {
    let (redis, database, mail) = (&set.redis, &set.database, &set.mail);
    let services = [
        set_by(&redis.url)
            .or_else(|| set_by(&redis.host))
            .or_else(|| set_by(&redis.sentinels))
            .map(|source| (source, redis_address(set), "a private Redis")),
        set_by(&database.url)
            .or_else(|| set_by(&database.host))
            .map(|source| (source, database_address(set), "a private Postgres")),
        set_by(&mail.host)
            .or_else(|| set_by(&mail.username))
            .map(|source| {
                let server = mail.host.as_deref().unwrap_or("the server of that login");
                (source, server.to_owned(), "the mail catcher")
            }),
    ];
    let services = services.into_iter().flatten();
    services
        .map(|(source, address, own)| {
            format!("{source} is set: dev uses {address} instead of {own}")
        })
        .collect()
}

/// The variable or file that sets a key.
fn set_by<T>(setting: &Setting<T>) -> Option<String> {
    let entry = &setting.entry;
    let source = entry.source.clone().filter(|_| setting.is_set())?;
    match source.ends_with(".toml") {
        true => Some(format!("{} in {source}", entry.key)),
        false => Some(source),
    }
}

fn redis_address(set: &Config) -> String {
    let redis = &set.redis;
    match (&*redis.url, redis.host.as_deref(), &*redis.sentinels) {
        (Some(url), ..) => without_password(url),
        (None, Some(host), _) => format!("redis://{host}:{}", *redis.port),
        (None, None, Some(sentinels)) => format!("the Redis that {} name", sentinels.join(", ")),
        (None, None, None) => "the configured Redis".to_owned(),
    }
}

fn database_address(set: &Config) -> String {
    let database = &set.database;
    match (&*database.url, database.host.as_deref()) {
        (Some(url), _) => without_password(url),
        (None, Some(host)) => format!("postgres://{host}:{}/{}", *database.port, *database.name),
        (None, None) => "the configured Postgres".to_owned(),
    }
}

/// Scheme, user, host and path; the query may hold a password, too.
fn without_password(url: &str) -> String {
    let Ok(mut url) = url.parse::<Url>() else {
        return "the address in it".to_owned();
    };
    url.set_query(None);
    url.set_fragment(None);
    match url.set_password(None) {
        Ok(()) => url.to_string(),
        // A URL without a host has none.
        Err(()) => format!("{}://{}", url.scheme(), url.path()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn told_of(variables: &[(&str, &str)], file: Option<&str>) -> Vec<String> {
        let env: HashMap<String, String> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        // What is missing is what dev brings.
        let (config, _) = Config::read(file, &env);
        told(&config)
    }

    #[test]
    fn what_overrides_the_private_services_is_named_without_a_password() {
        assert_eq!(told_of(&[], None), Vec::<String>::new());
        let set = [
            (
                "REDIS_URL",
                "redis://app:hunter2@redis.internal:6380/2?password=hunter2",
            ),
            ("DB_HOST", "postgres.internal"),
            ("DB_PASSWORD", "hunter2"),
        ];
        let lines = told_of(&set, None);
        assert_eq!(
            lines,
            [
                "REDIS_URL is set: dev uses redis://app@redis.internal:6380/2 instead of a private Redis",
                "DB_HOST is set: dev uses postgres://postgres.internal:5432/postgres instead of a private Postgres",
            ]
        );
    }

    #[test]
    fn a_key_of_the_file_is_named_with_the_file() {
        let file = "[redis]\nurl = \"redis://127.0.0.1:7000\"\n";
        assert_eq!(
            told_of(&[], Some(file)),
            [
                "redis.url in patchbay.toml is set: dev uses redis://127.0.0.1:7000 instead of a private Redis"
            ]
        );
    }

    #[test]
    fn an_address_that_cannot_be_read_is_not_repeated() {
        assert_eq!(without_password("hunter2"), "the address in it");
        assert_eq!(
            without_password("unix:///run/redis.sock"),
            "unix:///run/redis.sock"
        );
    }
}
