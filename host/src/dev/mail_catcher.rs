//! A mail server that takes everything, delivers nothing, and keeps each mail as an .eml file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use mail_parser::{Address, MessageParser};
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// As Gmail advertises.
const MAX_BYTES: usize = 35_882_577;
/// RFC 5321 §4.5.3.1.4, with room for long parameters.
const MAX_LINE_BYTES: u64 = 4_096;
/// RFC 5321 §4.5.3.2.7.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// A mail, as far as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaughtMail {
    /// File name within the catcher's directory.
    pub file: String,
    /// `From` of the header.
    pub from: String,
    /// `To` of the header.
    pub to: Vec<String>,
    /// Decoded.
    pub subject: String,
    /// Without angle brackets.
    pub message_id: String,
}

/// A running catcher; it ends with the process.
pub struct MailCatcher {
    /// Where it listens.
    pub address: SocketAddr,
    inbox: Arc<Inbox>,
}

struct Inbox {
    dir: PathBuf,
    mails: Mutex<Vec<CaughtMail>>,
    sequence: AtomicU64,
}

impl MailCatcher {
    /// Listens on a free port of this machine and keeps mails in `dir`.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let inbox =
            Arc::new(Inbox { dir: dir.to_owned(), mails: Mutex::new(read_all(dir)?), sequence: AtomicU64::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let inbox_of_server = Arc::clone(&inbox);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // An error means that the client went away.
                let session = session(stream, Arc::clone(&inbox_of_server));
                tokio::spawn(async move { session.await.ok() });
            }
        });
        Ok(Self { address, inbox })
    }

    /// All mails, oldest first.
    pub fn list(&self) -> Vec<CaughtMail> {
        self.inbox.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.inbox.mails.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Inbox {
    /// On disk before the client hears that it was taken.
    async fn keep(&self, mail: Vec<u8>) -> std::io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
        let file = format!("{now}-{:06}.eml", self.sequence.fetch_add(1, Ordering::Relaxed));
        let caught = describe(file.clone(), &mail);
        let temporary = self.dir.join(format!("{file}.tmp"));
        tokio::fs::write(&temporary, &mail).await?;
        tokio::fs::rename(&temporary, self.dir.join(&file)).await?;
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).push(caught);
        Ok(())
    }
}

/// Mails of a directory, oldest first.
pub(super) fn read_all(dir: &Path) -> anyhow::Result<Vec<CaughtMail>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
    files.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(describe(name, &std::fs::read(&path)?))
    };
    files.into_iter().map(read).collect()
}

fn describe(file: String, mail: &[u8]) -> CaughtMail {
    let message = MessageParser::default().parse_headers(mail);
    let addresses = |address: Option<&Address<'_>>| -> Vec<String> {
        address.into_iter().flat_map(Address::iter).filter_map(|one| one.address().map(str::to_owned)).collect()
    };
    let message = message.as_ref();
    CaughtMail {
        file,
        from: addresses(message.and_then(|message| message.from())).join(", "),
        to: addresses(message.and_then(|message| message.to())),
        subject: message.and_then(|message| message.subject()).unwrap_or_default().to_owned(),
        message_id: message.and_then(|message| message.message_id()).unwrap_or_default().to_owned(),
    }
}

async fn session(stream: TcpStream, inbox: Arc<Inbox>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    write.write_all(b"220 patchbay mail catcher\r\n").await?;
    let (mut has_sender, mut recipients) = (false, 0);
    loop {
        let Ok(line) = tokio::time::timeout(IDLE_LIMIT, line(&mut read)).await else { return Ok(()) };
        let Some(line) = line? else { return Ok(()) };
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let reply: &str = match verb.as_str() {
            "EHLO" => "250-patchbay\r\n250-SIZE 35882577\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH PLAIN LOGIN",
            "HELO" | "NOOP" | "RSET" => {
                if verb == "RSET" {
                    (has_sender, recipients) = (false, 0);
                }
                "250 2.0.0 ok"
            }
            "AUTH" if line.to_ascii_uppercase().contains("LOGIN") => {
                write.write_all(b"334 VXNlcm5hbWU6\r\n").await?;
                self::line(&mut read).await?;
                write.write_all(b"334 UGFzc3dvcmQ6\r\n").await?;
                self::line(&mut read).await?;
                "235 2.7.0 any password will do"
            }
            "AUTH" => "235 2.7.0 any password will do",
            "MAIL" => {
                (has_sender, recipients) = (true, 0);
                "250 2.1.0 ok"
            }
            "RCPT" if has_sender => {
                recipients += 1;
                "250 2.1.5 ok"
            }
            "DATA" if recipients > 0 => {
                write.write_all(b"354 end with a dot\r\n").await?;
                let Some(mail) = data(&mut read).await? else { return Ok(()) };
                (has_sender, recipients) = (false, 0);
                if mail.len() > MAX_BYTES {
                    "552 5.3.4 too large"
                } else if inbox.keep(mail).await.is_ok() {
                    "250 2.0.0 caught"
                } else {
                    "452 4.3.1 cannot write it"
                }
            }
            "RCPT" | "DATA" => "503 5.5.1 MAIL and RCPT come first",
            "QUIT" => {
                write.write_all(b"221 2.0.0 bye\r\n").await?;
                return Ok(());
            }
            _ => "500 5.5.2 unknown command",
        };
        write.write_all(format!("{reply}\r\n").as_bytes()).await?;
    }
}

/// One command line; absent at the end.
async fn line(read: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut limited = tokio::io::AsyncReadExt::take(&mut *read, MAX_LINE_BYTES);
    if limited.read_until(b'\n', &mut line).await? == 0 || !line.ends_with(b"\n") {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
}

/// Up to the lone dot, with stuffed dots removed (RFC 5321 §4.5.2); absent when the client went away. Beyond the limit, bytes are
/// counted by one byte too many and dropped.
async fn data(read: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut mail = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if read.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        if line == b".\r\n" || line == b".\n" {
            return Ok(Some(mail));
        }
        if mail.len() <= MAX_BYTES {
            mail.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }
}
