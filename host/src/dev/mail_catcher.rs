//! A mail server that accepts every mail, delivers none, and stores each as an .eml file. It is as
//! strict as RFC 5321, so that a client that works here works elsewhere: only CR LF ends a line,
//! only CR LF dot CR LF ends a mail, and a client must wait for each reply.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use mail_parser::{Address, MessageParser};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The size that Gmail advertises.
const MAX_BYTES: usize = 35_882_577;
/// RFC 5321 §4.5.3.1.4 says 512; logins are longer (RFC 4954 §4).
const MAX_COMMAND_BYTES: usize = 12_288;
/// RFC 5321 §4.5.3.1.6, including CR LF.
const MAX_LINE_BYTES: usize = 1_000;
/// RFC 5321 §4.5.3.1.8.
const MAX_RECIPIENTS: usize = 100;
/// RFC 5321 §4.5.3.2.7.
const IDLE_LIMIT: Duration = Duration::from_secs(300);
/// Open at the same time; other clients wait.
const MAX_SESSIONS: usize = 256;
/// Pause after a connection could not be accepted: file descriptors may be used up for a moment.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The parts of a mail that lists show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaughtMail {
    /// File name within the catcher's directory.
    pub file: String,
    /// `From` of the header.
    pub from: String,
    /// `To` of the header.
    pub to: Vec<String>,
    pub subject: String,
    pub message_id: String,
}

/// A running catcher; it ends with the process.
pub struct MailCatcher {
    pub address: SocketAddr,
    inbox: Arc<Inbox>,
}

struct Inbox {
    dir: PathBuf,
    mails: Mutex<Vec<CaughtMail>>,
    sequence: AtomicU64,
}

impl MailCatcher {
    /// Listens on a free local port and stores mails in `dir`.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let inbox = Arc::new(Inbox {
            dir: dir.to_owned(),
            mails: Mutex::new(read_all(dir)?),
            sequence: AtomicU64::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let inbox_of_server = Arc::clone(&inbox);
        tokio::spawn(async move {
            let sessions = Arc::new(Semaphore::new(MAX_SESSIONS));
            while let Ok(place) = Arc::clone(&sessions).acquire_owned().await {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                };
                let session = Session::new(stream, Arc::clone(&inbox_of_server));
                tokio::spawn(async move {
                    // An error means that the client closed the connection, or was disconnected.
                    session.run().await.ok();
                    drop(place);
                });
            }
        });
        Ok(Self { address, inbox })
    }

    /// Oldest first.
    pub fn list(&self) -> Vec<CaughtMail> {
        self.inbox.mails.lock().clone()
    }

    pub fn count(&self) -> usize {
        self.inbox.mails.lock().len()
    }
}

impl Inbox {
    /// Writes the mail to disk before the client gets its reply.
    async fn keep(&self, mail: Vec<u8>) -> std::io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_millis());
        let file = format!(
            "{now}-{:06}.eml",
            self.sequence.fetch_add(1, Ordering::Relaxed)
        );
        let caught = describe(file.clone(), &mail);
        let temporary = self.dir.join(format!("{file}.tmp"));
        tokio::fs::write(&temporary, &mail).await?;
        tokio::fs::rename(&temporary, self.dir.join(&file)).await?;
        self.mails.lock().push(caught);
        Ok(())
    }
}

/// Mails of a directory, oldest first.
pub(super) fn read_all(dir: &Path) -> anyhow::Result<Vec<CaughtMail>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
    files.sort();
    let read = |path: PathBuf| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(describe(name, &std::fs::read(&path)?))
    };
    files.into_iter().map(read).collect()
}

fn describe(file: String, mail: &[u8]) -> CaughtMail {
    let message = MessageParser::default().parse_headers(mail);
    let addresses = |address: Option<&Address<'_>>| -> Vec<String> {
        address
            .into_iter()
            .flat_map(Address::iter)
            .filter_map(|one| one.address().map(str::to_owned))
            .collect()
    };
    let message = message.as_ref();
    CaughtMail {
        file,
        from: addresses(message.and_then(|message| message.from())).join(", "),
        to: addresses(message.and_then(|message| message.to())),
        subject: message
            .and_then(|message| message.subject())
            .unwrap_or_default()
            .to_owned(),
        message_id: message
            .and_then(|message| message.message_id())
            .unwrap_or_default()
            .to_owned(),
    }
}

/// The result of reading up to a line end.
enum Line {
    /// Without the line end.
    Text(Vec<u8>),
    /// Too long, or not ended by CR LF. The rest of the line was read.
    Wrong(&'static str),
}

struct Session {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    inbox: Arc<Inbox>,
    greeted: bool,
    has_sender: bool,
    is_utf8: bool,
    is_eight_bit: bool,
    recipients: usize,
}

impl Session {
    fn new(stream: TcpStream, inbox: Arc<Inbox>) -> Self {
        // Without it the session is only a little slower.
        stream.set_nodelay(true).ok();
        let (read, write) = stream.into_split();
        Self {
            read: BufReader::new(read),
            write,
            inbox,
            greeted: false,
            has_sender: false,
            is_utf8: false,
            is_eight_bit: false,
            recipients: 0,
        }
    }

    async fn run(mut self) -> std::io::Result<()> {
        self.say("220 patchbay mail catcher").await?;
        loop {
            let line = match self.line(MAX_COMMAND_BYTES).await? {
                Line::Text(line) => line,
                Line::Wrong(why) => return self.say(&format!("500 5.5.2 {why}")).await,
            };
            if self.is_ahead() {
                return self
                    .say("503 5.5.0 wait for the reply: PIPELINING is not offered")
                    .await;
            }
            let Ok(line) = std::str::from_utf8(&line) else {
                self.say("500 5.5.2 neither ASCII nor UTF-8").await?;
                continue;
            };
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let reply = match verb.to_ascii_uppercase().as_str() {
                "EHLO" | "HELO" if rest.trim().is_empty() || !rest.is_ascii() => {
                    "501 5.5.4 a name is needed"
                }
                "EHLO" => {
                    self.reset();
                    self.greeted = true;
                    "250-patchbay\r\n250-SIZE 35882577\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH PLAIN LOGIN"
                }
                "HELO" => {
                    self.reset();
                    self.greeted = true;
                    "250 patchbay"
                }
                "NOOP" => "250 2.0.0 ok",
                "VRFY" => "252 2.5.2 send to it and see",
                "RSET" => {
                    self.reset();
                    "250 2.0.0 ok"
                }
                "QUIT" => return self.say("221 2.0.0 bye").await,
                "AUTH" | "MAIL" if !self.greeted || self.has_sender => {
                    "503 5.5.1 EHLO first, and one mail at a time"
                }
                "AUTH" => self.auth(rest).await?,
                "MAIL" => self.mail(rest),
                "RCPT" if !self.has_sender => "503 5.5.1 MAIL comes first",
                "RCPT" if self.recipients >= MAX_RECIPIENTS => "452 4.5.3 too many recipients",
                "RCPT" => match path(rest, "TO:") {
                    Some((address, ""))
                        if !address.is_empty() && (self.is_utf8 || address.is_ascii()) =>
                    {
                        self.recipients += 1;
                        "250 2.1.5 ok"
                    }
                    _ => "501 5.1.3 RCPT TO:<address>",
                },
                "DATA" if self.recipients == 0 => "503 5.5.1 MAIL and RCPT come first",
                "DATA" => {
                    self.say("354 end with a dot").await?;
                    self.data().await?
                }
                _ => "500 5.5.2 unknown command",
            };
            self.say(reply).await?;
        }
    }

    fn reset(&mut self) {
        (
            self.has_sender,
            self.is_utf8,
            self.is_eight_bit,
            self.recipients,
        ) = (false, false, false, 0);
    }

    fn mail(&mut self, rest: &str) -> &'static str {
        let Some((address, parameters)) = path(rest, "FROM:") else {
            return "501 5.1.7 MAIL FROM:<address>";
        };
        let (mut is_utf8, mut is_eight_bit) = (false, false);
        for parameter in parameters.split_whitespace().map(str::to_ascii_uppercase) {
            match parameter.split_once('=') {
                None if parameter == "SMTPUTF8" => is_utf8 = true,
                Some(("BODY", "7BIT")) => {}
                Some(("BODY", "8BITMIME")) => is_eight_bit = true,
                Some(("SIZE", size)) => match size.parse::<usize>() {
                    Ok(size) if size > MAX_BYTES => return "552 5.3.4 too large",
                    Ok(_) => {}
                    Err(_) => return "501 5.5.4 SIZE is no number",
                },
                _ => return "555 5.5.4 unknown parameter",
            }
        }
        if !is_utf8 && !address.is_ascii() {
            return "553 5.6.7 such an address needs SMTPUTF8";
        }
        (
            self.has_sender,
            self.is_utf8,
            self.is_eight_bit,
            self.recipients,
        ) = (true, is_utf8, is_eight_bit, 0);
        "250 2.1.0 ok"
    }

    async fn auth(&mut self, rest: &str) -> std::io::Result<&'static str> {
        let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        let prompts: &[&str] = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" if !initial.is_empty() => &[],
            "PLAIN" => &["334 "],
            "LOGIN" => &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"],
            _ => return Ok("504 5.5.4 PLAIN or LOGIN"),
        };
        for prompt in prompts {
            self.say(prompt).await?;
            match self.line(MAX_COMMAND_BYTES).await? {
                Line::Text(answer) if answer != b"*" => {}
                _ => return Ok("501 5.5.2 login given up"),
            }
        }
        Ok("235 2.7.0 any password will do")
    }

    /// Reads up to the line with a single dot, and removes stuffed dots (RFC 5321 §4.5.2). Problems
    /// of a mail are reported at its end; bytes beyond the limit are dropped.
    async fn data(&mut self) -> std::io::Result<&'static str> {
        let mut mail = Vec::new();
        let mut wrong = None;
        loop {
            match self.line(MAX_LINE_BYTES).await? {
                Line::Wrong(why) => _ = wrong.get_or_insert(why),
                Line::Text(line) if line == b"." => break,
                Line::Text(line) => {
                    if line.contains(&0) {
                        wrong.get_or_insert("554 5.6.0 a NUL in the mail");
                    }
                    if !line.is_ascii() && !self.is_eight_bit && !self.is_utf8 {
                        wrong.get_or_insert("554 5.6.3 8 bits without BODY=8BITMIME");
                    }
                    if mail.len() <= MAX_BYTES {
                        mail.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                        mail.extend_from_slice(b"\r\n");
                    }
                }
            }
        }
        self.reset();
        if self.is_ahead() {
            return Ok("554 5.5.0 something came after the end of the mail: nothing was taken");
        }
        Ok(match wrong {
            Some(why) if why.starts_with("554") => why,
            Some(_) => "554 5.6.0 a line without CR LF at its end, or longer than 1000 bytes",
            None if mail.len() > MAX_BYTES => "552 5.3.4 too large",
            None if self.inbox.keep(mail).await.is_ok() => "250 2.0.0 caught",
            None => "452 4.3.1 cannot write it",
        })
    }

    /// Whether the client has sent more than it may have sent by now.
    fn is_ahead(&self) -> bool {
        !self.read.buffer().is_empty()
    }

    async fn say(&mut self, reply: &str) -> std::io::Result<()> {
        self.write
            .write_all(format!("{reply}\r\n").as_bytes())
            .await
    }

    /// Reads one line. If the line is too long, only its end is looked for. An error ends the
    /// session: the client was silent, or closed the connection.
    async fn line(&mut self, limit: usize) -> std::io::Result<Line> {
        let reading = async {
            let mut line = Vec::new();
            let mut wrong = None;
            loop {
                let (read, ended) = {
                    let bytes = self.read.fill_buf().await?;
                    if bytes.is_empty() {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                    let end = bytes
                        .iter()
                        .position(|&byte| byte == b'\n')
                        .map(|at| at + 1);
                    let read = end.unwrap_or(bytes.len());
                    if line.len() + read > limit {
                        wrong = Some("line too long");
                        // The end of the line is still needed, to see how it ended.
                        line.clear();
                    }
                    line.extend_from_slice(&bytes[read.saturating_sub(limit)..read]);
                    (read, end.is_some())
                };
                self.read.consume(read);
                if ended {
                    break;
                }
            }
            let text = line.strip_suffix(b"\r\n").unwrap_or_default();
            if !line.ends_with(b"\r\n") || text.contains(&b'\r') {
                wrong = Some("a line ends with CR LF, and nothing else has CR or LF");
            }
            Ok(wrong.map_or_else(|| Line::Text(text.to_vec()), Line::Wrong))
        };
        tokio::time::timeout(IDLE_LIMIT, reading)
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)?
    }
}

/// Parses `FROM:<address> PARAMETERS` to the address and the rest. The address may be empty.
fn path<'a>(text: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    // A quoted local part may contain a bracket; a parameter never does.
    let (address, parameters) = rest.strip_prefix('<')?.rsplit_once('>')?;
    let parameters = if parameters.is_empty() {
        ""
    } else {
        parameters.strip_prefix(' ')?
    };
    let is_address = address.is_empty() || address.parse::<patchbay_mailbox::Address>().is_ok();
    is_address.then_some((address, parameters))
}

#[cfg(test)]
mod tests;
