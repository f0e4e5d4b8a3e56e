//! Finds requests that state the length of their body twice, by `Transfer-Encoding` and by
//! `Content-Length`.
//!
//! A proxy in front may go by the other field, and then takes a part of the body for the next
//! request (RFC 9112 §6.1). hyper goes by `Transfer-Encoding` and removes the other field, so this
//! module reads along: it follows the heads and bodies on a connection, and says of each request
//! whether its head had both. It decides nothing else: what it misreads, hyper refuses.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::ApiError;

/// Longer lines end the connection anyway: no head may be as long.
const MAX_LINE: usize = 64 << 10;
/// More heads without a request of hyper are none.
const MAX_PIPELINED: usize = 1_000;

/// Set in requests whose head had both fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct TwoLengths;

pub(super) async fn refuse_two_lengths(request: Request, next: Next) -> Response {
    if request.extensions().get::<TwoLengths>().is_none() {
        return next.run(request).await;
    }
    let message = "The request has both Transfer-Encoding and Content-Length: send one of them";
    let mut response = ApiError::invalid(message).into_response();
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What was read on a connection so far.
#[derive(Debug, Default)]
pub(super) struct Framing {
    place: Place,
    line: Vec<u8>,
    head: Head,
    /// Of each head that hyper has not made a request of yet: whether it has both fields.
    heads: VecDeque<bool>,
}

#[derive(Debug, Default)]
struct Head {
    has_begun: bool,
    length: Option<Option<u64>>,
    /// Whether the last encoding is `chunked`.
    encoding: Option<bool>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// No longer HTTP, or not readable.
    Lost,
}

impl Framing {
    /// Whether the head of the next request had both fields.
    pub(super) fn next_has_two_lengths(&mut self) -> bool {
        self.heads.pop_front().unwrap_or(false)
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.place {
                Place::Lost => return,
                Place::Body(left) | Place::Chunk(left) => {
                    let now =
                        usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    bytes = &bytes[now..];
                    let left = left - now as u64;
                    self.place = match self.place {
                        Place::Body(_) if left == 0 => Place::Head,
                        Place::Body(_) => Place::Body(left),
                        _ if left == 0 => Place::ChunkEnd,
                        _ => Place::Chunk(left),
                    };
                }
                Place::Head | Place::ChunkSize | Place::ChunkEnd | Place::Trailers => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
                    bytes = rest;
                    self.line.extend_from_slice(part);
                    if self.line.len() > MAX_LINE || self.heads.len() > MAX_PIPELINED {
                        self.lose();
                    } else if end.is_some() {
                        let line = std::mem::take(&mut self.line);
                        self.place = self.after_line(line.trim_ascii_end());
                    }
                }
            }
        }
    }

    fn lose(&mut self) {
        self.place = Place::Lost;
        self.line = Vec::new();
    }

    fn after_line(&mut self, line: &[u8]) -> Place {
        match self.place {
            Place::Head => self.after_line_of_head(line),
            Place::ChunkSize => match chunk_size(line) {
                Some(0) => Place::Trailers,
                Some(size) => Place::Chunk(size),
                None => Place::Lost,
            },
            Place::ChunkEnd if line.is_empty() => Place::ChunkSize,
            Place::Trailers if line.is_empty() => Place::Head,
            Place::Trailers => Place::Trailers,
            _ => Place::Lost,
        }
    }

    fn after_line_of_head(&mut self, line: &[u8]) -> Place {
        if !self.head.has_begun {
            // Empty lines before a request line are allowed.
            self.head.has_begun = !line.is_empty();
            return Place::Head;
        }
        if !line.is_empty() {
            self.field(line);
            return Place::Head;
        }
        let head = std::mem::take(&mut self.head);
        self.heads
            .push_back(head.length.is_some() && head.encoding.is_some());
        // No CONNECT gets a tunnel here: its body has a length like any other, and the connection
        // goes on.
        match (head.encoding, head.length) {
            (Some(false), _) | (None, Some(None)) => Place::Lost,
            (Some(true), _) => Place::ChunkSize,
            (None, Some(Some(0)) | None) => Place::Head,
            (None, Some(Some(length))) => Place::Body(length),
        }
    }

    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.head.length = Some(decimal(value));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let last = value
                .rsplit(|byte| *byte == b',')
                .next()
                .unwrap_or_default();
            self.head.encoding = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        }
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Without the extensions.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

/// A stream whose input is followed.
pub(super) struct Followed<S> {
    stream: S,
    framing: Arc<Mutex<Framing>>,
}

impl<S> Followed<S> {
    pub(super) fn new(stream: S, framing: Arc<Mutex<Framing>>) -> Self {
        Self { stream, framing }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Followed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.framing.lock().read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Followed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
