//! One connection to a mail server: a command and its reply. Bytes nobody asked for are an error.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::Broken;
use super::reply::Reply;

/// Limit for the last reply of a server that hangs up within a message, and for QUIT.
const LAST_WORDS: Duration = Duration::from_secs(2);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    /// With its limit in bytes, if it names one.
    pub(super) size: Option<Option<u64>>,
    pub(super) eight_bit_mime: bool,
    pub(super) smtp_utf8: bool,
    pub(super) start_tls: bool,
    pub(super) auth_plain: bool,
    pub(super) auth_login: bool,
}

pub(super) struct Connection {
    stream: BufReader<Box<dyn Stream>>,
    local: SocketAddr,
    pub(super) extensions: Extensions,
}

impl Connection {
    pub(super) async fn open(host: &str, port: u16) -> Result<Self, Broken> {
        let stream = TcpStream::connect((host, port)).await?;
        // A message and its end are written separately. Without this, the system keeps the end back
        // until the server has acknowledged the message, which it does 40 ms late.
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        Ok(Self {
            stream: BufReader::new(Box::new(stream)),
            local,
            extensions: Extensions::default(),
        })
    }

    /// Encrypts all that follows. Unread bytes from before would be taken for the server's own
    /// words (CVE-2011-0411 and its kind), so there must be none.
    pub(super) async fn secure(
        self,
        tls: &TlsConnector,
        name: ServerName<'static>,
    ) -> Result<Self, Broken> {
        if !self.stream.buffer().is_empty() {
            return Err(Broken::Unasked);
        }
        let stream = tls.connect(name, self.stream.into_inner()).await?;
        Ok(Self {
            stream: BufReader::new(Box::new(stream)),
            ..self
        })
    }

    pub(super) async fn greeting(&mut self) -> Result<Reply, Broken> {
        Reply::read(&mut self.stream).await
    }

    /// EHLO, or HELO where the server does not know it (RFC 5321 §3.2).
    pub(super) async fn hello(&mut self, name: Option<&str>) -> Result<Reply, Broken> {
        // Without a name, EHLO has the address (RFC 5321 §4.1.4).
        let name = name.map_or_else(|| literal(self.local), str::to_owned);
        let reply = self.command(&format!("EHLO {name}")).await?;
        if reply.is_positive() {
            self.extensions = Extensions::of(&reply);
            return Ok(reply);
        }
        self.extensions = Extensions::default();
        if reply.code >= 500 {
            self.command(&format!("HELO {name}")).await
        } else {
            Ok(reply)
        }
    }

    pub(super) async fn auth(&mut self, username: &str, password: &str) -> Result<Reply, Broken> {
        if self.extensions.auth_plain {
            let answer = STANDARD.encode(format!("\0{username}\0{password}"));
            let mut reply = self.command(&format!("AUTH PLAIN {answer}")).await?;
            if reply.code == 334 {
                reply = self.command(&answer).await?;
            }
            // RFC 4954 §4: 504 means that this mechanism is not available after all.
            if reply.code != 504 || !self.extensions.auth_login {
                return Ok(reply);
            }
        }
        let mut reply = self.command("AUTH LOGIN").await?;
        for answer in [username, password] {
            if reply.code != 334 {
                break;
            }
            reply = self.command(&STANDARD.encode(answer)).await?;
        }
        Ok(reply)
    }

    /// Sends one line and reads its reply. Any reply may be 421: the server closes.
    pub(super) async fn command(&mut self, line: &str) -> Result<Reply, Broken> {
        if line.contains(['\r', '\n', '\0']) {
            return Err(Broken::LineBreak);
        }
        match self.arrived().await? {
            Arrived::Nothing => {}
            Arrived::Bytes if self.stream.buffer().starts_with(b"421") => {
                return Reply::read(&mut self.stream).await;
            }
            Arrived::Bytes => return Err(Broken::Unasked),
        }
        self.stream
            .write_all(format!("{line}\r\n").as_bytes())
            .await?;
        self.stream.flush().await?;
        Reply::read(&mut self.stream).await
    }

    /// Sends a message up to its end, which [`Self::end`] sends; until then, no server may take it.
    /// Returns a reply that came early, which is a refusal.
    pub(super) async fn message(&mut self, wire: &[u8]) -> Result<Option<Reply>, Broken> {
        if matches!(self.arrived().await?, Arrived::Bytes) {
            return Err(Broken::Unasked);
        }
        let written = async {
            self.stream.write_all(wire).await?;
            self.stream.flush().await
        };
        let broken = match written.await {
            Ok(()) => match self.arrived().await {
                Ok(Arrived::Nothing) => return Ok(None),
                Ok(Arrived::Bytes) => Broken::Unasked,
                Err(broken) => broken,
            },
            Err(error) => error.into(),
        };
        // The server may have said why.
        match tokio::time::timeout(LAST_WORDS, Reply::read(&mut self.stream)).await {
            Ok(Ok(reply)) if reply.is_negative() => Ok(Some(reply)),
            _ => Err(broken),
        }
    }

    /// From here on the server may have taken the message.
    pub(super) async fn end(&mut self) -> Result<Reply, Broken> {
        self.stream.write_all(b".\r\n").await?;
        self.stream.flush().await?;
        Reply::read(&mut self.stream).await
    }

    /// Whether nothing has arrived since the last reply, and the server has not hung up.
    pub(super) async fn is_quiet(&mut self) -> bool {
        matches!(self.arrived().await, Ok(Arrived::Nothing))
    }

    /// Sends QUIT and does not wait for an answer.
    pub(super) async fn quit(mut self) {
        let bye = async {
            self.stream.write_all(b"QUIT\r\n").await?;
            self.stream.shutdown().await
        };
        // Best effort: the server may be gone.
        let _gone = tokio::time::timeout(LAST_WORDS, bye).await;
    }

    async fn arrived(&mut self) -> Result<Arrived, Broken> {
        poll_fn(|context| {
            Poll::Ready(match Pin::new(&mut self.stream).poll_fill_buf(context) {
                Poll::Pending => Ok(Arrived::Nothing),
                Poll::Ready(Ok([])) => Err(Broken::Closed),
                Poll::Ready(Ok(_)) => Ok(Arrived::Bytes),
                Poll::Ready(Err(error)) => Err(error.into()),
            })
        })
        .await
    }
}

enum Arrived {
    Nothing,
    Bytes,
}

impl Extensions {
    fn of(reply: &Reply) -> Self {
        let mut extensions = Self::default();
        // The first line is the server's name.
        for line in reply.lines.iter().skip(1) {
            // `AUTH=LOGIN` is the form before RFC 2554; some servers still send it.
            let line = line.to_ascii_uppercase().replace("AUTH=", "AUTH ");
            let mut words = line.split_whitespace();
            match words.next().unwrap_or_default() {
                "SIZE" => {
                    let limit = words
                        .next()
                        .and_then(|limit| limit.parse().ok())
                        .filter(|&limit| limit > 0);
                    extensions.size = Some(limit);
                }
                "8BITMIME" => extensions.eight_bit_mime = true,
                "SMTPUTF8" => extensions.smtp_utf8 = true,
                "STARTTLS" => extensions.start_tls = true,
                "AUTH" => {
                    for mechanism in words {
                        extensions.auth_plain |= mechanism == "PLAIN";
                        extensions.auth_login |= mechanism == "LOGIN";
                    }
                }
                _ => {}
            }
        }
        extensions
    }
}

fn literal(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        std::net::IpAddr::V4(v4) => format!("[{v4}]"),
        std::net::IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    }
}
