//! Outbound HTTP under the manifest's rules.
//!
//! The order is: normalised URL → rule (scheme, host, port, method, path; longest literal prefix) →
//! breaker → addresses written in the URL → headers → credentials → addresses resolved once,
//! blocked ones dropped, connected only to the rest → no proxy, no redirect followed → body capped
//! after decompression → a response that repeats a credential is withheld. Connection pools and
//! tokens belong to one rule of one revision.
//!
//! | Module | Owns |
//! |---|---|
//! | `request` | what a guest may put into a request |
//! | `inject`, `oauth2` | credentials |
//! | `address`, `resolver` | where connections may go |
//! | `client`, `clients` | connections, and the token that belongs to them |
//! | `relay` | a response that is passed on in pieces |
//! | `relay_content`, `relay_body`, `relay_places` | its content as it comes; on its way to the client; how many there are |
//! | `exchange` | one request over the network, bounded in time and size |
//! | `certificate` | when certificates of outside hosts end |

mod address;
mod certificate;
mod client;
mod clients;
mod exchange;
mod inject;
mod oauth2;
mod relay;
mod relay_body;
mod relay_content;
mod relay_places;
mod request;
mod resolver;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use patchbay_model::RevisionDigest;
use patchbay_model::capability::{HttpError, HttpRequest, HttpResponse};
use patchbay_model::egress::{Target, UrlPattern};
use patchbay_model::manifest::{EgressRule, Manifest};
use reqwest::header::{ACCEPT_ENCODING, HeaderValue};
use reqwest::{Certificate, Method};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;
use tracing::{debug, warn};

pub use self::certificate::Certificates;
use self::client::EgressClient;
use self::clients::Clients;
use self::exchange::{Exchanged, Reading, exchange};
use self::inject::Secrets;
pub(crate) use self::inject::credential_field;
use self::oauth2::Grant;
pub(crate) use self::relay::Followed;
pub use self::relay::Relayed;
pub use self::relay_body::RelayBody;
pub use self::relay_content::RelayAborted;
pub(crate) use self::relay_places::Place;
pub use self::relay_places::{NoPlace, RelayPace, Relays};
use self::request::Outgoing;
use self::resolver::{Lookup, System};
use crate::breaker::{Admission, Report};
use crate::credential_echo;
use crate::secrets::SecretValue;

/// For rules that set none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// For rules that set none.
const DEFAULT_MAX_RESPONSE_BYTES: u64 = 1 << 20;
/// A larger body is searched for credentials on a thread of its own.
const SEARCHED_AT_ONCE: usize = 64 << 10;
/// Message for the guest; the operator's log names the rule.
const ECHOED: &str = "the response repeats a credential that the host put in, and is withheld";

/// What the operator allows in addition to the manifests.
#[derive(Debug, Clone, Default)]
pub struct EgressConfig {
    /// Addresses or networks that are otherwise blocked.
    pub allow_addresses: Vec<String>,
    /// PEM file with certificates that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// How fast clients of relayed responses must read.
    pub pace: RelayPace,
}

/// An invalid configuration. Each message begins with the key.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error(
        "egress.allow_addresses: {0:?} is neither an IP address nor a network such as 10.0.0.0/8"
    )]
    Network(String),
    #[error("egress.ca_file: cannot read {path}")]
    CaUnreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("egress.ca_file: {path} {reason}")]
    CaMalformed { path: PathBuf, reason: String },
}

/// The guest that calls, and the checks that apply to it.
pub(crate) struct Caller<'a> {
    pub(crate) revision: RevisionDigest,
    pub(crate) manifest: &'a Arc<Manifest>,
    pub(crate) permitted: &'a (dyn Fn(&EgressRule) -> Result<(), String> + Sync),
    /// Asks the breaker of a host, `scheme://host:port`.
    pub(crate) admit: &'a (dyn Fn(&str) -> Result<Admission, HttpError> + Sync),
    pub(crate) secrets: Secrets<'a>,
    pub(crate) correlation_id: Option<&'a str>,
}

pub struct Egress {
    clients: Clients,
    /// Responses that are passed on.
    relays: Arc<Relays>,
}

impl Egress {
    /// Checks the configuration; opens no connection.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        Self::with_lookup(config, Arc::new(System))
    }

    fn with_lookup(config: EgressConfig, lookup: Arc<dyn Lookup>) -> Result<Self, EgressError> {
        let allowed = config
            .allow_addresses
            .iter()
            .map(|text| network(text))
            .collect::<Result<_, _>>()?;
        let roots = config
            .ca_file
            .as_deref()
            .map(roots)
            .transpose()?
            .unwrap_or_default();
        Ok(Self {
            clients: Clients::new(allowed, roots, lookup),
            relays: Relays::new(config.pace),
        })
    }

    /// When certificates of outside hosts end, as far as this process has seen them.
    pub fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.clients.certificates)
    }

    /// The response whole.
    pub(crate) async fn send(
        &self,
        caller: Caller<'_>,
        request: HttpRequest,
    ) -> Result<HttpResponse, HttpError> {
        let (response, _guarded) = self.fetch(caller, request, false).await?;
        Ok(HttpResponse {
            status: response.status,
            headers: response.headers,
            body: response.body,
        })
    }

    /// What has been read of the response is searched for credentials; the returned values are
    /// those to look for in its rest.
    async fn fetch(
        &self,
        caller: Caller<'_>,
        request: HttpRequest,
        is_relayed: bool,
    ) -> Result<(Exchanged, Vec<SecretValue>), HttpError> {
        let started = Instant::now();
        let Caller {
            revision,
            manifest,
            secrets,
            ..
        } = caller;
        let (method, target) = request::parse(&request)?;
        let (place, rule, pattern) =
            matching(&manifest.egress, &target, &method).ok_or_else(|| {
                let url = target.url();
                let place = url.host_str().unwrap_or_default();
                HttpError::Denied(format!(
                    "no egress rule of the manifest allows {method} {place}{}",
                    url.path()
                ))
            })?;
        (caller.permitted)(rule).map_err(HttpError::Denied)?;
        let admission = (caller.admit)(&pattern.origin())?;
        let client = self.clients.client(revision, manifest, place)?;
        client.permits(target.url())?;
        let limit = rule
            .timeout_ms
            .map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        // No timer for the guest's deadline: it drops this future, and with it the connection.
        let limit = request.timeout.map_or(limit, |asked| asked.min(limit));
        let host = target.url().host_str().unwrap_or_default().to_owned();
        let mut outgoing = request::outgoing(request, method.clone(), target, rule.auth.as_ref())?;
        if let Some(id) = caller
            .correlation_id
            .and_then(|id| HeaderValue::from_str(id).ok())
        {
            outgoing.headers.entry("x-correlation-id").or_insert(id);
        }
        let whole = rule
            .max_response_bytes
            .unwrap_or(DEFAULT_MAX_RESPONSE_BYTES);
        let reading = match is_relayed {
            true => Reading::Pieces(rule.max_relay_bytes.unwrap_or(whole)),
            false => Reading::Whole(whole),
        };
        if is_relayed {
            // Ranges count the bytes of the content, not of a coding.
            let plain = HeaderValue::from_static("identity");
            outgoing.headers.insert(ACCEPT_ENCODING, plain);
        }
        let answer = deliver(&client, rule, secrets, outgoing, started + limit, reading).await;
        let (report, reason) = report(&answer);
        admission.report(report, reason);
        let answer = match answer {
            Ok((response, guarded)) => unechoed(response, guarded).await,
            Err(error) => Err(error),
        };
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        match &answer {
            Ok((response, _)) => {
                debug!(%method, host, status = response.status, elapsed_ms, "outside call")
            }
            Err(error) => {
                warn!(plugin = %manifest.name, rule = rule.url, %method, host, %error, elapsed_ms, "An outside call failed");
            }
        }
        answer
    }
}

/// The response, unless it repeats a credential. Of a refusal the status stays, since the plugin must
/// learn that its credentials are wrong, and pages of errors like to repeat the request. A large
/// response is searched on a thread of its own: others wait on this one.
async fn unechoed(
    mut response: Exchanged,
    guarded: Vec<SecretValue>,
) -> Result<(Exchanged, Vec<SecretValue>), HttpError> {
    let headers = std::mem::take(&mut response.headers);
    let body = std::mem::take(&mut response.body);
    let is_large = body.len() > SEARCHED_AT_ONCE && !guarded.is_empty();
    let search = move || {
        let texts = headers.iter().map(|(_, value)| value.as_slice());
        let found = credential_echo::repeats(texts.chain([body.as_slice()]), &guarded);
        (found, headers, body, guarded)
    };
    let searched = match is_large {
        true => tokio::task::spawn_blocking(search).await,
        false => Ok(search()),
    };
    // Only while the host stops.
    let searched = searched.map_err(|_| HttpError::Other("the host stops".into()));
    let (found, headers, body, guarded) = searched?;
    if found && response.status < 400 {
        return Err(HttpError::Denied(ECHOED.into()));
    }
    if found {
        warn!(status = response.status, "{ECHOED}, but for its status");
        response.body = ECHOED.into();
        return Ok((response, guarded));
    }
    (response.headers, response.body) = (headers, body);
    Ok((response, guarded))
}

/// What the breaker is told. A 4xx status is an ordinary answer, 429 included: a host that says
/// "slow down" is up, and the plugin must obey its `retry-after`.
fn report(answer: &Result<(Exchanged, Vec<SecretValue>), HttpError>) -> (Report, Option<String>) {
    match answer {
        Ok((response, _)) if response.status >= 500 => (
            Report::Failed,
            Some(format!("answered with status {}", response.status)),
        ),
        Ok(_) | Err(HttpError::TooLarge(_)) => (Report::Answered, None),
        Err(
            error @ (HttpError::Timeout(_)
            | HttpError::Dns(_)
            | HttpError::Connect(_)
            | HttpError::Tls(_)
            | HttpError::Interrupted(_)),
        ) => (Report::Failed, Some(error.to_string())),
        Err(_) => (Report::Unknown, None),
    }
}

/// Adds credentials and sends. Also returns the values that the response must not repeat.
async fn deliver(
    client: &EgressClient,
    rule: &EgressRule,
    secrets: Secrets<'_>,
    mut outgoing: Outgoing,
    deadline: Instant,
    reading: Reading,
) -> Result<(Exchanged, Vec<SecretValue>), HttpError> {
    Ok(match Grant::of(rule.auth.as_ref(), secrets)? {
        None => {
            let guarded = rule
                .auth
                .as_ref()
                .map(|auth| inject::put_in(auth, secrets, &mut outgoing))
                .transpose()?;
            (
                exchange(client, outgoing, deadline, reading).await?,
                guarded.unwrap_or_default(),
            )
        }
        Some(grant) => {
            let mut token = client.token(&grant, None, deadline).await?;
            inject::bearer(&mut outgoing, &token.value)?;
            let mut guarded = grant.guarded(&token);
            let mut response = exchange(client, outgoing.clone(), deadline, reading).await?;
            if response.status == 401 {
                // Only once: a service that refuses a new token, too, will refuse the next one.
                token = client.token(&grant, Some(&token), deadline).await?;
                guarded.extend(grant.guarded(&token));
                inject::bearer(&mut outgoing, &token.value)?;
                response = exchange(client, outgoing, deadline, reading).await?;
            }
            (response, guarded)
        }
    })
}

/// The most specific rule that matches. Manifests with ties were refused.
fn matching<'a>(
    rules: &'a [EgressRule],
    target: &Target,
    method: &Method,
) -> Option<(usize, &'a EgressRule, UrlPattern)> {
    rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| {
            rule.methods
                .iter()
                .any(|allowed| allowed == method.as_str())
        })
        .filter_map(|(place, rule)| Some((place, rule, UrlPattern::parse(&rule.url).ok()?)))
        .filter(|(_, _, pattern)| pattern.matches(target))
        .max_by_key(|(_, _, pattern)| pattern.literal_prefix_len())
}

fn network(text: &str) -> Result<IpNet, EgressError> {
    let network = IpNet::from_str(text).or_else(|_| IpAddr::from_str(text).map(IpNet::from));
    network.map_err(|_| EgressError::Network(text.to_owned()))
}

/// Reads trust roots. If one is invalid, all are refused.
fn roots(path: &Path) -> Result<Vec<Certificate>, EgressError> {
    let malformed = |reason: String| EgressError::CaMalformed {
        path: path.to_owned(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|source| EgressError::CaUnreadable {
        path: path.to_owned(),
        source,
    })?;
    let mut store = rustls::RootCertStore::empty();
    let mut roots = Vec::new();
    for (i, der) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        let number = i + 1;
        let der = der.map_err(|error| malformed(format!("is not PEM: {error}")))?;
        store.add(der.clone()).map_err(|error| {
            malformed(format!(
                "has an invalid certificate (number {number}): {error}"
            ))
        })?;
        roots.push(Certificate::from_der(&der).map_err(|error| malformed(error.to_string()))?);
    }
    if roots.is_empty() {
        Err(malformed("has no certificate in PEM".into()))
    } else {
        Ok(roots)
    }
}

#[cfg(test)]
mod tests;
