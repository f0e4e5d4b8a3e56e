//! Who comes in: a page for whoever is signed in, and an action only with the token of its form.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use patchbay_api::body::NoBody;
use patchbay_api::operation::NoQuery;
use patchbay_api::operators::OperatorSessionShow;

use crate::Site;
use crate::form_token::TOKEN;
use crate::frame;
use crate::session::{Problem, Visit};

/// What a form has sent.
#[derive(Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// As it was typed; empty where the form has no such field.
    pub(crate) fn raw(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(named, _)| named == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// Without white space around it; `None` for an empty one.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        Some(self.raw(name).trim()).filter(|text| !text.is_empty())
    }

    /// Whether a box is ticked.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        !self.raw(name).is_empty()
    }

    /// The reason of whoever does it.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.text("reason")
    }

    /// As a form would send them.
    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self(pairs.iter().map(owned).collect())
    }

    fn read(body: &[u8]) -> Self {
        let pairs = url::form_urlencoded::parse(body);
        // Browsers send the ends of lines in a text area as CRLF.
        let read = |(name, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
            (name.into_owned(), value.replace("\r\n", "\n"))
        };
        Self(pairs.map(read).collect())
    }
}

/// A form of this console, sent by the browser that it was given to, by whoever is signed in there.
pub(crate) struct Posted {
    pub(crate) visit: Visit,
    pub(crate) fields: Fields,
}

/// As [`Posted`], of somebody who is not signed in yet.
pub(crate) struct PostedByAnyone {
    pub(crate) visit: Visit,
    pub(crate) fields: Fields,
}

/// A request of somebody who may not be signed in.
pub(crate) struct Anyone(pub(crate) Visit);

/// A number of a form; `None` where it is left empty.
pub(crate) fn whole<T: std::str::FromStr>(
    visit: &Visit,
    fields: &Fields,
    name: &str,
    label: &str,
) -> Result<Option<T>, Problem> {
    let Some(text) = fields.text(name) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let message = format!("{label}: must be a whole number. Nothing was done");
        visit.problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", message)
    })
}

fn visit(parts: &Parts, site: &Site) -> Visit {
    let address = parts
        .uri
        .path_and_query()
        .map_or(parts.uri.path(), http::uri::PathAndQuery::as_str);
    Visit::new(
        site.clone(),
        &parts.headers,
        &parts.extensions,
        address.to_owned(),
    )
}

/// The request of the operator that it belongs to; else where the browser is sent.
async fn signed_in(visit: Visit, method: &Method) -> Result<Visit, Response> {
    if !visit.has_credential() {
        return Err(sent_to_sign_in(&visit, method));
    }
    let asked = visit.ask::<OperatorSessionShow>((), NoQuery {}, NoBody);
    match asked.await {
        Ok(who) => Ok(visit.of(who)),
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED => {
            Err(match visit.has_authorization() {
                // The browser asks for another name and password.
                true => asked_for_credentials(problem.into_response()),
                false => sent_to_sign_in(&visit, method),
            })
        }
        Err(problem) => Err(problem.into_response()),
    }
}

/// Adds what makes a browser ask for name and password.
pub(crate) fn asked_for_credentials(mut response: Response) -> Response {
    let challenge = HeaderValue::from_static("Basic realm=\"Patchbay\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

fn sent_to_sign_in(visit: &Visit, method: &Method) -> Response {
    if visit.is_refresh() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let back = match *method {
        Method::GET | Method::HEAD => visit.address(),
        // What was posted is lost, and must not be done by a link.
        _ => "",
    };
    frame::sent_on(&frame::sign_in_address(back))
}

impl FromRequestParts<Site> for Visit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Response> {
        signed_in(visit(parts, site), &parts.method).await
    }
}

impl FromRequestParts<Site> for Anyone {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Response> {
        Ok(Self(visit(parts, site)))
    }
}

async fn fields(request: Request, visit: &Visit, site: &Site) -> Result<Fields, Response> {
    let kind = request.headers().get(CONTENT_TYPE);
    let is_form = kind
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if !is_form {
        let message =
            "This address takes forms of the console only. Programs use the API: see /api/docs";
        let problem = visit.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid-input", message);
        return Err(problem.into_response());
    }
    let body = Bytes::from_request(request, site).await.map_err(|error| {
        let status = error.into_response().status();
        let message = "The form is too large, or did not arrive whole. Nothing was done";
        visit.problem(status, "too-large", message).into_response()
    })?;
    let fields = Fields::read(&body);
    if visit.accepts(fields.raw(TOKEN)) {
        return Ok(fields);
    }
    let message = "Nothing was done: the form is not of this browser's present session. Open the page again, and send the form from there";
    Err(visit
        .problem(StatusCode::FORBIDDEN, "form-expired", message)
        .into_response())
}

impl FromRequest<Site> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, site: &Site) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let visit = signed_in(visit(&parts, site), &parts.method).await?;
        let request = Request::from_parts(parts, body);
        let fields = fields(request, &visit, site).await?;
        Ok(Self { visit, fields })
    }
}

impl FromRequest<Site> for PostedByAnyone {
    type Rejection = Response;

    async fn from_request(request: Request, site: &Site) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let visit = visit(&parts, site);
        let request = Request::from_parts(parts, body);
        let fields = fields(request, &visit, site).await?;
        Ok(Self { visit, fields })
    }
}
