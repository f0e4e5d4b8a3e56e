//! Request bodies that nobody reads to their end.
//!
//! A handler may answer before the client has sent everything, above all that it sent too much. Closing the connection then would reset it
//! under the client, which would see a broken pipe instead of the answer. So what is left is read and thrown away, up to a bound.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::{BodyExt, Limited};

/// Beyond it the client is not confused but hostile.
const MOST: usize = 64 << 20;
const LONGEST: Duration = Duration::from_secs(10);

pub(super) async fn read_the_rest(request: Request, next: Next) -> Response {
    next.run(request.map(|body| Body::new(ReadToTheEnd(Some(body))))).await
}

/// A body whose rest is read when it is dropped.
struct ReadToTheEnd(Option<Body>);

impl HttpBody for ReadToTheEnd {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.as_ref().map_or_else(|| http_body::SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for ReadToTheEnd {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LONGEST, async move {
                let mut rest = Limited::new(body, MOST);
                while let Some(Ok(_)) = rest.frame().await {}
            }));
        }
    }
}
