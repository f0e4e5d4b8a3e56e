//! One connection of a client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::state::{Fault, Mail, Shared, Stage};

const MAX_LINE_BYTES: usize = 1 << 20;

/// Why a conversation ends; the client sees the same in any case.
type Ended = io::Result<()>;

struct Conversation {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    shared: Arc<Shared>,
    is_logged_in: bool,
    sender: Option<String>,
    recipients: Vec<String>,
}

pub(super) async fn hold(stream: TcpStream, shared: Arc<Shared>) {
    let (read, write) = stream.into_split();
    let conversation = Conversation {
        read: BufReader::new(read),
        write,
        shared,
        is_logged_in: false,
        sender: None,
        recipients: Vec::new(),
    };
    conversation.run().await.ok();
}

impl Conversation {
    async fn run(mut self) -> Ended {
        let fault = self.shared.at(Stage::Connect, &[]);
        if self.misbehaves(fault).await?.is_some() {
            return Ok(());
        }
        self.say("220 stand-in.example ESMTP").await?;
        while let Some(line) = self.line().await? {
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => self.hello().await?,
                "HELO" | "RSET" | "NOOP" => {
                    (self.sender, self.recipients) = (None, Vec::new());
                    self.say("250 2.1.5 Flushed").await?;
                }
                "AUTH" => self.login(&line).await?,
                "MAIL" => self.mail(&line).await?,
                "RCPT" => self.recipient(&line).await?,
                "DATA" => self.data().await?,
                "QUIT" => return self.say("221 2.0.0 closing connection").await,
                _ => self.say("502 5.5.1 Unrecognized command").await?,
            }
        }
        Ok(())
    }

    async fn hello(&mut self) -> Ended {
        let behaviour = self.shared.lock().behaviour.clone();
        let mut lines = vec!["stand-in.example at your service", "SIZE 35882577"];
        lines.extend(behaviour.eight_bit_mime.then_some("8BITMIME"));
        lines.extend(["AUTH LOGIN PLAIN", "ENHANCEDSTATUSCODES"]);
        lines.extend(behaviour.smtp_utf8.then_some("SMTPUTF8"));
        let last = lines.len() - 1;
        let mut reply = String::new();
        for (n, line) in lines.iter().enumerate() {
            let sign = if n == last { ' ' } else { '-' };
            reply.push_str(&format!("250{sign}{line}\r\n"));
        }
        self.write.write_all(reply.as_bytes()).await
    }

    async fn login(&mut self, line: &str) -> Ended {
        let fault = self.shared.at(Stage::Login, &[]);
        if self.misbehaves(fault).await?.is_some() {
            return Ok(());
        }
        let mut words = line.split(' ').skip(1);
        let (mechanism, first) = (words.next().unwrap_or_default(), words.next());
        let decoded = |text: &str| -> String {
            let bytes = STANDARD.decode(text.trim()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (username, password) = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => {
                let given = match first {
                    Some(given) => given.to_owned(),
                    None => self.asked("334 ").await?,
                };
                let given = decoded(&given);
                let mut parts = given.split('\0').skip(1).map(str::to_owned);
                (
                    parts.next().unwrap_or_default(),
                    parts.next().unwrap_or_default(),
                )
            }
            "LOGIN" => {
                let username = self.asked("334 VXNlcm5hbWU6").await?;
                let password = self.asked("334 UGFzc3dvcmQ6").await?;
                (decoded(&username), decoded(&password))
            }
            _ => return self.say("504 5.7.4 Unrecognized Authentication Type").await,
        };
        let account = self.shared.lock().account.clone();
        self.is_logged_in = (username, password) == (account.username, account.password);
        match self.is_logged_in {
            true => self.say("235 2.7.0 Accepted").await,
            false => {
                self.say("535-5.7.8 Username and Password not accepted. For more information, go to\n535 5.7.8 the help page")
                    .await
            }
        }
    }

    async fn mail(&mut self, line: &str) -> Ended {
        if !self.is_logged_in {
            return self.say("530 5.7.0 Authentication Required").await;
        }
        let fault = self.shared.at(Stage::Mail, &[]);
        if self.misbehaves(fault).await?.is_some() {
            return Ok(());
        }
        self.sender = Some(address(line));
        self.recipients.clear();
        self.say("250 2.1.0 OK").await
    }

    async fn recipient(&mut self, line: &str) -> Ended {
        if self.sender.is_none() {
            return self.say("503 5.5.1 MAIL first").await;
        }
        let recipient = address(line);
        let fault = self
            .shared
            .at(Stage::Rcpt, std::slice::from_ref(&recipient));
        if self.misbehaves(fault).await?.is_some() {
            return Ok(());
        }
        self.recipients.push(recipient);
        self.say("250 2.1.5 OK").await
    }

    async fn data(&mut self) -> Ended {
        if self.recipients.is_empty() {
            return self.say("503 5.5.1 RCPT first").await;
        }
        self.say("354  Go ahead").await?;
        let mut message = String::new();
        let mut is_first = true;
        loop {
            let Some(line) = self.line().await? else {
                return Ok(());
            };
            if line == "." {
                break;
            }
            message.push_str(line.strip_prefix('.').unwrap_or(&line));
            message.push_str("\r\n");
            if is_first {
                let fault = self.shared.at(Stage::Data, &self.recipients);
                if self.misbehaves(fault).await?.is_some() {
                    return Ok(());
                }
            }
            is_first = false;
        }
        let mail = Mail {
            sender: self.sender.take().unwrap_or_default(),
            recipients: std::mem::take(&mut self.recipients),
            message,
        };
        let fault = self.shared.at(Stage::End, &mail.recipients);
        let (slow_ms, is_over) = {
            let mut state = self.shared.lock();
            let limit = state.behaviour.daily_limit;
            let is_over = limit.is_some_and(|limit| state.mails.len() >= limit);
            let takes = fault.as_ref().map_or(!is_over, |fault| fault.takes);
            if takes {
                state.mails.push(mail);
            }
            (state.behaviour.slow_ms, is_over)
        };
        if slow_ms > 0 {
            tokio::time::sleep(Duration::from_millis(slow_ms)).await;
        }
        if self.misbehaves(fault).await?.is_some() {
            return Ok(());
        }
        match is_over {
            true => {
                self.say("550-5.4.5 Daily user sending limit exceeded. For more information, go to\n550 5.4.5 the help page")
                    .await
            }
            false => self.say("250 2.0.0 OK").await,
        }
    }

    /// Answers wrongly, or ends the connection. Whether it did.
    async fn misbehaves(&mut self, fault: Option<Fault>) -> io::Result<Option<()>> {
        let Some(fault) = fault else {
            return Ok(None);
        };
        let Some(reply) = fault.reply else {
            return Err(io::ErrorKind::ConnectionReset.into());
        };
        self.say(&reply).await?;
        // RFC 5321 §3.8: with 421 the server closes.
        match reply.starts_with("421") {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(Some(())),
        }
    }

    /// One more line of a login.
    async fn asked(&mut self, reply: &str) -> io::Result<String> {
        self.write
            .write_all(format!("{reply}\r\n").as_bytes())
            .await?;
        Ok(self.line().await?.unwrap_or_default())
    }

    /// A reply, a line each, in the way in which the server behaves.
    async fn say(&mut self, reply: &str) -> Ended {
        let (bare, latin_1) = {
            let behaviour = &self.shared.lock().behaviour;
            (behaviour.bare, behaviour.latin_1)
        };
        let mut bytes = Vec::new();
        let last = reply.lines().last().unwrap_or_default();
        match bare {
            true => bytes.extend(last.bytes().take(3).chain(*b"\r\n")),
            false => {
                for line in reply.lines() {
                    bytes.extend(line.bytes());
                    if latin_1 {
                        bytes.extend(*b" f\xfcr Sie, \xe0 bient\xf4t");
                    }
                    bytes.extend(*b"\r\n");
                }
            }
        }
        self.write.write_all(&bytes).await
    }

    /// Without its end; absent where the client has gone.
    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        loop {
            let read = self.read.read_until(b'\n', &mut bytes).await?;
            if read == 0 {
                return Ok(None);
            }
            if bytes.ends_with(b"\n") {
                break;
            }
            if bytes.len() > MAX_LINE_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let line = String::from_utf8_lossy(&bytes);
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// Between the angle brackets.
fn address(line: &str) -> String {
    let inside = line
        .split_once('<')
        .and_then(|(_, rest)| rest.rsplit_once('>'));
    inside.map_or_else(String::new, |(address, _)| address.to_owned())
}
