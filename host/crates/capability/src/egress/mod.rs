//! Outbound HTTP under the manifest's rules.
//!
//! In this order: rule (scheme, host, port, method, path; longest literal prefix) → addresses resolved once, blocked ones dropped →
//! connected to exactly those → credentials put in → no redirect followed → body capped after decompression. Connection pools belong
//! to one rule of one revision, so that no revision rides on a connection that another one was allowed to make.

mod address;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use ipnet::IpNet;
use patchbay_model::RevisionDigest;
use patchbay_model::capability::{HttpError, HttpRequest, HttpResponse, TimeoutPhase};
use patchbay_model::egress::UrlPattern;
use patchbay_model::manifest::{EgressAuth, EgressRule};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use tracing::{debug, warn};

use crate::SecretValue;

/// For rules that name none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// For rules that name none.
const DEFAULT_MAX_RESPONSE_BYTES: u64 = 1 << 20;
/// Idle connections go soon: a revision may be retired at any time.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Clients kept; beyond it all are made anew, which costs only reconnects.
const MAX_CLIENTS: usize = 256;

/// What the operator allows besides the manifests.
#[derive(Debug, Clone, Default)]
pub struct EgressConfig {
    /// Addresses or networks that are otherwise blocked.
    pub allow_addresses: Vec<String>,
}

/// A configuration that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// Neither an address nor a network.
    #[error("{0:?} is neither an IP address nor a network such as 10.0.0.0/8")]
    Network(String),
}

/// Outbound HTTP for all plugins.
pub struct Egress {
    allowed: Vec<IpNet>,
    clients: Mutex<HashMap<(RevisionDigest, usize), Client>>,
}

impl Egress {
    /// Checks the configuration; connects nowhere.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let allowed = config.allow_addresses.iter().map(|text| network(text)).collect::<Result<_, _>>()?;
        Ok(Self { allowed, clients: Mutex::default() })
    }

    pub(crate) async fn send(
        &self,
        revision: RevisionDigest,
        rules: &[EgressRule],
        permitted: &(dyn Fn(&EgressRule) -> Result<(), String> + Sync),
        secrets: &(dyn Fn(&str) -> Option<SecretValue> + Sync),
        request: HttpRequest,
        correlation_id: Option<&str>,
    ) -> Result<HttpResponse, HttpError> {
        let started = Instant::now();
        let (method, mut url) = parse(&request)?;
        let (place, rule) = matching(rules, &url, &method).ok_or_else(|| {
            let place = url.host_str().unwrap_or_default();
            HttpError::Denied(format!("no egress rule of the manifest allows {method} {place}{}", url.path()))
        })?;
        permitted(rule).map_err(HttpError::Denied)?;
        let allowed = self.allowed_by(rule)?;
        if let Some(address) = literal(&url)
            && !address::permitted(address, &allowed)
        {
            return Err(HttpError::Denied(format!("{address} is not a public address")));
        }
        let mut headers = checked_headers(&request, rule.auth.as_ref())?;
        if let Some(auth) = &rule.auth {
            inject(auth, secrets, &mut headers, &mut url)?;
        }
        if let Some(id) = correlation_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.entry("x-correlation-id").or_insert(id);
        }
        let limit = rule.timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        // The deadline of the guest's call needs no timer here: it drops this future, and with it the connection.
        let limit = request.timeout.map_or(limit, |asked| asked.min(limit));
        let client = self.client((revision, place), allowed)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut outgoing = client.request(method.clone(), url).headers(headers);
        if let Some(body) = request.body {
            outgoing = outgoing.body(body);
        }
        let max_bytes = rule.max_response_bytes.unwrap_or(DEFAULT_MAX_RESPONSE_BYTES);
        let answer = exchange(outgoing, limit, max_bytes).await;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        match &answer {
            Ok(response) => debug!(%method, host, status = response.status, elapsed_ms, "outside call"),
            Err(error) => warn!(%method, host, %error, elapsed_ms, "outside call failed"),
        }
        answer
    }

    fn allowed_by(&self, rule: &EgressRule) -> Result<Vec<IpNet>, HttpError> {
        let mut allowed = self.allowed.clone();
        for text in &rule.allow_addresses {
            allowed.push(network(text).map_err(|error| HttpError::Denied(error.to_string()))?);
        }
        Ok(allowed)
    }

    fn client(&self, key: (RevisionDigest, usize), allowed: Vec<IpNet>) -> Result<Client, HttpError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .pool_idle_timeout(POOL_IDLE)
            .dns_resolver(Arc::new(PublicOnly { allowed }))
            .build()
            .map_err(|error| HttpError::Other(chain(&error)))?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Reads an address or a network.
fn network(text: &str) -> Result<IpNet, EgressError> {
    let network = IpNet::from_str(text).or_else(|_| IpAddr::from_str(text).map(IpNet::from));
    network.map_err(|_| EgressError::Network(text.to_owned()))
}

fn parse(request: &HttpRequest) -> Result<(Method, Url), HttpError> {
    let invalid = |what: &str| HttpError::Invalid(what.to_owned());
    let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| invalid("not a method"))?;
    let url = Url::parse(&request.url).map_err(|error| invalid(&format!("not a URL: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("credentials do not belong in a URL; the host fills them in"));
    }
    Ok((method, url))
}

fn matching<'a>(rules: &'a [EgressRule], url: &Url, method: &Method) -> Option<(usize, &'a EgressRule)> {
    rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.methods.iter().any(|allowed| allowed == method.as_str()))
        .filter_map(|(place, rule)| Some((place, rule, UrlPattern::parse(&rule.url).ok()?)))
        .filter(|(_, _, pattern)| pattern.matches(url))
        .max_by_key(|(_, _, pattern)| pattern.literal_prefix_len())
        .map(|(place, rule, _)| (place, rule))
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        url::Host::Ipv4(address) => Some(address.into()),
        url::Host::Ipv6(address) => Some(address.into()),
        url::Host::Domain(_) => None,
    }
}

/// Headers that the connection owns: a guest that sets them could smuggle a second request or reach another virtual host.
const OWNED_BY_THE_HOST: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn checked_headers(request: &HttpRequest, auth: Option<&EgressAuth>) -> Result<HeaderMap, HttpError> {
    let injected = match auth {
        Some(EgressAuth::Basic { .. } | EgressAuth::Bearer { .. }) => Some("authorization"),
        Some(EgressAuth::Header { name, .. }) => Some(name.as_str()),
        Some(EgressAuth::Query { .. }) | None => None,
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let refused = |reason: &str| HttpError::Invalid(format!("header {name:?}: {reason}"));
        let parsed = HeaderName::from_str(name).map_err(|_| refused("not a header name"))?;
        if OWNED_BY_THE_HOST.contains(&parsed.as_str()) || injected.is_some_and(|own| parsed.as_str() == own) {
            return Err(refused("the host fills it in"));
        }
        headers.append(parsed, HeaderValue::from_bytes(value).map_err(|_| refused("not a header value"))?);
    }
    Ok(headers)
}

fn inject(
    auth: &EgressAuth,
    secrets: &(dyn Fn(&str) -> Option<SecretValue> + Sync),
    headers: &mut HeaderMap,
    url: &mut Url,
) -> Result<(), HttpError> {
    let secret = |name: &str| {
        secrets(name)
            .ok_or_else(|| HttpError::Denied(format!("the secret {name} has no value; ask the operator to set it")))
    };
    let sensitive = |text: String| {
        let unusable = |_| HttpError::Denied("a secret of this rule cannot be put into a header".into());
        let mut value = HeaderValue::from_str(&text).map_err(unusable)?;
        value.set_sensitive(true);
        Ok::<_, HttpError>(value)
    };
    match auth {
        EgressAuth::Basic { username, password } => {
            let pair = format!("{}:{}", secret(username)?.expose(), secret(password)?.expose());
            let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
            headers.insert("authorization", sensitive(format!("Basic {encoded}"))?);
        }
        EgressAuth::Bearer { token } => {
            headers.insert("authorization", sensitive(format!("Bearer {}", secret(token)?.expose()))?);
        }
        EgressAuth::Header { name, value } => {
            let name = HeaderName::from_str(name)
                .map_err(|_| HttpError::Denied("the rule's header name is unusable".into()))?;
            headers.insert(name, sensitive(secret(value)?.expose().to_owned())?);
        }
        EgressAuth::Query { name, value } => {
            let secret = secret(value)?;
            if url.query_pairs().any(|(key, _)| key == name.as_str()) {
                return Err(HttpError::Invalid(format!("query parameter {name:?}: the host fills it in")));
            }
            url.query_pairs_mut().append_pair(name, secret.expose());
        }
    }
    Ok(())
}

async fn exchange(
    request: reqwest::RequestBuilder,
    limit: Duration,
    max_bytes: u64,
) -> Result<HttpResponse, HttpError> {
    let deadline = tokio::time::Instant::now() + limit;
    let sent = tokio::time::timeout_at(deadline, request.send()).await;
    // Whether it was still connecting cannot be known from here: the cautious answer is that it may have been sent.
    let mut response =
        sent.map_err(|_| HttpError::Timeout(TimeoutPhase::AwaitingResponse))?.map_err(|e| classify(&e))?;
    let status = response.status().as_u16();
    let headers = response.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let headers = headers.collect();
    let mut body = Vec::new();
    loop {
        let chunk = tokio::time::timeout_at(deadline, response.chunk()).await;
        let chunk = chunk.map_err(|_| HttpError::Timeout(TimeoutPhase::ReadingBody))?;
        let Some(chunk) = chunk.map_err(|_| HttpError::Interrupted(true))? else { break };
        if (body.len() + chunk.len()) as u64 > max_bytes {
            return Err(HttpError::TooLarge(max_bytes));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(HttpResponse { status, headers, body })
}

/// By the cause, which reqwest hides in the chain. URLs are left out: they may carry credentials.
fn classify(error: &reqwest::Error) -> HttpError {
    let mut source = StdError::source(error);
    while let Some(cause) = source {
        if let Some(resolution) = cause.downcast_ref::<ResolutionError>() {
            return match resolution {
                ResolutionError::Blocked(_) => HttpError::Denied(resolution.to_string()),
                ResolutionError::NotFound(_) => HttpError::Dns(resolution.to_string()),
            };
        }
        let text = cause.to_string();
        if text.contains("certificate") || text.contains("tls handshake") || text.contains("peer sent fatal alert") {
            return HttpError::Tls(text);
        }
        source = cause.source();
    }
    if error.is_connect() {
        HttpError::Connect(chain(error))
    } else if error.is_builder() {
        HttpError::Invalid(chain(error))
    } else {
        HttpError::Interrupted(true)
    }
}

fn chain(error: &dyn StdError) -> String {
    let mut source = error.source();
    let mut text = String::new();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    if text.is_empty() { "the request failed".into() } else { text }
}

#[derive(Debug, thiserror::Error)]
enum ResolutionError {
    #[error("{0} has only addresses that are not public")]
    Blocked(String),
    #[error("{0} has no address")]
    NotFound(String),
}

/// Resolves once per connection and hands on only what may be connected to: there is no second look-up that could answer differently.
struct PublicOnly {
    allowed: Vec<IpNet>,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.allowed.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            let found: Vec<SocketAddr> = found.map_err(|_| ResolutionError::NotFound(host.clone()))?.collect();
            if found.is_empty() {
                return Err(ResolutionError::NotFound(host).into());
            }
            let permitted: Vec<SocketAddr> =
                found.into_iter().filter(|address| address::permitted(address.ip(), &allowed)).collect();
            if permitted.is_empty() {
                return Err(ResolutionError::Blocked(host).into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests;
