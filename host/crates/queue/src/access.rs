//! How to reach Redis: an address or Sentinels, TLS and the login.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisError, RedisResult, TlsCertificates, TlsMode,
};
use tokio::sync::Mutex;

/// Time limit for all Sentinels together. A Sentinel that is down costs a second.
const SENTINEL_LIMIT: Duration = Duration::from_secs(5);
const SENTINEL_PORT: u16 = 26_379;

#[derive(Debug, Clone, Default)]
pub struct RedisConfig {
    /// A `redis://`, `rediss://` or `unix://` URL. With Sentinels, only its login, its database and
    /// its TLS scheme are used.
    pub url: String,
    /// Files that replace the system's certificates.
    pub tls: TlsFiles,
    /// If set, the Sentinels are asked for the master at each connection.
    pub sentinel: Option<SentinelConfig>,
    /// Prefix of BullMQ's keys, usually `bull`.
    pub prefix: String,
    /// Prefix of Patchbay's own keys, which BullMQ does not know.
    pub own_prefix: String,
}

impl RedisConfig {
    /// A key that is never written. Deleting it is a write that changes nothing.
    pub(crate) fn probe_key(&self) -> String {
        format!("{}:probe", self.own_prefix)
    }

    /// Pub/sub channel on which all hosts hear orders to end a running job.
    pub(crate) fn kill_channel(&self) -> String {
        format!("{}:kill", self.own_prefix)
    }
}

/// PEM files for TLS, read when a host starts.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// CA certificates that replace the system's.
    pub ca: Option<PathBuf>,
    /// The client certificate for Redis, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, Default)]
pub struct SentinelConfig {
    /// `host` or `host:port`. An IPv6 address with a port is written in brackets.
    pub addresses: Vec<String>,
    /// The master's name, as in `sentinel monitor`.
    pub master: String,
    /// The login at the Sentinels, which is separate from Redis's.
    pub username: Option<String>,
    pub password: Option<String>,
}

impl std::fmt::Debug for SentinelConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SentinelConfig")
            .field("addresses", &self.addresses)
            .field("master", &self.master)
            .finish()
    }
}

impl RedisConfig {
    /// Fails with what is wrong with the configuration, as far as this is visible without
    /// connecting. The text holds no part of a login.
    pub fn check(&self) -> Result<(), String> {
        let info = parse(&self.url)?;
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        if !is_tls && (self.tls.ca.is_some() || self.tls.identity.is_some()) {
            return Err(
                "certificates are configured, but TLS is off: set redis.tls, or write rediss://"
                    .into(),
            );
        }
        for address in self
            .sentinel
            .iter()
            .flat_map(|sentinel| &sentinel.addresses)
        {
            host_and_port(address)?;
        }
        Ok(())
    }
}

fn parse(url: &str) -> Result<ConnectionInfo, String> {
    let wrong = || {
        Err("it is not a redis://, rediss:// or unix:// URL. Percent-encode special characters of the password, or set redis.host and redis.password".into())
    };
    let Some(parsed) = redis::parse_redis_url(url) else {
        return wrong();
    };
    // A password with one of these characters ends the address early. The rest of the URL,
    // including the host, then lands in the fragment, query or path.
    let elsewhere = [parsed.fragment(), parsed.query(), Some(parsed.path())];
    if parsed.has_host()
        && elsewhere
            .into_iter()
            .flatten()
            .any(|part| part.contains('@'))
    {
        return wrong();
    }
    // The library's error texts contain no part of the URL.
    let info = url
        .into_connection_info()
        .map_err(|error| error.to_string())?;
    match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => {
            Err("#insecure is not supported: set redis.ca_file".into())
        }
        _ => Ok(info),
    }
}

fn host_and_port(address: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{address:?} is not a host or host:port");
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            (
                host,
                rest.strip_prefix(':').or((!rest.is_empty()).then_some("-")),
            )
        }
        // More than one colon means an IPv6 address without a port.
        None if address.matches(':').count() > 1 => (address, None),
        None => address
            .split_once(':')
            .map_or((address, None), |(host, port)| (host, Some(port))),
    };
    let port = port
        .map_or(Ok(SENTINEL_PORT), str::parse)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(wrong)?;
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        Err(wrong())
    } else {
        Ok((host.to_owned(), port))
    }
}

pub(crate) enum Access {
    Direct(Box<Client>),
    Sentinel(Box<Mutex<SentinelClient>>),
}

impl Access {
    /// Whether a direct connection uses TLS. False with Sentinels, because the Sentinels are asked
    /// first.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Direct(client) if matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. }))
    }

    pub(crate) fn new(config: &RedisConfig) -> RedisResult<Self> {
        let info = parse(&config.url).map_err(invalid)?;
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let certificates = if is_tls {
            Some(config.tls.read()?)
        } else {
            None
        };
        let Some(sentinel) = &config.sentinel else {
            return Ok(Self::Direct(Box::new(match certificates {
                Some(certificates) => Client::build_with_tls(info, certificates)?,
                None => Client::open(info)?,
            })));
        };
        let address = |text: &String| {
            let (host, port) = host_and_port(text).map_err(invalid)?;
            Ok::<_, RedisError>(match is_tls {
                true => ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: false,
                    tls_params: None,
                },
                false => ConnectionAddr::Tcp(host, port),
            })
        };
        let addresses = sentinel
            .addresses
            .iter()
            .map(address)
            .collect::<RedisResult<Vec<_>>>()?;
        let login = info.redis_settings();
        let mut builder =
            SentinelClientBuilder::new(addresses, &sentinel.master, SentinelServerType::Master)?
                .set_client_to_redis_db(login.db());
        if is_tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        if let Some(username) = login.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = login.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(username) = &sentinel.username {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = &sentinel.password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        Ok(Self::Sentinel(Box::new(Mutex::new(builder.build()?))))
    }

    /// Asks the Sentinels, if there are any, for the master, and asks that server whether it is
    /// one.
    pub(crate) async fn client(&self) -> RedisResult<Client> {
        match self {
            Self::Direct(client) => Ok(Client::clone(client)),
            Self::Sentinel(sentinel) => {
                let asked = async { sentinel.lock().await.async_get_client().await };
                let no_answer =
                    |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
                tokio::time::timeout(SENTINEL_LIMIT, asked)
                    .await
                    .map_err(no_answer)?
            }
        }
    }
}

impl TlsFiles {
    fn read(&self) -> RedisResult<TlsCertificates> {
        let file = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| invalid(format!("cannot read {}: {error}", path.display())))
        };
        let root_cert = match &self.ca {
            Some(path) => file(path)?,
            None => trusted_by_the_system(),
        };
        let client_tls = match &self.identity {
            Some((certificate, key)) => Some(ClientTlsConfig {
                client_cert: file(certificate)?,
                client_key: file(key)?,
            }),
            None => None,
        };
        Ok(TlsCertificates {
            client_tls,
            root_cert: Some(root_cert),
        })
    }
}

/// The system's certificates as PEM; those in `SSL_CERT_FILE` and `SSL_CERT_DIR` where these are
/// set. Without this, the redis library would use a compiled-in list, because bullmq-official
/// enables that feature.
fn trusted_by_the_system() -> Vec<u8> {
    let mut pem = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // One unreadable certificate must not invalidate the others.
        if rustls::RootCertStore::empty()
            .add(certificate.clone())
            .is_ok()
        {
            let text = base64::engine::general_purpose::STANDARD.encode(certificate);
            pem += &format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        }
    }
    pem.into_bytes()
}

fn invalid(message: String) -> RedisError {
    (
        ErrorKind::InvalidClientConfig,
        "The address of Redis cannot be used",
        message,
    )
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_form_are_read_and_wrong_ones_named_without_the_password() {
        let check = |url: &str| {
            RedisConfig {
                url: url.into(),
                ..RedisConfig::default()
            }
            .check()
        };
        for url in [
            "redis://r/",
            "redis://:p%40ss%23word@r:6380/3",
            "redis://user:secret@[::1]:6379/0",
            "rediss://r.example",
            "unix:///run/redis/redis.sock?db=1",
            "redis+unix:///run/redis/redis.sock",
            "valkey://r",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in [
            "http://r/",
            "redis://:pa#ss@r/",
            "redis://:s@pa#ss@r/",
            "redis://:s@pa/ss@r/",
            "redis://:s@pa?ss@r/",
            "redis://:pa/ss@r/",
            "redis://r/x",
            "rediss://r/#insecure",
            "",
        ] {
            let wrong = check(url).expect_err(url);
            assert!(!wrong.contains("ss@r"), "{wrong}");
        }
    }

    #[test]
    fn sentinels_are_named_by_host_and_port() {
        let of = |text| host_and_port(text).ok();
        assert_eq!(of("s1"), Some(("s1".into(), 26_379)));
        assert_eq!(of("10.0.0.1:5000"), Some(("10.0.0.1".into(), 5_000)));
        assert_eq!(of("[::1]:5000"), Some(("::1".into(), 5_000)));
        assert_eq!(of("::1"), Some(("::1".into(), 26_379)));
        for wrong in ["", "s1:", "s1:0", "s1:x", "[::1", "[::1]5", "redis://s1"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
