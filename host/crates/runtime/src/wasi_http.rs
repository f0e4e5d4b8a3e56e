//! `wasi:http/outgoing-handler`, for standard clients. Requests pass the same gate as those of
//! `patchbay:plugin/http`.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use patchbay_model::capability::{HttpError, HttpRequest, HttpResponse, TimeoutPhase};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::p2::bindings::http::types::Method;
use wasmtime_wasi_http::p2::types::{
    HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::{Error, FieldMap, RequestOptions, Result, WasiBody, WasiHttpHooks};

use crate::context::CallContext;
use crate::memory::{Account, Held};

/// Largest request body. It is held whole, as with the other interface, whose requests come from
/// the guest's memory.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// Requests of one call that the host handles at once. Further requests wait.
const MAX_REQUESTS: usize = 16;
/// Most that a guest writes to a request's body at once. A body without a reader holds up to two of
/// them.
const BODY_CHUNK_BYTES: usize = 64 << 10;
/// What one header takes in addition to its text.
const HEADER_BYTES: usize = 128;

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Box<dyn Future<Output = Result<(http::Response<WasiBody>, Done)>> + Send>;

pub(crate) struct Hooks {
    context: Option<Arc<dyn CallContext>>,
    host: tokio::runtime::Handle,
    memory: Account,
    /// A guest may start any number of requests; this limits how many the host handles at once.
    places: Arc<Semaphore>,
}

impl Hooks {
    pub(crate) fn new(
        context: Option<Arc<dyn CallContext>>,
        host: tokio::runtime::Handle,
        memory: Account,
    ) -> Self {
        Self {
            context,
            host,
            memory,
            places: Arc::new(Semaphore::new(MAX_REQUESTS)),
        }
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Done,
    ) -> Answer {
        let (context, host) = (self.context.clone(), self.host.clone());
        let (memory, places) = (self.memory.clone(), Arc::clone(&self.places));
        Box::new(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await;
            let (parts, body) = request.into_parts();
            let mut held = memory.hold();
            let body = whole(body, &mut held).await?;
            let headers = parts.headers.iter().filter(|(name, _)| !is_ours(name));
            let request = HttpRequest {
                method: parts.method.to_string(),
                url: parts.uri.to_string(),
                headers: headers
                    .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                    .collect(),
                body: (!body.is_empty()).then_some(body),
                timeout: options.and_then(|options| options.first_byte_timeout),
            };
            let context = context.ok_or(Error::HttpRequestDenied)?;
            let sent = AbortOnDropHandle::new(host.spawn(context.http(request)));
            let answer = sent.await.map_err(|_| Error::InternalError(None))?;
            drop(held);
            let done: Done = Box::new(async { Ok(()) });
            Ok((response(answer.map_err(error)?, memory.hold())?, done))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }
}

/// Reads the body to its end, whatever the method: otherwise a guest that writes the body would see
/// its connection break.
async fn whole(mut body: WasiBody, held: &mut Held) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        // Trailers are dropped.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_REQUEST_BYTES {
            return Err(Error::HttpRequestBodySize(Some(MAX_REQUEST_BYTES as u64)));
        }
        held.add(data.len());
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// How much of the host's memory the headers and requests in a guest's table take, in bytes. Bodies
/// are counted separately; see [`Held`].
pub(crate) fn weigh(table: &mut ResourceTable) -> usize {
    // Clones share one map until one of them is written to.
    let mut seen = HashSet::new();
    let mut fields = |fields: &FieldMap| {
        let map: &http::HeaderMap = fields;
        let bytes = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            name.as_str().len() + value.len() + HEADER_BYTES
        };
        if seen.insert(std::ptr::from_ref(map)) {
            map.iter().map(bytes).sum()
        } else {
            0
        }
    };
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let weight = |entry: &mut (dyn Any + Send)| {
        if let Some(map) = entry.downcast_ref::<FieldMap>() {
            fields(map)
        } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
            let method = match &request.method {
                Method::Other(method) => method.len(),
                _ => 0,
            };
            // Counts data that is written and not read yet: nobody reads a body before the request
            // is sent.
            let body = if request.body.is_some() {
                2 * BODY_CHUNK_BYTES
            } else {
                0
            };
            fields(&request.headers)
                + text(&request.authority)
                + text(&request.path_with_query)
                + method
                + body
        } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
            fields(&response.headers)
                + if response.body.is_some() {
                    2 * BODY_CHUNK_BYTES
                } else {
                    0
                }
        } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
            fields(&response.headers)
        } else {
            0
        }
    };
    table.iter_mut().map(weight).sum()
}

/// Headers that the guest's client or library sets, and that the host's client sets again.
fn is_ours(name: &http::HeaderName) -> bool {
    [
        http::header::HOST,
        http::header::CONTENT_LENGTH,
        http::header::TRANSFER_ENCODING,
    ]
    .contains(name)
}

/// A body that the host holds until the guest has read and dropped it.
struct HeldBody {
    bytes: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn response(response: HttpResponse, mut held: Held) -> Result<http::Response<WasiBody>> {
    let mut builder = http::Response::builder().status(response.status);
    for (name, value) in &response.headers {
        builder = builder.header(name, value.as_slice());
    }
    held.add(response.body.len());
    let body = Bytes::from_owner(HeldBody {
        bytes: response.body,
        _held: held,
    });
    let body = Full::new(body).map_err(Error::from).boxed_unsync();
    builder.body(body).map_err(|_| Error::HttpProtocolError)
}

fn error(error: HttpError) -> Error {
    match error {
        HttpError::Denied(_) => Error::HttpRequestDenied,
        HttpError::Timeout(TimeoutPhase::Connecting) => Error::ConnectionTimeout,
        HttpError::Timeout(TimeoutPhase::AwaitingResponse) => Error::HttpResponseTimeout,
        HttpError::Timeout(TimeoutPhase::ReadingBody) => Error::ConnectionReadTimeout,
        HttpError::Dns(rcode) => Error::DnsError {
            rcode: Some(rcode),
            info_code: None,
        },
        HttpError::Connect(_) => Error::ConnectionRefused,
        HttpError::Tls(_) => Error::TlsProtocolError,
        HttpError::TooLarge(bytes) => Error::HttpResponseBodySize(Some(bytes)),
        HttpError::BreakerOpen(_) => Error::DestinationUnavailable,
        HttpError::Invalid(_) => Error::HttpRequestUriInvalid,
        HttpError::Interrupted(_) => Error::ConnectionTerminated,
        HttpError::Other(text) => Error::InternalError(Some(text)),
    }
}
