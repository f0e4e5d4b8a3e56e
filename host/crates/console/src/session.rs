//! One request of a person, and what it asks of the API.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use chrono::{DateTime, Utc};
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, USER_AGENT};
use http::{Extensions, HeaderMap, Request, StatusCode};
use patchbay_api::answer::{Answer, ErrorBody, List, Media, Success};
use patchbay_api::body::NoBody;
use patchbay_api::operation::{Effect, Endpoint, JobData, Method, Operation, PathParams};
use patchbay_api::operators::CurrentOperator;
use patchbay_api::path;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt;
use utoipa::ToSchema;

use crate::Site;
use crate::form_token::{CookieNames, FormSecret, Notice, cookie};
use crate::send_body::SendBody;
use crate::shared_reads;

/// Largest answer of the API that a page reads, in bytes: a job's data and result are at most 1 MiB
/// each, and an export is read whole.
const MAX_ANSWER: usize = 64 << 20;

/// The header with which the script asks for what changes on a page.
pub(crate) const REFRESH: &str = "x-patchbay-refresh";

/// `data` of an operation's envelope.
pub(crate) type DataOf<E> = <<E as Endpoint>::Answer as Answer>::Data;

/// A request of a person. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Visit(Arc<Inner>);

struct Inner {
    site: Site,
    /// Of the request, for the API: who sends it.
    headers: HeaderMap,
    extensions: Extensions,
    who: Option<CurrentOperator>,
    credential: String,
    secret: FormSecret,
    cookies: CookieNames,
    notice: Option<Notice>,
    address: String,
    is_refresh: bool,
    now: DateTime<Utc>,
}

/// Why the API did not do what a page asked.
pub(crate) struct Problem {
    pub(crate) visit: Visit,
    pub(crate) status: StatusCode,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) details: Option<Value>,
    /// Where the page of the error leads back to.
    pub(crate) back: Option<String>,
}

impl Problem {
    pub(crate) fn back(mut self, address: impl Into<String>) -> Self {
        self.back = Some(address.into());
        self
    }
}

/// One page of a list.
pub(crate) struct PageOf<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next_cursor: Option<String>,
    pub(crate) partial: bool,
}

/// What a change says beside its own parameters.
#[derive(Default)]
struct Intent<'a> {
    reason: Option<&'a str>,
    is_confirmed: bool,
}

impl Visit {
    /// Of a request; nobody is known yet.
    pub(crate) fn new(
        site: Site,
        headers: &HeaderMap,
        extensions: &Extensions,
        address: String,
    ) -> Self {
        let session_cookie = (site.config.session_cookie)(extensions);
        let cookies = CookieNames::beside(session_cookie);
        let secret = FormSecret::of(headers, cookies);
        let notice = secret.told(headers, cookies);
        let credential = match headers.get(AUTHORIZATION) {
            Some(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            None => cookie(headers, session_cookie).unwrap_or_default(),
        };
        let mut kept = HeaderMap::new();
        for name in [AUTHORIZATION, COOKIE, USER_AGENT] {
            for value in headers.get_all(&name) {
                kept.append(name.clone(), value.clone());
            }
        }
        Self(Arc::new(Inner {
            headers: kept,
            extensions: (site.config.carried)(extensions),
            site,
            who: None,
            credential,
            secret,
            cookies,
            notice,
            address,
            is_refresh: headers.contains_key(REFRESH),
            now: Utc::now(),
        }))
    }

    /// The same request, of this operator.
    pub(crate) fn of(self, who: CurrentOperator) -> Self {
        let mut inner = Arc::try_unwrap(self.0).unwrap_or_else(|shared| shared.copied());
        inner.who = Some(who);
        Self(Arc::new(inner))
    }

    pub(crate) fn site(&self) -> &Site {
        &self.0.site
    }

    /// Whether the request shows a credential, of whatever worth.
    pub(crate) fn has_credential(&self) -> bool {
        !self.0.credential.is_empty()
    }

    /// Whether the credential is one that the browser was asked for with HTTP's own means.
    pub(crate) fn has_authorization(&self) -> bool {
        self.0.headers.contains_key(AUTHORIZATION)
    }

    pub(crate) fn who(&self) -> Option<&CurrentOperator> {
        self.0.who.as_ref()
    }

    pub(crate) fn secret(&self) -> &FormSecret {
        &self.0.secret
    }

    pub(crate) fn cookies(&self) -> CookieNames {
        self.0.cookies
    }

    pub(crate) fn notice(&self) -> Option<&Notice> {
        self.0.notice.as_ref().filter(|_| !self.0.is_refresh)
    }

    /// The token of forms on this page.
    pub(crate) fn token(&self) -> String {
        self.0.secret.token(&self.0.credential)
    }

    pub(crate) fn accepts(&self, token: &str) -> bool {
        self.0.secret.accepts(token, &self.0.credential)
    }

    /// Path and query of the request.
    pub(crate) fn address(&self) -> &str {
        &self.0.address
    }

    /// Whether the script asks for what changes, not a person for the page.
    pub(crate) fn is_refresh(&self) -> bool {
        self.0.is_refresh
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.0.now
    }

    /// Whether this person may call the operation, as far as role and the right to see data tell.
    pub(crate) fn may<E: Endpoint>(&self) -> bool {
        let operation = const { &E::OPERATION };
        let Some(who) = &self.0.who else {
            return false;
        };
        let has_role = operation
            .access
            .role()
            .is_none_or(|needed| who.role >= needed);
        has_role && (who.may_see_data || operation.data != JobData::Needed)
    }

    /// Refuses the page of an action that this person may not take.
    pub(crate) fn require<E: Endpoint>(&self) -> Result<(), Problem> {
        if self.may::<E>() {
            return Ok(());
        }
        let message = match E::OPERATION.access.role() {
            Some(role) if self.who().is_none_or(|who| who.role < role) => {
                format!("Nothing was done: this needs the role {role}. An owner gives roles")
            }
            _ => "Nothing was done: this needs the right to see data of jobs. An owner gives it"
                .to_owned(),
        };
        Err(self.problem(StatusCode::FORBIDDEN, "forbidden", message))
    }

    pub(crate) fn may_see_data(&self) -> bool {
        self.0.who.as_ref().is_some_and(|who| who.may_see_data)
    }

    /// A problem that the console itself has found.
    pub(crate) fn problem(
        &self,
        status: StatusCode,
        code: &str,
        message: impl Into<String>,
    ) -> Problem {
        Problem {
            visit: self.clone(),
            status,
            code: code.to_owned(),
            message: message.into(),
            details: None,
            back: None,
        }
    }

    /// Asks an operation that reads.
    pub(crate) async fn ask<E>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
    ) -> Result<DataOf<E>, Problem>
    where
        E: Endpoint<Body: SendBody, Answer: Answer<Data: DeserializeOwned>>,
    {
        let asked = self.envelope::<E, _>(&path, &query, &body, Intent::default());
        Ok(asked.await?.data)
    }

    /// As `ask`, for what many open pages look at: an answer of the last second to somebody who sees
    /// the same will do. Only for operations that depend on nothing but role and sight of data.
    pub(crate) async fn ask_shared<E>(
        &self,
        path: E::Path,
        query: E::Query,
    ) -> Result<DataOf<E>, Problem>
    where
        E: Endpoint<Body = NoBody, Answer: Answer<Data: DeserializeOwned>>,
    {
        let operation = const { &E::OPERATION };
        let uri = self.uri::<E>(operation, &path, &query, Intent::default())?;
        // What a token opens beside its role is its own. And whoever has just changed something looks
        // for it.
        let may_share = |who: &&CurrentOperator| who.scopes.is_none() && self.notice().is_none();
        let Some(who) = self.who().filter(may_share) else {
            return self.ask::<E>(path, query, NoBody).await;
        };
        let key = format!("{} {} {uri}", who.role, who.may_see_data);
        let asked = async {
            let (status, body, _) = self.send(operation, &uri, None).await;
            Arc::new((status, body.to_vec()))
        };
        let answer: shared_reads::Answer = self.site().shared.get(key, asked).await;
        Ok(self.read::<DataOf<E>>(answer.0, &answer.1)?.data)
    }

    /// One page of a list.
    pub(crate) async fn page<E, T>(
        &self,
        path: E::Path,
        query: E::Query,
    ) -> Result<PageOf<T>, Problem>
    where
        E: Endpoint<Body = NoBody, Answer = List<T>>,
        T: ToSchema + Serialize + DeserializeOwned + 'static,
    {
        let asked = self.envelope::<E, Vec<T>>(&path, &query, &NoBody, Intent::default());
        let envelope = asked.await?;
        Ok(PageOf {
            items: envelope.data,
            next_cursor: envelope.next_cursor,
            partial: envelope.partial,
        })
    }

    /// Asks an operation that changes something, with the reason that the person gave.
    pub(crate) async fn change<E>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
        reason: Option<&str>,
    ) -> Result<DataOf<E>, Problem>
    where
        E: Endpoint<Body: SendBody, Answer: Answer<Data: DeserializeOwned>>,
    {
        let intent = Intent {
            reason,
            is_confirmed: false,
        };
        let done = self.envelope::<E, _>(&path, &query, &body, intent);
        Ok(done.await?.data)
    }

    /// As `change`, for what cannot be restored: the person has typed the name.
    pub(crate) async fn destroy<E>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
        reason: Option<&str>,
    ) -> Result<DataOf<E>, Problem>
    where
        E: Endpoint<Body: SendBody, Answer: Answer<Data: DeserializeOwned>>,
    {
        let intent = Intent {
            reason,
            is_confirmed: true,
        };
        let done = self.envelope::<E, _>(&path, &query, &body, intent);
        Ok(done.await?.data)
    }

    /// A file, whole.
    pub(crate) async fn file<E, M>(&self, path: E::Path, query: E::Query) -> Result<Bytes, Problem>
    where
        M: Media,
        E: Endpoint<Body = NoBody, Answer = patchbay_api::answer::File<M>>,
    {
        let operation = const { &E::OPERATION };
        let uri = self.uri::<E>(operation, &path, &query, Intent::default())?;
        let (status, body, _) = self.send(operation, &uri, None).await;
        match status.is_success() {
            true => Ok(body),
            false => Err(self.refused(status, &body)),
        }
    }

    /// Asks, and returns the headers of the answer, too.
    pub(crate) async fn ask_with_headers<E>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
    ) -> Result<(DataOf<E>, HeaderMap), Problem>
    where
        E: Endpoint<Body: SendBody, Answer: Answer<Data: DeserializeOwned>>,
    {
        let operation = const { &E::OPERATION };
        let uri = self.uri::<E>(operation, &path, &query, Intent::default())?;
        let body = body.bytes().map_err(|_| self.unread())?;
        let (status, body, headers) = self.send(operation, &uri, body).await;
        Ok((self.read::<DataOf<E>>(status, &body)?.data, headers))
    }

    async fn envelope<E, T>(
        &self,
        path: &E::Path,
        query: &E::Query,
        body: &E::Body,
        intent: Intent<'_>,
    ) -> Result<Success<T>, Problem>
    where
        E: Endpoint<Body: SendBody>,
        T: DeserializeOwned,
    {
        let operation = const { &E::OPERATION };
        let uri = self.uri::<E>(operation, path, query, intent)?;
        let body = body.bytes().map_err(|_| self.unread())?;
        let (status, body, _) = self.send(operation, &uri, body).await;
        self.read(status, &body)
    }

    fn uri<E: Endpoint>(
        &self,
        operation: &Operation,
        path: &E::Path,
        query: &E::Query,
        intent: Intent<'_>,
    ) -> Result<String, Problem> {
        let segments = path.segments();
        let place = path::filled(operation.path, &segments);
        let mut pairs = serde_urlencoded::to_string(query).map_err(|_| self.unread())?;
        let mut also = Vec::new();
        if let (true, Some(reason)) = (operation.may_change(), intent.reason) {
            also.push(("reason", reason));
        }
        if let (Effect::Destroys(_), true) = (operation.effect, intent.is_confirmed) {
            also.push(("confirm", segments.last().map_or("all", String::as_str)));
        }
        if !also.is_empty() {
            let own = serde_urlencoded::to_string(&also).map_err(|_| self.unread())?;
            let between = if pairs.is_empty() { "" } else { "&" };
            pairs = format!("{pairs}{between}{own}");
        }
        Ok(match pairs.is_empty() {
            true => place,
            false => format!("{place}?{pairs}"),
        })
    }

    async fn send(
        &self,
        operation: &Operation,
        uri: &str,
        body: Option<Vec<u8>>,
    ) -> (StatusCode, Bytes, HeaderMap) {
        let method = match operation.method {
            Method::GET => http::Method::GET,
            Method::POST => http::Method::POST,
            Method::PUT => http::Method::PUT,
            Method::PATCH => http::Method::PATCH,
            Method::DELETE => http::Method::DELETE,
        };
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        let Ok(uri) = uri.parse() else {
            return (StatusCode::URI_TOO_LONG, Bytes::new(), HeaderMap::new());
        };
        *request.uri_mut() = uri;
        *request.headers_mut() = self.0.headers.clone();
        *request.extensions_mut() = self.0.extensions.clone();
        if let Some(body) = body {
            let json = http::HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
            *request.body_mut() = body.into();
        }
        let Ok(response) = self.site().config.api.clone().oneshot(request).await;
        let (parts, body) = response.into_parts();
        match to_bytes(body, MAX_ANSWER).await {
            Ok(body) => (parts.status, body, parts.headers),
            Err(error) => {
                tracing::warn!(%error, operation = operation.id, "an answer of the API could not be read for the console");
                (StatusCode::BAD_GATEWAY, Bytes::new(), parts.headers)
            }
        }
    }

    fn read<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        body: &[u8],
    ) -> Result<Success<T>, Problem> {
        if !status.is_success() {
            return Err(self.refused(status, body));
        }
        serde_json::from_slice(body).map_err(|error| {
            tracing::error!(%error, "the console cannot read an answer of the API");
            self.unread()
        })
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Problem {
        let body: Option<ErrorBody> = serde_json::from_slice(body).ok();
        let unknown = || ErrorBody {
            success: false,
            code: "internal".into(),
            message: format!("The host answered {status} without a reason. Its log has more"),
            details: None,
        };
        let body = body.unwrap_or_else(unknown);
        Problem {
            visit: self.clone(),
            status,
            code: body.code.into_owned(),
            message: body.message,
            details: body.details,
            back: None,
        }
    }

    fn unread(&self) -> Problem {
        let message = "The console could not read what the host answered. The host's log has more";
        self.problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl Inner {
    fn copied(&self) -> Self {
        Self {
            site: self.site.clone(),
            headers: self.headers.clone(),
            extensions: self.extensions.clone(),
            who: None,
            credential: self.credential.clone(),
            secret: self.secret.clone(),
            cookies: self.cookies,
            notice: self.notice.clone(),
            address: self.address.clone(),
            is_refresh: self.is_refresh,
            now: self.now,
        }
    }
}
