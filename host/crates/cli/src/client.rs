//! The HTTP client of `/api/admin`.

use std::time::Duration;

use clap::Args;
use patchbay_api::answer::{Answer, List, Media, Whole};
use patchbay_api::body::{AnyDocument, Body, Credentials, ExpectedForm, Json, NoBody, SecretJson};
use patchbay_api::operation::{self, Effect, Endpoint, NoQuery, PathParams};
use patchbay_api::operators::{OpenedOperatorSession, OperatorLogIn, OperatorSessionOpen};
use patchbay_api::plugins::{
    Activate, Activated, Component, PluginPath, PluginsActivate, PluginsPush, SignedComponent,
    Staged,
};
use patchbay_api::redis_keys::{RedisKey, RedisKeyPage};
use patchbay_api::reveal::Reveal;
use patchbay_api::{headers, path};
use patchbay_model::address::is_loopback;
use patchbay_model::signature;
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::kept_session::KeptSession;
use super::output::More;
use super::refusal::{Refusal, Why};

/// A push includes the compilation, which may take a minute on a small machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Longer than the longest deadline that a host allows; more is useless at a terminal.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(330);

/// Address of the host, and credentials.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// URL of the host [default: the one that `patchbay dev` runs here, else http://127.0.0.1:8080]
    #[arg(long, global = true, env = "PATCHBAY_URL", help_heading = "Connection")]
    url: Option<String>,
    /// Name of the operator
    #[arg(
        long,
        global = true,
        env = "PATCHBAY_USER",
        help_heading = "Connection"
    )]
    user: Option<String>,
    /// Password of the operator; set it in the environment rather than on the command line
    #[arg(
        long,
        global = true,
        env = "PATCHBAY_PASSWORD",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    password: Option<String>,
    /// Token of a program, as `patchbay token create` gives it; set it in the environment rather than
    /// on the command line
    #[arg(
        long,
        global = true,
        env = "PATCHBAY_TOKEN",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    token: Option<String>,
    /// Used if `url` is not given.
    #[arg(skip)]
    dev: Option<Connection>,
}

/// How the client shows who it is.
pub(super) enum Login {
    Nobody,
    Basic {
        user: String,
        password: Option<String>,
    },
    Token(Zeroizing<String>),
    Session(KeptSession),
}

/// A host on this machine, with credentials.
#[derive(Debug, Clone)]
pub struct Connection {
    pub url: String,
    pub user: String,
    pub password: String,
}

impl ClientArgs {
    /// What the environment says, where there is no command line.
    pub(super) fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self {
            url: variable("PATCHBAY_URL"),
            user: variable("PATCHBAY_USER"),
            password: variable("PATCHBAY_PASSWORD"),
            token: variable("PATCHBAY_TOKEN"),
            dev: None,
        }
    }

    /// Sets the host to use if the arguments name none. Its credentials are sent only to that host.
    pub fn or(mut self, dev: impl FnOnce() -> Option<Connection>) -> Self {
        // An empty variable is one that is not set.
        for value in [
            &mut self.url,
            &mut self.user,
            &mut self.password,
            &mut self.token,
        ] {
            *value = value.take().filter(|value| !value.is_empty());
        }
        self.dev = if self.url.is_none() { dev() } else { None };
        self
    }

    /// Address of the host.
    pub(super) fn url(&self) -> String {
        let dev = self.dev.as_ref();
        let url = self.url.clone().or_else(|| dev.map(|dev| dev.url.clone()));
        let url = url.unwrap_or_else(|| "http://127.0.0.1:8080".into());
        url.trim_end_matches('/').to_owned()
    }

    /// What is set and counts more than a kept session.
    pub(super) fn overrides_session(&self) -> Option<&'static str> {
        let has_login = self.user.is_some() && self.password.is_some();
        match (self.token.is_some(), has_login) {
            (true, _) => Some("PATCHBAY_TOKEN, or PATCHBAY_USER and PATCHBAY_PASSWORD,"),
            (false, true) => Some("PATCHBAY_USER and PATCHBAY_PASSWORD"),
            (false, false) => None,
        }
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(super) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// What was given comes first, then the session that `patchbay login` keeps for this host, then
    /// the login of the host that `patchbay dev` runs here.
    fn login(&self, url: &str) -> Login {
        if let Some(token) = &self.token {
            return Login::Token(token.clone().into());
        }
        let is_given = self.user.is_some() || self.password.is_some();
        if !is_given && let Some(kept) = KeptSession::of(url) {
            return Login::Session(kept);
        }
        match &self.dev {
            Some(dev) => Login::Basic {
                user: self.user.clone().unwrap_or_else(|| dev.user.clone()),
                password: Some(
                    self.password
                        .clone()
                        .unwrap_or_else(|| dev.password.clone()),
                ),
            },
            None if is_given => Login::Basic {
                user: self.user.clone().unwrap_or_default(),
                password: self.password.clone(),
            },
            None => Login::Nobody,
        }
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The host answered with an error.
    #[error("{message} ({code})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable code.
        code: String,
        /// Message of the host.
        message: String,
        /// Machine-readable details.
        details: Option<Value>,
    },
    /// No connection.
    #[error(
        "No host answers at {url}. Start one with `patchbay dev` or `patchbay serve`, or name another with --url or PATCHBAY_URL"
    )]
    Unreachable {
        /// URL that was tried.
        url: String,
        source: reqwest::Error,
    },
    /// The certificate of the host is not one that this machine trusts.
    #[error(
        "The certificate of {url} is not trusted here. If it comes from an authority of your own, name its file in SSL_CERT_FILE"
    )]
    Untrusted {
        /// URL that was tried.
        url: String,
        source: reqwest::Error,
    },
    /// The answer is not from a Patchbay host.
    #[error(
        "What answers at {url} is not a Patchbay host (HTTP status {status}). Check --url or PATCHBAY_URL, or start a host with `patchbay dev` \
         or `patchbay serve`"
    )]
    NotPatchbay {
        url: String,
        /// HTTP status.
        status: u16,
    },
}

#[derive(Debug)]
pub struct Received<T> {
    /// As far as this version knows the fields.
    pub data: T,
    /// The unchanged answer, for scripts: a newer host may send more fields, and parsing would
    /// round numbers.
    pub raw: Box<RawValue>,
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct ReceivedPage<T> {
    pub(super) items: Vec<T>,
    /// Cursor of the next page.
    pub(super) next_cursor: Option<String>,
    /// The search reached its time limit.
    pub(super) partial: bool,
    /// The items, unchanged, for scripts.
    pub(super) raw: Box<RawValue>,
}

impl<T> ReceivedPage<T> {
    pub(super) fn more(&self) -> More<'_> {
        More {
            next_cursor: self.next_cursor.as_deref(),
            partial: self.partial,
        }
    }
}

/// Answers that are one page of a list: `data`, `nextCursor` and `partial`, whatever else they have.
pub(super) trait Pages<T> {}

impl<T> Pages<T> for List<T> {}

impl Pages<RedisKey> for Whole<RedisKeyPage> {}

/// The envelope of an answer.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    success: bool,
    data: Option<Box<RawValue>>,
    next_cursor: Option<String>,
    #[serde(default)]
    partial: bool,
    code: Option<String>,
    message: Option<String>,
    details: Option<Value>,
}

/// Type of `data` in the answer to `E`.
pub type DataOf<E> = <<E as Endpoint>::Answer as Answer>::Data;

pub trait SendBody: Body {
    fn put_into(self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder;
}

impl SendBody for NoBody {
    fn put_into(self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request
    }
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> SendBody for Json<T> {
    fn put_into(self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request.json(&self.0)
    }
}

impl<T: ToSchema + ExpectedForm + Serialize + DeserializeOwned + Send + 'static> SendBody
    for SecretJson<T>
{
    fn put_into(self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request.json(&self.0)
    }
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> SendBody for Credentials<T> {
    fn put_into(self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request.json(&self.0)
    }
}

impl SendBody for AnyDocument {
    fn put_into(self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request.json(&self.0)
    }
}

impl SendBody for SignedComponent {
    fn put_into(self, mut request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request = request.header("content-type", Component::TYPE);
        if let Some(source) = self.source {
            request = request.header(headers::SOURCE, source);
        }
        for each in &self.signatures {
            request = request.header(signature::HEADER, each.to_string());
        }
        request.body(self.component)
    }
}

fn method_of(method: operation::Method) -> Method {
    match method {
        operation::Method::GET => Method::GET,
        operation::Method::POST => Method::POST,
        operation::Method::PUT => Method::PUT,
        operation::Method::PATCH => Method::PATCH,
        operation::Method::DELETE => Method::DELETE,
    }
}

pub struct Client {
    url: String,
    login: Login,
    http: reqwest::Client,
    /// Why the operator makes the changes of this command.
    reason: Option<String>,
}

impl Client {
    pub fn new(url: String, user: String, password: Option<String>) -> anyhow::Result<Self> {
        Self::with(url, Login::Basic { user, password })
    }

    /// With a token of a program.
    pub fn with_token(url: String, token: Zeroizing<String>) -> anyhow::Result<Self> {
        Self::with(url, Login::Token(token))
    }

    pub(super) fn with(url: String, login: Login) -> anyhow::Result<Self> {
        if !url
            .parse::<reqwest::Url>()
            .is_ok_and(|url| ["http", "https"].contains(&url.scheme()))
        {
            // The given URL is not repeated, because it may contain a password.
            let wrong = "--url or PATCHBAY_URL is not the address of a host. Write http://HOST:PORT or https://HOST";
            return Err(Refusal(wrong.into()).into());
        }
        let mut http = reqwest::Client::builder();
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        let http = http.timeout(TIMEOUT).build()?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            login,
            http,
            reason: None,
        })
    }

    /// Records the reason with every change.
    pub(super) fn because(mut self, why: &Why) -> Self {
        self.reason.clone_from(&why.reason);
        self
    }

    pub fn from_args(args: &ClientArgs) -> anyhow::Result<Self> {
        let url = args.url();
        let login = args.login(&url);
        Self::with(url, login)
    }

    /// Whose session is used, where one is.
    pub(super) fn session(&self) -> Option<&KeptSession> {
        match &self.login {
            Login::Session(kept) => Some(kept),
            _ => None,
        }
    }

    /// Opens a session of an operator, and returns what is to be kept of it.
    pub(super) async fn log_in(
        &self,
        body: OperatorLogIn,
    ) -> Result<(Received<OpenedOperatorSession>, KeptSession), ClientError> {
        let request = self.request_for::<OperatorSessionOpen>(&());
        let response = Credentials(body)
            .put_into(request)
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        let set = response.headers().get_all("set-cookie");
        let cookie = set.iter().find_map(|line| {
            let pair = line.to_str().ok()?.split(';').next()?;
            let is_session = ["patchbay=", "__Host-patchbay="]
                .iter()
                .any(|name| pair.starts_with(name));
            is_session.then(|| pair.to_owned())
        });
        let envelope = self.read(response).await?;
        let raw = self.data_of(envelope.data)?;
        let data: OpenedOperatorSession = self.parsed(&raw)?;
        let kept = KeptSession {
            url: self.url.clone(),
            name: data.name.clone(),
            cookie: cookie.ok_or_else(|| self.not_patchbay(200))?,
            ends_at: data.ends_at,
        };
        Ok((Received { data, raw }, kept))
    }

    /// Calls an operation of the API.
    pub async fn ask<E>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
    ) -> Result<Received<DataOf<E>>, ClientError>
    where
        E: Endpoint<Body: SendBody, Answer: Answer<Data: DeserializeOwned>>,
    {
        self.ask_with::<E>(path, |request| body.put_into(request.query(&query)))
            .await
    }

    /// As `ask`, but the body is sent exactly as a person wrote it, so that the host reports errors
    /// in it.
    pub(super) async fn ask_as_written<E>(
        &self,
        path: E::Path,
        body: &(impl Serialize + ?Sized),
    ) -> Result<Received<DataOf<E>>, ClientError>
    where
        E: Endpoint<Answer: Answer<Data: DeserializeOwned>>,
    {
        self.ask_with::<E>(path, |request| request.json(body)).await
    }

    /// As `ask`; `complete` adds the body to the request.
    pub(super) async fn ask_with<E>(
        &self,
        path: E::Path,
        complete: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Received<DataOf<E>>, ClientError>
    where
        E: Endpoint<Answer: Answer<Data: DeserializeOwned>>,
    {
        let envelope = self
            .envelope(complete(self.request_for::<E>(&path)))
            .await?;
        let raw = self.data_of(envelope.data)?;
        let data = self.parsed(&raw)?;
        Ok(Received { data, raw })
    }

    /// Calls an operation whose answer is not only `data`.
    pub(super) async fn ask_whole<E, T>(
        &self,
        path: E::Path,
        query: E::Query,
    ) -> Result<Received<T>, ClientError>
    where
        E: Endpoint<Body = NoBody, Answer = Whole<T>>,
        T: ToSchema + Serialize + DeserializeOwned + Send + 'static,
    {
        let request = self.request_for::<E>(&path).query(&query);
        let response = request
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        let (_, text) = self.read_text(response).await?;
        let raw = RawValue::from_string(text).map_err(|_| self.not_patchbay(200))?;
        Ok(Received {
            data: self.parsed(&raw)?,
            raw,
        })
    }

    /// An answer without data has `null`.
    fn data_of(&self, data: Option<Box<RawValue>>) -> Result<Box<RawValue>, ClientError> {
        match data {
            Some(data) => Ok(data),
            None => RawValue::from_string("null".into()).map_err(|_| self.not_patchbay(200)),
        }
    }

    fn parsed<T: DeserializeOwned>(&self, raw: &RawValue) -> Result<T, ClientError> {
        serde_json::from_str(raw.get()).map_err(|_| self.not_patchbay(200))
    }

    fn request_for<E: Endpoint>(&self, path: &E::Path) -> reqwest::RequestBuilder {
        let operation = E::OPERATION;
        let segments = path.segments();
        let mut request = self.request(
            method_of(operation.method),
            &path::filled(operation.path, &segments),
        );
        if let (true, Some(reason)) = (operation.may_change(), &self.reason) {
            request = request.query(&[("reason", reason)]);
        }
        // Commands ask before they come here.
        if let Effect::Destroys(_) = operation.effect {
            let confirm = segments.last().map_or("all", String::as_str);
            request = request.query(&[("confirm", confirm)]);
        }
        request
    }

    pub(super) async fn ask_page<E, T>(
        &self,
        path: &E::Path,
        query: &E::Query,
    ) -> Result<ReceivedPage<T>, ClientError>
    where
        E: Endpoint<Body = NoBody, Answer: Pages<T>>,
        T: ToSchema + Serialize + DeserializeOwned + 'static,
    {
        let page = self
            .envelope(self.request_for::<E>(path).query(query))
            .await?;
        let raw = self.data_of(page.data)?;
        Ok(ReceivedPage {
            items: self.parsed(&raw)?,
            next_cursor: page.next_cursor,
            partial: page.partial,
            raw,
        })
    }

    /// Requests a list page by page. `query_of` makes the query of a page from its cursor and the
    /// number of items so far; `None` ends the list.
    pub(super) async fn ask_pages<E, T>(
        &self,
        path: &E::Path,
        query_of: impl Fn(Option<String>, u64) -> Option<E::Query>,
    ) -> Result<Received<Vec<T>>, ClientError>
    where
        E: Endpoint<Body = NoBody, Answer: Pages<T>>,
        T: ToSchema + Serialize + DeserializeOwned + 'static,
    {
        let pages = self.ask_up_to::<E, T>(path, query_of).await?;
        Ok(Received {
            data: pages.items,
            raw: pages.raw,
        })
    }

    /// As [`Self::ask_pages`], but also returns the cursor with which the list goes on.
    pub(super) async fn ask_up_to<E, T>(
        &self,
        path: &E::Path,
        query_of: impl Fn(Option<String>, u64) -> Option<E::Query>,
    ) -> Result<ReceivedPage<T>, ClientError>
    where
        E: Endpoint<Body = NoBody, Answer: Pages<T>>,
        T: ToSchema + Serialize + DeserializeOwned + 'static,
    {
        let (mut items, mut raw) = (Vec::new(), Vec::<Box<RawValue>>::new());
        let (mut next_cursor, mut partial) = (None, false);
        while let Some(query) = query_of(next_cursor.clone(), items.len() as u64) {
            let page = self.ask_page::<E, T>(path, &query).await?;
            items.extend(page.items);
            raw.extend(self.parsed::<Vec<Box<RawValue>>>(&page.raw)?);
            (next_cursor, partial) = (page.next_cursor, page.partial);
            if next_cursor.is_none() {
                break;
            }
        }
        Ok(ReceivedPage {
            items,
            next_cursor,
            partial,
            raw: to_raw_value(&raw).map_err(|_| self.not_patchbay(200))?,
        })
    }

    pub async fn ask_for_file<E>(
        &self,
        path: E::Path,
        query: E::Query,
    ) -> Result<Vec<u8>, ClientError>
    where
        E: Endpoint<Body = NoBody, Answer: Answer<Data = Vec<u8>>>,
    {
        let path = path::filled(E::OPERATION.path, &path.segments());
        self.content(
            self.request(method_of(E::OPERATION.method), &path)
                .query(&query),
        )
        .await
    }

    async fn content(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, ClientError> {
        let response = request
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            return Err(self
                .read(response)
                .await
                .map_or_else(|error| error, |_| self.not_patchbay(status)));
        }
        let content = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(source))?;
        Ok(content.to_vec())
    }

    pub async fn push(&self, file: SignedComponent) -> Result<Received<Staged>, ClientError> {
        self.ask::<PluginsPush>((), NoQuery {}, file).await
    }

    pub async fn activate(
        &self,
        plugin: &str,
        digest: &str,
        grant: bool,
    ) -> Result<Received<Activated>, ClientError> {
        let wanted = Json(Activate {
            digest: digest.to_owned(),
            grant,
        });
        self.ask::<PluginsActivate>(
            PluginPath {
                name: plugin.to_owned(),
            },
            NoQuery {},
            wanted,
        )
        .await
    }

    /// Calls an operation of a plugin. `input` is sent unparsed, because parsing would round its
    /// numbers.
    pub(super) async fn answer(
        &self,
        path: &str,
        operation: &str,
        input: &RawValue,
    ) -> Result<Answered, ClientError> {
        #[derive(serde::Serialize)]
        struct Call<'a> {
            operation: &'a str,
            input: &'a RawValue,
        }
        let request = self
            .request(Method::POST, path)
            .timeout(ANSWER_TIMEOUT)
            .json(&Call { operation, input });
        let response = request
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        let header = |name: &str| {
            response
                .headers()
                .get(name)?
                .to_str()
                .ok()
                .map(str::to_owned)
        };
        let Some(kind) = header(headers::ANSWER.as_str()) else {
            return Err(self
                .read(response)
                .await
                .err()
                .unwrap_or_else(|| self.not_patchbay(200)));
        };
        let mut answered = Answered {
            kind,
            status: header(headers::STATUS.as_str()).and_then(|status| status.parse().ok()),
            http_status: response.status().as_u16(),
            content_type: header("content-type"),
            content: Vec::new(),
        };
        let content = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(source))?;
        answered.content = match answered.kind.as_str() {
            "json" => {
                #[derive(serde::Deserialize)]
                struct Envelope {
                    data: Box<RawValue>,
                }
                let envelope: Result<Envelope, _> = serde_json::from_slice(&content);
                let data = envelope
                    .map_err(|_| self.not_patchbay(answered.http_status))?
                    .data;
                data.get().as_bytes().to_vec()
            }
            _ => content.to_vec(),
        };
        Ok(answered)
    }

    /// For answers without an envelope; the body is not read yet.
    pub(super) async fn get_raw(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<reqwest::Response, ClientError> {
        let request = self.request(Method::GET, path).timeout(limit);
        let response = request
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self
                .read(response)
                .await
                .err()
                .unwrap_or_else(|| self.not_patchbay(200))),
        }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        // A path without a slash in front is below /api/admin.
        let below = if path.starts_with('/') {
            ""
        } else {
            "/api/admin/"
        };
        let request = self
            .http
            .request(method, format!("{}{below}{path}", self.url));
        match &self.login {
            Login::Nobody => request,
            Login::Basic { user, password } => request.basic_auth(user, password.as_ref()),
            Login::Token(token) => request.bearer_auth(token.as_str()),
            Login::Session(kept) => request.header("cookie", kept.cookie.as_str()),
        }
    }

    fn how_to_log_in(&self) -> &'static str {
        match &self.login {
            Login::Session(_) => "The session has ended. Log in again: patchbay login",
            Login::Token(_) => {
                "The token is unknown, expired or revoked, or may not come from this network. Make another one: patchbay token create"
            }
            Login::Nobody | Login::Basic { .. } => {
                "Log in: patchbay login. Or set PATCHBAY_TOKEN, or PATCHBAY_USER and PATCHBAY_PASSWORD, or change to the directory where `patchbay dev` runs"
            }
        }
    }

    /// The URL without credentials, which some people write into it.
    fn shown(&self) -> String {
        self.url
            .rsplit_once('@')
            .map_or(self.url.as_str(), |(_, address)| address)
            .to_owned()
    }

    async fn envelope(&self, request: reqwest::RequestBuilder) -> Result<Envelope, ClientError> {
        let response = request
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        self.read(response).await
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        let (url, source) = (self.shown(), source.without_url());
        let mut causes = std::iter::successors(std::error::Error::source(&source), |cause| {
            std::error::Error::source(*cause)
        });
        // The text of rustls, which no type of the HTTP client gives.
        match causes.any(|cause| cause.to_string().contains("invalid peer certificate")) {
            true => ClientError::Untrusted { url, source },
            false => ClientError::Unreachable { url, source },
        }
    }

    fn not_patchbay(&self, status: u16) -> ClientError {
        ClientError::NotPatchbay {
            url: self.shown(),
            status,
        }
    }

    /// Returns the envelope of a success.
    async fn read(&self, response: reqwest::Response) -> Result<Envelope, ClientError> {
        Ok(self.read_text(response).await?.0)
    }

    /// As [`Self::read`], with the whole answer.
    async fn read_text(
        &self,
        response: reqwest::Response,
    ) -> Result<(Envelope, String), ClientError> {
        let status = response.status().as_u16();
        let text = response
            .text()
            .await
            .map_err(|source| self.unreachable(source))?;
        let body: Envelope = serde_json::from_str(&text).map_err(|_| self.not_patchbay(status))?;
        if body.success {
            return Ok((body, text));
        }
        match body.code.as_deref() {
            // Other programs answer in this form, too, but without a code.
            None => return Err(self.not_patchbay(status)),
            Some("route-not-found") => {
                return Err(ClientError::Refused {
                    status,
                    code: "route-not-found".into(),
                    message: format!(
                        "The host at {} has no such operation: it is of another version than this command ({}). See `patchbay --version` on \
                         its machine",
                        self.shown(),
                        env!("CARGO_PKG_VERSION")
                    ),
                    details: body.details,
                });
            }
            Some(_) => {}
        }
        let code = body.code.unwrap_or_else(|| "error".into());
        Err(ClientError::Refused {
            status,
            details: body.details,
            message: match (code.as_str(), body.message) {
                ("unauthorized", Some(message)) => {
                    format!("{message}. {}", self.how_to_log_in())
                }
                (_, message) => {
                    message.unwrap_or_else(|| "The host refused, without a reason".into())
                }
            },
            code,
        })
    }
}

/// Answer of a plugin operation.
#[derive(Debug)]
pub struct Answered {
    /// `json`, `bytes`, `relay` or `empty`.
    pub(super) kind: String,
    /// Status that the plugin chose for an HTTP route.
    pub(super) status: Option<u16>,
    /// Status of the response of the host; for `relay` that of the relayed response.
    pub(super) http_status: u16,
    pub(super) content_type: Option<String>,
    /// For `json`, only the document of the plugin, without the envelope.
    pub(super) content: Vec<u8>,
}

#[derive(clap::Args, Default)]
pub struct RevealArgs {
    /// Also show hidden values; who asked, for which job and when is recorded
    #[arg(long)]
    pub(super) reveal: bool,
    /// Why, for the record; no personal data
    #[arg(long, requires = "reveal")]
    pub(super) reason: Option<String>,
}

impl From<RevealArgs> for Reveal {
    fn from(args: RevealArgs) -> Self {
        Self {
            reveal: args.reveal,
            reason: args.reason,
        }
    }
}

impl RevealArgs {}
