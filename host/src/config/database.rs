//! `[database]`: Postgres's address, as one URL or in parts.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use patchbay_store::StoreConfig;

use super::encoded;
use super::key::{key, section};
use super::kind::{name_of, number, text};

/// Longest wait for a free database connection: after that, an error serves the client better.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

const TLS_MODES: &[&str] = &[
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

section! {
    /// Postgres.
    pub struct Database {
        /// postgres://user:password@host:port/name; or the parts below
        url: Option<String> = key("database.url", text()).old(&["DATABASE_URL"]).secret();
        /// Name, address, or the directory of a Unix socket
        host: Option<String> = key("database.host", text()).old(&["DB_HOST"]);
        /// Port
        port: u16 = key("database.port", number(1..=65_535)).default("5432").old(&["DB_PORT"]);
        /// Login
        username: String = key("database.username", text()).default("postgres").old(&["DB_USERNAME", "DB_USER"]);
        /// Password
        password: Option<String> = key("database.password", text()).old(&["DB_PASSWORD"]).secret();
        /// Database
        name: String = key("database.name", text()).default("postgres").old(&["DB_NAME", "DB_DATABASE"]);
        /// As sslmode in database.url; default: prefer, which uses TLS if the server offers it.
        /// verify-full checks the server's identity
        tls: Option<&'static str> = key("database.tls", name_of(TLS_MODES));
        /// PEM file of the authority that signs Postgres's certificate; as sslrootcert
        ca_file: Option<PathBuf> = key("database.ca_file", text());
        /// Connections kept open
        pool_min: u32 = key("database.pool_min", number(0..=1_000)).default("5");
        /// Maximum number of connections
        pool_max: u32 = key("database.pool_max", number(1..=1_000)).default("20");
    }
}

impl Database {
    pub fn store(&self) -> StoreConfig {
        let mut url = self
            .url
            .as_deref()
            .map_or_else(|| self.url_of_parts(), without_empty_host);
        let ca_file = self.ca_file.as_ref().map(|path| path.to_string_lossy());
        for (parameter, value) in [("sslmode", *self.tls), ("sslrootcert", ca_file.as_deref())] {
            if let Some(value) = value {
                let before = if url.contains('?') { '&' } else { '?' };
                // Writing to a String cannot fail.
                let _ = write!(url, "{before}{parameter}={}", encoded(value));
            }
        }
        StoreConfig {
            url,
            min_connections: *self.pool_min,
            max_connections: *self.pool_max,
            acquire_timeout: ACQUIRE_TIMEOUT,
        }
    }

    fn url_of_parts(&self) -> String {
        format!(
            "postgres://{}{}@{}:{}/{}",
            encoded(&self.username),
            self.password
                .as_deref()
                .map(|password| format!(":{}", encoded(password)))
                .unwrap_or_default(),
            host_in_url(self.host.as_deref().unwrap_or_default()),
            *self.port,
            encoded(&self.name),
        )
    }
}

/// The host as it is written between `//` and `:port`: a directory of sockets is percent-encoded,
/// as for libpq; an IPv6 address is in brackets.
fn host_in_url(host: &str) -> String {
    match host.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) if host.starts_with('/') => encoded(host).to_string(),
        Err(_) => host.to_owned(),
    }
}

/// Rewrites `postgres://user:password@/name?host=/var/run/postgresql`, which libpq accepts and URL
/// parsers refuse: the login becomes parameters.
fn without_empty_host(url: &str) -> String {
    let parts = url
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.split_once("@/")?)));
    let Some((scheme, (login, rest))) = parts.filter(|(_, (login, _))| !login.contains(['/', '?']))
    else {
        return url.to_owned();
    };
    // In a query, a plus sign would mean a space.
    let login = login.replace('+', "%2B");
    let (user, password) = login
        .split_once(':')
        .map_or((login.as_str(), None), |(user, password)| {
            (user, Some(password))
        });
    let password = password
        .map(|password| format!("&password={password}"))
        .unwrap_or_default();
    let before = if rest.contains('?') { '&' } else { '?' };
    format!("{scheme}:///{rest}{before}user={user}{password}")
}
