//! Redis's address from what is configured: one URL, or parts, or both where they do not contradict each other.

use std::path::PathBuf;

use patchbay_queue::{RedisConfig, SentinelConfig, TlsFiles};
use reqwest::Url;

use super::{Config, list_of, percent_encoded};

/// Stands where a URL needs a host and Sentinels know it.
const ASK_SENTINELS: &str = "sentinels";

/// What of the parts is in the URL already, as something else.
type Contradictions = Vec<&'static str>;

impl Config {
    /// Redis.
    pub fn queues(&self) -> RedisConfig {
        self.redis().0
    }

    /// What is wrong with it; nothing of a login is in the texts.
    pub(super) fn find_contradictions_of_redis(&self, problems: &mut Vec<String>) {
        let (config, contradictions) = self.redis();
        for key in contradictions {
            problems.push(format!("redis.url and {key} contradict each other: set one"));
        }
        if self.has("redis.sentinels") != self.has("redis.sentinel_master") {
            problems.push("redis.sentinels and redis.sentinel_master belong together: set both or none".into());
        }
        if self.has("redis.cert_file") != self.has("redis.key_file") {
            problems.push("redis.cert_file and redis.key_file belong together: set both or none".into());
        }
        for key in ["redis.url", "redis.host"].into_iter().filter(|key| self.has("redis.sentinels") && self.has(key)) {
            problems
                .push(format!("redis.sentinels and {key} contradict each other: Sentinels know the address; set one"));
        }
        if !["redis.url", "redis.host", "redis.sentinels"].into_iter().any(|key| self.has(key)) {
            return;
        }
        let named = if self.has("redis.url") { "redis.url" } else { "Redis's address" };
        if let Err(reason) = config.check() {
            problems.push(format!("{named}: {reason}"));
        }
    }

    fn redis(&self) -> (RedisConfig, Contradictions) {
        let sentinel = self.text("redis.sentinels").map(|list| SentinelConfig {
            addresses: list_of(&list).map(str::to_owned).collect(),
            master: self.text("redis.sentinel_master").unwrap_or_default(),
            username: self.text("redis.sentinel_username"),
            password: self.text("redis.sentinel_password"),
        });
        let base = self.text("redis.url").unwrap_or_else(|| match self.text("redis.host") {
            Some(path) if path.starts_with('/') => format!("unix://{path}"),
            Some(host) => format!("redis://{}:{}", bracketed(&host), self.number("redis.port")),
            None => format!("redis://{ASK_SENTINELS}"),
        });
        let mut contradictions = Vec::new();
        let url = match Url::parse(&base) {
            Ok(mut url) => {
                self.complete(&mut url, &mut contradictions);
                url.into()
            }
            // The check of the whole says what is wrong.
            Err(_) => base,
        };
        let config = RedisConfig {
            url,
            tls: TlsFiles {
                ca: self.text("redis.ca_file").map(PathBuf::from),
                identity: self
                    .text("redis.cert_file")
                    .zip(self.text("redis.key_file"))
                    .map(|(c, k)| (c.into(), k.into())),
            },
            sentinel,
            prefix: self.text("redis.prefix").unwrap_or_default(),
            own_prefix: self.text("redis.own_prefix").unwrap_or_default(),
        };
        (config, contradictions)
    }

    /// With the parts that it has not.
    fn complete(&self, url: &mut Url, contradictions: &mut Contradictions) {
        let is_socket = !url.has_host();
        let mut fill = |key: &'static str, there: Option<String>, set: &mut dyn FnMut(&str)| {
            let Some(wanted) = self.text(key) else { return };
            match there {
                None => set(&percent_encoded(&wanted)),
                Some(there) if there == wanted || there == percent_encoded(&wanted) => {}
                Some(_) => contradictions.push(key),
            }
        };
        if is_socket {
            for (key, name) in [("redis.username", "user"), ("redis.password", "pass"), ("redis.database", "db")] {
                let there = url.query_pairs().find(|(there, _)| there == name).map(|(_, value)| value.into_owned());
                fill(key, there, &mut |value| {
                    let query = url.query().map(|query| format!("{query}&")).unwrap_or_default();
                    url.set_query(Some(&format!("{query}{name}={value}")));
                });
            }
            return;
        }
        let there = (!url.username().is_empty()).then(|| url.username().to_owned());
        fill("redis.username", there, &mut |value| {
            url.set_username(value).ok();
        });
        let there = url.password().map(str::to_owned);
        fill("redis.password", there, &mut |value| {
            url.set_password(Some(value)).ok();
        });
        let there = Some(url.path().trim_matches('/')).filter(|path| !path.is_empty()).map(str::to_owned);
        fill("redis.database", there, &mut |value| url.set_path(&format!("/{value}")));
        let is_tls = matches!(url.scheme(), "rediss" | "valkeys");
        match self.text("redis.tls").as_deref() {
            Some("true") if !is_tls => {
                url.set_scheme("rediss").ok();
            }
            Some("false") if is_tls => contradictions.push("redis.tls"),
            _ => {}
        }
    }
}

/// An IPv6 address stands in brackets where a port follows.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}
