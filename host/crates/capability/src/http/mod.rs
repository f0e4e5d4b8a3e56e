//! Outbound HTTP: `patchbay:plugin/http` and `wasi:http` use the same code.

pub(crate) mod egress;

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::CredentialName;
use patchbay_model::capability::{HttpError, HttpRequest, HttpResponse, TimeoutPhase};
use patchbay_model::egress::breakers;
use patchbay_model::grant::Ask;
use patchbay_model::manifest::{EgressAuth, EgressRule, Manifest};
use patchbay_telemetry::metrics::known_method;
use tracing::Instrument;

use self::egress::{Caller, Followed, NoPlace, Place, Relayed, credential_field};
use crate::call::{Denied, Gate, GuestCall, Measured};
use crate::guest::{Guest, HostResult};
use crate::meters::{STATUSES, abandoned, status_of};
use crate::{HostCall, OutsideMeters, credentials, secrets};

pub(crate) fn is_asked_for_by(manifest: &Manifest) -> bool {
    !manifest.egress.is_empty()
}

/// Dropping it counts the request: at its end, or with the guest.
struct Counted<'a> {
    meters: &'a OutsideMeters,
    place: usize,
    status: usize,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.meters.count_request(self.place, self.status);
    }
}

/// Redirects of one relayed request.
const MAX_REDIRECTS: usize = 3;

/// What becomes of the response.
enum Want {
    /// The credential that the call names, if it does.
    Whole(Option<String>),
    Relay(Place),
}

impl Want {
    /// The name of the credential, for the attempt's history; a text that is no name is nothing.
    fn credential(&self) -> Option<String> {
        match self {
            Self::Whole(Some(name)) => name.parse::<CredentialName>().ok().map(|_| name.clone()),
            Self::Whole(None) | Self::Relay(_) => None,
        }
    }
}

enum Got {
    Whole(HttpResponse),
    Relay(Followed),
}

impl Got {
    fn status(&self) -> u16 {
        match self {
            Self::Whole(response) => response.status,
            Self::Relay(Followed::Relayed(relayed)) => relayed.status,
            Self::Relay(Followed::Redirected(..)) => 302,
        }
    }
}

/// Why nothing is relayed.
#[derive(Debug)]
pub enum RelayFailure {
    /// As many responses as possible are passed on already, to all clients or to this one.
    Busy(NoPlace),
    Http(HttpError),
}

impl From<HttpError> for RelayFailure {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

pub(crate) async fn whole(
    guest: Arc<GuestCall>,
    request: HttpRequest,
) -> Result<HttpResponse, HttpError> {
    whole_with(guest, request, None).await
}

/// With the credential of this name, which the plugin has handed over.
async fn whole_with(
    guest: Arc<GuestCall>,
    request: HttpRequest,
    credential: Option<String>,
) -> Result<HttpResponse, HttpError> {
    match send(guest, request, Want::Whole(credential)).await? {
        Got::Whole(response) => Ok(response),
        Got::Relay(_) => Err(HttpError::Other("the response was not read".into())),
    }
}

impl GuestCall {
    /// A response to pass on to a client in pieces. Redirects are followed where a rule of the
    /// manifest allows the next request, with that rule's credentials. `client`: who gets it; nothing
    /// where that is not known.
    pub async fn relay(
        self: &Arc<Self>,
        mut request: HttpRequest,
        client: Option<&str>,
    ) -> Result<Relayed, RelayFailure> {
        let place = self.unmeasured().services().egress.relay_place(client);
        let mut place = place.map_err(RelayFailure::Busy)?;
        for _ in 0..=MAX_REDIRECTS {
            let got = send(Arc::clone(self), request.clone(), Want::Relay(place)).await?;
            match got {
                Got::Relay(Followed::Relayed(relayed)) => return Ok(*relayed),
                Got::Relay(Followed::Redirected(next, again)) => {
                    request.url = next;
                    place = again;
                }
                Got::Whole(_) => break,
            }
        }
        let reason = format!("the response redirects more than {MAX_REDIRECTS} times");
        Err(HttpError::Other(reason).into())
    }
}

/// Sends under the manifest's egress rules. Measured and traced by host and status class; other
/// host calls only as failed or not.
async fn send(
    guest: Arc<GuestCall>,
    mut request: HttpRequest,
    want: Want,
) -> Result<Got, HttpError> {
    let mut measured = Measured::start(Arc::clone(&guest), HostCall::Http);
    let meters = &guest.call.meters;
    let place = meters.place_of(&request.url);
    let host = meters.host(place);
    measured.span.set(
        "http.request.method",
        request
            .method
            .parse()
            .map_or("other", |method| known_method(&method)),
    );
    measured.span.set("server.address", host.to_owned());
    if let Some(here) = measured
        .span
        .place()
        .filter(|_| guest.call.traces.propagates_to(host))
    {
        request
            .headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("traceparent"));
        request
            .headers
            .push(("traceparent".into(), here.to_string().into()));
    }
    let mut counted = Counted {
        meters,
        place,
        status: abandoned(),
    };
    let answer = recorded(&measured.gate(), request, want).await;
    counted.status = status_of(answer.as_ref().map(Got::status));
    if let Ok(response) = &answer {
        measured
            .span
            .set("http.response.status_code", i64::from(response.status()));
    }
    let failed = !matches!(&answer, Ok(response) if response.status() < 400);
    measured.ended(failed.then_some(STATUSES[counted.status]));
    answer
}

/// Records the call in the attempt's history.
async fn recorded(gate: &Gate, request: HttpRequest, want: Want) -> Result<Got, HttpError> {
    let outside = &gate.guest().outside;
    let host = host_of(&request.url);
    let place = outside.begin("http", Some(&request.method), &host, want.credential());
    let answer = permitted(gate, request, want).await;
    outside.end(&place, result_of(&answer));
    answer
}

async fn permitted(gate: &Gate, request: HttpRequest, want: Want) -> Result<Got, HttpError> {
    gate.not_in_transaction()?;
    let call = gate.call();
    let named = match &want {
        Want::Whole(Some(name)) => Some(credentials::named(gate, name)?),
        Want::Whole(None) | Want::Relay(_) => None,
    };
    // The rule's own secrets, granted with it or one by one; or fields of the named credential.
    let secrets = |name: &str| match credential_field(name) {
        Some(field) => named.as_ref()?.field(field),
        None => secrets::current(gate, name).ok()?.into_iter().next(),
    };
    let permitted = |rule: &EgressRule| {
        match (&rule.auth, &named) {
            (Some(EgressAuth::Credential(_)), None) => {
                return Err(
                    "the egress rule fills in a credential: name one, with send-with".into(),
                );
            }
            (Some(EgressAuth::Credential(_)), Some(_)) | (_, None) => {}
            (_, Some(_)) => {
                return Err("the egress rule fills in no credential that a call names".into());
            }
        }
        gate.granted(Ask::http(rule))
            .map_err(|Denied(reason)| reason)
    };
    let admit = |host: &str| {
        let spec = breakers(&call.manifest.egress).get(host).copied();
        gate.guest()
            .admit(host, spec)
            .map_err(|wait| HttpError::BreakerOpen(wait.as_millis() as u64))
    };
    let caller = Caller {
        revision: call.revision,
        manifest: &call.manifest,
        permitted: &permitted,
        admit: &admit,
        secrets: &secrets,
        correlation_id: call.trace.correlation_id.as_deref(),
    };
    let egress = &gate.services().egress;
    let sent = async {
        match want {
            Want::Whole(_) => egress.send(caller, request).await.map(Got::Whole),
            Want::Relay(place) => {
                let followed = egress.relay(caller, request, place).await;
                followed.map(Got::Relay)
            }
        }
    };
    sent.instrument(call.span.clone()).await
}

/// The host of a URL, with its port unless that is the default. Empty for a text that is not a URL.
fn host_of(url: &str) -> String {
    let Ok(url) = url.parse::<reqwest::Url>() else {
        return String::new();
    };
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn result_of(answer: &Result<Got, HttpError>) -> String {
    match answer {
        Ok(response) => response.status().to_string(),
        Err(error) => match error {
            HttpError::Denied(_) => "denied",
            HttpError::Timeout(_) => "timeout",
            HttpError::Dns(_) => "dns",
            HttpError::Connect(_) => "connect",
            HttpError::Tls(_) => "tls",
            HttpError::TooLarge(_) => "too-large",
            HttpError::BreakerOpen(_) => "breaker-open",
            HttpError::Invalid(_) => "invalid",
            HttpError::Interrupted(_) => "interrupted",
            HttpError::Other(_) => "other",
        }
        .to_owned(),
    }
}

macro_rules! bind {
    ($version:ident) => {
        mod $version {
            use super::*;
            use patchbay_runtime::wit::$version::http;

            impl http::Host for Guest<'_> {
                async fn send(
                    &mut self,
                    request: http::Request,
                ) -> HostResult<Result<http::Response, http::Error>> {
                    let request = asked(request);
                    Ok(self
                        .outside(|call| whole(call, request))
                        .await?
                        .map(response)
                        .map_err(error))
                }
                async fn send_with(
                    &mut self,
                    request: http::Request,
                    credential: String,
                ) -> HostResult<Result<http::Response, http::Error>> {
                    let request = asked(request);
                    Ok(self
                        .outside(|call| whole_with(call, request, Some(credential)))
                        .await?
                        .map(response)
                        .map_err(error))
                }
            }

            fn asked(request: http::Request) -> HttpRequest {
                HttpRequest {
                    method: request.method,
                    url: request.url,
                    headers: request.headers,
                    body: request.body,
                    timeout: request.timeout_ms.map(Duration::from_millis),
                }
            }

            fn response(response: HttpResponse) -> http::Response {
                http::Response {
                    status: response.status,
                    headers: response.headers,
                    body: response.body,
                }
            }

            fn error(error: HttpError) -> http::Error {
                match error {
                    HttpError::Denied(text) => http::Error::Denied(text),
                    HttpError::Timeout(phase) => http::Error::Timeout(match phase {
                        TimeoutPhase::Connecting => http::TimeoutPhase::Connecting,
                        TimeoutPhase::AwaitingResponse => http::TimeoutPhase::AwaitingResponse,
                        TimeoutPhase::ReadingBody => http::TimeoutPhase::ReadingBody,
                    }),
                    HttpError::Dns(text) => http::Error::Dns(text),
                    HttpError::Connect(text) => http::Error::Connect(text),
                    HttpError::Tls(text) => http::Error::Tls(text),
                    HttpError::TooLarge(bytes) => http::Error::TooLarge(bytes),
                    HttpError::BreakerOpen(ms) => http::Error::BreakerOpen(ms),
                    HttpError::Invalid(text) => http::Error::Invalid(text),
                    HttpError::Interrupted(sent) => http::Error::Interrupted(sent),
                    HttpError::Other(text) => http::Error::Other(text),
                }
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_recorded_with_an_unusual_port_and_nothing_else_of_its_url() {
        assert_eq!(
            host_of("https://api.example:8443/leads/4711?phone=1"),
            "api.example:8443"
        );
        assert_eq!(host_of("not a url"), "");
    }
}
