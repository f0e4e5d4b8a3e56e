//! Deadline for request bodies, and reading of unread bodies.
//!
//! A whole body must arrive within a time limit: otherwise a client that sends a byte now and then
//! would keep its request open for ever.
//!
//! A handler may answer before the client has sent the whole body, for example because it is too
//! large. Closing the connection then would reset it, and the client would see a broken pipe
//! instead of the answer. So the rest is read and discarded, up to a limit.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::{BodyExt, Limited};
use tokio::time::Sleep;

/// Limit for discarded bytes: a client that sends more is taken to be hostile.
const MAX_DISCARDED_BYTES: usize = 64 << 20;
const LONGEST: Duration = Duration::from_secs(10);

/// The limit covers the whole body, from the start of the request.
#[derive(Debug, thiserror::Error)]
#[error("The body did not arrive within {} s", .0.as_secs_f32())]
pub(super) struct BodyTooSlow(Duration);

pub(super) async fn read_in_time(
    State(limit): State<Duration>,
    request: Request,
    next: Next,
) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let deadline = Box::pin(tokio::time::sleep(limit));
    next.run(request.map(|body| {
        Body::new(ReadToTheEnd {
            body: Some(body),
            deadline,
            limit,
        })
    }))
    .await
}

/// A body whose unread rest is read and discarded on drop.
struct ReadToTheEnd {
    body: Option<Body>,
    deadline: Pin<Box<Sleep>>,
    limit: Duration,
}

impl HttpBody for ReadToTheEnd {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = match Pin::new(body).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(self.deadline.as_mut().poll(context));
                Some(Err(axum::Error::new(BodyTooSlow(self.limit))))
            }
        };
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| http_body::SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for ReadToTheEnd {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LONGEST, async move {
                let mut rest = Limited::new(body, MAX_DISCARDED_BYTES);
                while let Some(Ok(_)) = rest.frame().await {}
            }));
        }
    }
}
