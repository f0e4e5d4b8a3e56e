//! `wasi:http/outgoing-handler`, for standard clients: through the same gate as `patchbay:plugin/http`.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use patchbay_model::capability::{Capabilities, HttpError, HttpRequest, HttpResponse, TimeoutPhase};
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

use crate::call::AbortOnDrop;

/// Largest request body: it is held whole, as with the other interface, whose requests come out of the guest's memory.
const MAX_REQUEST_BYTES: usize = 16 << 20;

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Box<dyn Future<Output = Result<(http::Response<WasiBody>, Done)>> + Send>;

pub(crate) struct Hooks {
    pub(crate) capabilities: Arc<dyn Capabilities>,
    pub(crate) host: tokio::runtime::Handle,
}

impl WasiHttpHooks for Hooks {
    fn send_request(&mut self, request: http::Request<WasiBody>, options: Option<RequestOptions>, _: Done) -> Answer {
        let (capabilities, host) = (Arc::clone(&self.capabilities), self.host.clone());
        Box::new(async move {
            // Read to its end whatever the method: a guest that writes a body which nobody reads would see its connection break.
            let (parts, body) = request.into_parts();
            let body = Limited::new(body, MAX_REQUEST_BYTES).collect().await;
            let body = body.map_err(|_| Error::HttpRequestBodySize(Some(MAX_REQUEST_BYTES as u64)))?.to_bytes();
            let headers = parts.headers.iter().filter(|(name, _)| !is_ours(name));
            let request = HttpRequest {
                method: parts.method.to_string(),
                url: parts.uri.to_string(),
                headers: headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
                body: (!body.is_empty()).then(|| body.to_vec()),
                timeout: options.and_then(|options| options.first_byte_timeout),
            };
            let mut sent = AbortOnDrop(host.spawn(async move { capabilities.http(request).await }));
            let answer = (&mut sent.0).await.map_err(|_| Error::InternalError(None))?;
            let done: Done = Box::new(async { Ok(()) });
            Ok((response(answer.map_err(error)?)?, done))
        })
    }
}

/// Made by the guest's client or its library, and made again by the host's.
fn is_ours(name: &http::HeaderName) -> bool {
    [http::header::HOST, http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING].contains(name)
}

fn response(response: HttpResponse) -> Result<http::Response<WasiBody>> {
    let mut builder = http::Response::builder().status(response.status);
    for (name, value) in &response.headers {
        builder = builder.header(name, value.as_slice());
    }
    let body = Full::new(Bytes::from(response.body)).map_err(Error::from).boxed_unsync();
    builder.body(body).map_err(|_| Error::HttpProtocolError)
}

fn error(error: HttpError) -> Error {
    match error {
        HttpError::Denied(_) => Error::HttpRequestDenied,
        HttpError::Timeout(TimeoutPhase::Connecting) => Error::ConnectionTimeout,
        HttpError::Timeout(TimeoutPhase::AwaitingResponse) => Error::HttpResponseTimeout,
        HttpError::Timeout(TimeoutPhase::ReadingBody) => Error::ConnectionReadTimeout,
        HttpError::Dns(rcode) => Error::DnsError { rcode: Some(rcode), info_code: None },
        HttpError::Connect(_) => Error::ConnectionRefused,
        HttpError::Tls(_) => Error::TlsProtocolError,
        HttpError::TooLarge(bytes) => Error::HttpResponseBodySize(Some(bytes)),
        HttpError::BreakerOpen(_) => Error::DestinationUnavailable,
        HttpError::Invalid(_) => Error::HttpRequestUriInvalid,
        HttpError::Interrupted(_) => Error::ConnectionTerminated,
        HttpError::Other(text) => Error::InternalError(Some(text)),
    }
}
