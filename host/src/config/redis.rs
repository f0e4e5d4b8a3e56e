//! `[redis]`: Redis's address, as one URL, in parts, or both if they do not contradict each other.

use std::path::PathBuf;

use patchbay_queue::{RedisConfig, SentinelConfig, TlsFiles};
use url::Url;

use super::encoded;
use super::key::{Setting, key, section};
use super::kind::{boolean, list, number, one_of, text};

/// Placeholder where a URL needs a host, but the Sentinels know it.
const ASK_SENTINELS: &str = "sentinels";

section! {
    /// Redis.
    pub struct Redis {
        /// redis://user:password@host:port/db, rediss:// or unix:///path; or the parts below
        url: Option<String> = key("redis.url", text()).old(&["REDIS_URL"]).secret();
        /// Name, address, or a socket's path
        host: Option<String> = key("redis.host", text()).old(&["REDIS_HOST"]);
        /// Port
        port: u16 = key("redis.port", number(1..=65_535)).default("6379").old(&["REDIS_PORT"]);
        /// User of Redis's ACL
        username: Option<String> = key("redis.username", text()).old(&["REDIS_USERNAME", "REDIS_USER"]);
        /// Password
        password: Option<String> = key("redis.password", text()).old(&["REDIS_PASSWORD"]).secret();
        /// Number of the database; default: 0
        database: Option<u32> = key("redis.database", number(0..=1_000_000)).old(&["REDIS_DB"]);
        /// Whether to connect to Redis over TLS; default: as the URL says
        tls: Option<bool> = key("redis.tls", boolean()).old(&["REDIS_TLS"]);
        /// PEM file of the authorities that may sign Redis's certificate, instead of the system's
        ca_file: Option<PathBuf> = key("redis.ca_file", text());
        /// PEM file of the certificate that is sent to Redis (tls-auth-clients); needs
        /// redis.key_file
        cert_file: Option<PathBuf> = key("redis.cert_file", text());
        /// PEM file of the key of redis.cert_file
        key_file: Option<PathBuf> = key("redis.key_file", text());
        /// Sentinels, host:port each, that are asked for the master; instead of redis.url and
        /// redis.host
        sentinels: Option<Vec<String>> = key("redis.sentinels", list());
        /// Name of the master at the Sentinels
        sentinel_master: Option<String> = key("redis.sentinel_master", text());
        /// User at the Sentinels, which have logins of their own
        sentinel_username: Option<String> = key("redis.sentinel_username", text());
        /// Password at the Sentinels
        sentinel_password: Option<String> = key("redis.sentinel_password", text()).secret();
        /// BullMQ's key prefix
        prefix: String = key("redis.prefix", text()).default("bull");
        /// BullMQ's major version on the Node side; with 5, operations that would lose jobs are
        /// refused
        node_bullmq_major: Option<u8> = key("redis.node_bullmq_major", one_of(&[("none", None), ("5", Some(5)), ("6", Some(6))]))
            .default("6");
        /// Prefix of Patchbay's own keys
        own_prefix: String = key("redis.own_prefix", text()).default("patchbay");
    }
}

impl Redis {
    pub fn queues(&self) -> RedisConfig {
        self.completed().0
    }

    /// Whether BullMQ 5 works on the same queues.
    pub fn node_may_be_bullmq_5(&self) -> bool {
        *self.node_bullmq_major == Some(5)
    }

    /// The connection options, and the keys that contradict the URL.
    pub(super) fn completed(&self) -> (RedisConfig, Vec<&'static str>) {
        let sentinel = self.sentinels.as_ref().map(|addresses| SentinelConfig {
            addresses: addresses.clone(),
            master: self.sentinel_master.clone().unwrap_or_default(),
            username: self.sentinel_username.clone(),
            password: self.sentinel_password.clone(),
        });
        let base = self
            .url
            .clone()
            .unwrap_or_else(|| match self.host.as_deref() {
                Some(path) if path.starts_with('/') => format!("unix://{path}"),
                Some(host) => format!("redis://{}:{}", bracketed(host), *self.port),
                None => format!("redis://{ASK_SENTINELS}"),
            });
        let mut contradictions = Vec::new();
        let url = match Url::parse(&base) {
            Ok(mut url) => {
                self.complete(&mut url, &mut contradictions);
                url.into()
            }
            // The check of the whole URL reports the problem.
            Err(_) => base,
        };
        let config = RedisConfig {
            url,
            tls: TlsFiles {
                ca: self.ca_file.clone(),
                identity: self.cert_file.clone().zip(self.key_file.clone()),
            },
            sentinel,
            prefix: self.prefix.clone(),
            own_prefix: self.own_prefix.clone(),
        };
        (config, contradictions)
    }

    /// Adds the missing parts to the URL.
    fn complete(&self, url: &mut Url, contradictions: &mut Vec<&'static str>) {
        if !url.has_host() {
            let in_query = |url: &Url, name: &str| {
                url.query_pairs()
                    .find(|(there, _)| there == name)
                    .map(|(_, value)| value.into_owned())
            };
            let add = |url: &mut Url, name: &str, value: String| {
                let query = url
                    .query()
                    .map(|query| format!("{query}&"))
                    .unwrap_or_default();
                url.set_query(Some(&format!("{query}{name}={value}")));
            };
            if let Some(value) = missing(&self.username, in_query(url, "user"), contradictions) {
                add(url, "user", value);
            }
            if let Some(value) = missing(&self.password, in_query(url, "pass"), contradictions) {
                add(url, "pass", value);
            }
            if let Some(value) = missing(&self.database, in_query(url, "db"), contradictions) {
                add(url, "db", value);
            }
            return;
        }
        let there = Some(url.username())
            .filter(|name| !name.is_empty())
            .map(str::to_owned);
        if let Some(value) = missing(&self.username, there, contradictions) {
            url.set_username(&value).ok();
        }
        if let Some(value) = missing(
            &self.password,
            url.password().map(str::to_owned),
            contradictions,
        ) {
            url.set_password(Some(&value)).ok();
        }
        let there = Some(url.path().trim_matches('/'))
            .filter(|path| !path.is_empty())
            .map(str::to_owned);
        if let Some(value) = missing(&self.database, there, contradictions) {
            url.set_path(&format!("/{value}"));
        }
        match (*self.tls, matches!(url.scheme(), "rediss" | "valkeys")) {
            (Some(true), false) => {
                url.set_scheme("rediss").ok();
            }
            (Some(false), true) => contradictions.push(self.tls.entry.key),
            _ => {}
        }
    }
}

/// The part to put into the URL, percent-encoded, if the URL has none yet.
fn missing<T: ToString>(
    part: &Setting<Option<T>>,
    there: Option<String>,
    contradictions: &mut Vec<&'static str>,
) -> Option<String> {
    let wanted = part.as_ref()?.to_string();
    let encoded = encoded(&wanted).to_string();
    match there {
        None => Some(encoded),
        Some(there) if there == wanted || there == encoded => None,
        Some(_) => {
            contradictions.push(part.entry.key);
            None
        }
    }
}

/// An IPv6 address is written in brackets where a port follows.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}
