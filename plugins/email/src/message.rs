//! A finished message, and its MIME form.

use std::fmt::Write;
use std::time::SystemTime;

use email_encoding::headers::rfc2047;
use email_encoding::headers::writer::EmailWriter;
use lettre::message::header::{
    ContentId, ContentTransferEncoding, ContentType, Date, Header, HeaderName, HeaderValue,
    Headers, MessageId, MimeVersion, Subject,
};
use lettre::message::{Body, MultiPart, SinglePart};
use patchbay_mailbox::Mailbox;

/// Longest word of a header that is written as it is; RFC 5322 §2.1.1 wants lines of 78 and allows
/// 998.
const MAX_WORD_BYTES: usize = 60;
/// Of a file's name that takes several lines.
const MAX_SECTION_BYTES: usize = 54;

/// What is to be sent.
#[derive(Debug)]
pub struct Message {
    pub from: Option<String>,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub bcc: Vec<Mailbox>,
    pub reply_to: Vec<Mailbox>,
    pub subject: String,
    pub text: Option<String>,
    pub html: Option<String>,
    pub attachments: Vec<Attachment>,
    /// How to get no more of these: web or mail addresses (RFC 2369).
    pub unsubscribe: Vec<String>,
}

#[derive(Debug)]
pub struct Attachment {
    pub filename: String,
    pub content_type: ContentType,
    pub content: Vec<u8>,
    /// Content-ID, for images within the HTML.
    pub cid: Option<String>,
}

impl Message {
    /// Every recipient, in order, none twice.
    pub fn recipients(&self) -> Vec<String> {
        let mut all: Vec<&Mailbox> = Vec::new();
        for one in self.to.iter().chain(&self.cc).chain(&self.bcc) {
            if !all.iter().any(|known| known.address.is_same(&one.address)) {
                all.push(one);
            }
        }
        all.into_iter().map(|one| one.address.to_string()).collect()
    }

    /// RFC 5322 and MIME, ASCII but for a local part that is not. `message_id` without angle
    /// brackets; blind copies stay out of the header.
    pub fn mime(self, from: &Mailbox, message_id: &str, sent_at: SystemTime) -> Vec<u8> {
        let mut headers = Headers::new();
        set_mailboxes(&mut headers, "From", std::slice::from_ref(from));
        set_mailboxes(&mut headers, "To", &self.to);
        set_mailboxes(&mut headers, "Cc", &self.cc);
        set_mailboxes(&mut headers, "Reply-To", &self.reply_to);
        set_subject(&mut headers, &self.subject);
        set_unsubscribe(&mut headers, &self.unsubscribe);
        headers.set(MessageId::from(format!("<{message_id}>")));
        headers.set(Date::new(sent_at));
        headers.set(MimeVersion::new(1, 0));
        let mut mime = headers.to_string().into_bytes();
        mime.extend(content(self.text, self.html, self.attachments).formatted());
        mime
    }
}

/// One address a line. Where one is of the web, mailbox providers show a button that asks it by POST
/// (RFC 8058).
fn set_unsubscribe(headers: &mut Headers, addresses: &[String]) {
    if addresses.is_empty() {
        return;
    }
    let mut raw = |name: &'static str, value: String| {
        let name = HeaderName::new_from_ascii_str(name);
        headers.insert_raw(HeaderValue::dangerous_new_pre_encoded(
            name,
            String::new(),
            value,
        ));
    };
    let all: Vec<String> = addresses.iter().map(|one| format!("<{one}>")).collect();
    raw("List-Unsubscribe", all.join(",\r\n "));
    if addresses.iter().any(|one| one.starts_with("https:")) {
        raw("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".into());
    }
}

/// A part of a message, and all within it.
enum Part {
    Single(SinglePart),
    Multi(MultiPart),
}

impl Part {
    fn formatted(&self) -> Vec<u8> {
        match self {
            Self::Single(part) => part.formatted(),
            Self::Multi(part) => part.formatted(),
        }
    }

    fn within(self, parent: MultiPart) -> MultiPart {
        match self {
            Self::Single(part) => parent.singlepart(part),
            Self::Multi(part) => parent.multipart(part),
        }
    }
}

/// Text and HTML are alternatives; the HTML and its images belong together (RFC 2387); attachments
/// stand beside them.
fn content(text: Option<String>, html: Option<String>, attachments: Vec<Attachment>) -> Part {
    let (inline, attached): (Vec<_>, Vec<_>) = attachments
        .into_iter()
        .partition(|one| one.cid.is_some() && html.is_some());
    let html = html.map(|html| {
        let html = Part::Single(written(ContentType::TEXT_HTML, html));
        if inline.is_empty() {
            return html;
        }
        let related = html.within(MultiPart::related().build());
        Part::Multi(
            inline
                .into_iter()
                .fold(related, |parent, one| parent.singlepart(file(one, true))),
        )
    });
    let text = text.map(|text| Part::Single(written(ContentType::TEXT_PLAIN, text)));
    let body = match (text, html) {
        (Some(text), Some(html)) => {
            Part::Multi(html.within(text.within(MultiPart::alternative().build())))
        }
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => Part::Single(written(ContentType::TEXT_PLAIN, String::new())),
    };
    if attached.is_empty() {
        return body;
    }
    let mixed = body.within(MultiPart::mixed().build());
    Part::Multi(
        attached
            .into_iter()
            .fold(mixed, |parent, one| parent.singlepart(file(one, false))),
    )
}

/// In the shortest encoding that every server carries. A control character never goes as it is.
fn written(content_type: ContentType, text: String) -> SinglePart {
    let mut lines = String::with_capacity(text.len() + text.len() / 32);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\r' => {
                characters.next_if_eq(&'\n');
                lines.push_str("\r\n");
            }
            '\n' => lines.push_str("\r\n"),
            c => lines.push(c),
        }
    }
    let has_controls = lines
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\r' | '\n' | '\t'));
    let part = SinglePart::builder().header(content_type);
    match has_controls {
        true => part
            .header(ContentTransferEncoding::QuotedPrintable)
            .body(lines),
        false => part.body(lines),
    }
}

/// Always base64: a file has no lines that a server could mend.
fn file(attachment: Attachment, inline: bool) -> SinglePart {
    let mut part = SinglePart::builder().header(attachment.content_type);
    part = part.header(Disposition::new(
        if inline { "inline" } else { "attachment" },
        &attachment.filename,
    ));
    if let Some(cid) = attachment.cid {
        part = part.header(ContentId::from(format!("<{cid}>")));
    }
    // Every content fits base64, so this cannot fail.
    let body = Body::new_with_encoding(attachment.content, ContentTransferEncoding::Base64);
    part.body(body.unwrap_or_else(|bytes| {
        Body::dangerous_pre_encoded(bytes, ContentTransferEncoding::Base64)
    }))
}

/// `Content-Disposition` with a file's name. The library writes every ASCII name in quotes; readers
/// that know encoded words take some of those for one.
#[derive(Clone)]
struct Disposition(String);

impl Disposition {
    fn new(kind: &str, filename: &str) -> Self {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || " ._-".contains(c);
        if filename.chars().all(is_plain) && filename.len() <= MAX_WORD_BYTES {
            return Self(format!("{kind};\r\n filename=\"{filename}\""));
        }
        // RFC 2231 §4: percent-encoded, in numbered sections where one line is too short.
        let mut sections = vec![String::new()];
        for c in filename.chars() {
            // Between characters: some readers decode each section by itself.
            if sections
                .last()
                .is_some_and(|section| section.len() >= MAX_SECTION_BYTES)
            {
                sections.push(String::new());
            }
            let section = sections.last_mut().expect("there is always one");
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                section.push(c);
            } else {
                c.encode_utf8(&mut [0; 4])
                    .bytes()
                    .for_each(|byte| section.push_str(&format!("%{byte:02X}")));
            }
        }
        let one = sections.len() == 1;
        let mut value = kind.to_owned();
        for (n, section) in sections.iter().enumerate() {
            let number = if one { String::new() } else { format!("*{n}") };
            let charset = if n == 0 { "utf-8''" } else { "" };
            value.push_str(&format!(";\r\n filename{number}*={charset}{section}"));
        }
        Self(value)
    }
}

impl Header for Disposition {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Content-Disposition")
    }

    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self(text.to_owned()))
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::dangerous_new_pre_encoded(Self::name(), self.0.clone(), self.0.clone())
    }
}

/// Written here and not by the library: that leaves a name such as `..` without its quotes, which
/// is no phrase of RFC 5322, and reads the addresses again by a parser that knows fewer of them.
fn set_mailboxes(headers: &mut Headers, name: &'static str, boxes: &[Mailbox]) {
    if boxes.is_empty() {
        return;
    }
    let mut encoded = String::new();
    let mut writer = EmailWriter::new(&mut encoded, name.len() + ": ".len(), 0, false);
    for (n, one) in boxes.iter().enumerate() {
        // Writing to a String cannot fail.
        let _written = mailbox(&mut writer, one, n + 1 == boxes.len());
    }
    drop(writer);
    headers.insert_raw(HeaderValue::dangerous_new_pre_encoded(
        HeaderName::new_from_ascii_str(name),
        String::new(),
        encoded,
    ));
}

fn mailbox(writer: &mut EmailWriter<'_>, one: &Mailbox, is_last: bool) -> std::fmt::Result {
    let separator = if is_last { "" } else { "," };
    match &one.name {
        // In brackets, always: without them some readers take a quoted local part for a name.
        None => writer.write_str(&format!("<{}>{separator}", one.address))?,
        Some(name) => {
            // What some reader might take for structure goes in encoded words.
            let is_plain = |c: char| c.is_ascii_alphanumeric() || " ._-".contains(c);
            if name.chars().all(is_plain) && name.len() <= MAX_WORD_BYTES {
                writer.write_str(&format!("\"{name}\""))?;
            } else {
                rfc2047::encode(name, writer)?;
            }
            writer.space();
            writer.write_str(&format!("<{}>{separator}", one.address))?;
        }
    }
    if !is_last {
        writer.new_line()?;
        writer.space();
    }
    Ok(())
}

/// As it is where it may be so; else as a whole in encoded words: half of it would lose spaces, and
/// what looks like an encoded word would be read as one.
fn set_subject(headers: &mut Headers, subject: &str) {
    let is_plain = subject.is_ascii()
        && !subject.contains("=?")
        && subject
            .split(' ')
            .all(|word| (1..=MAX_WORD_BYTES).contains(&word.len()));
    if is_plain {
        headers.set(Subject::from(subject.to_owned()));
        return;
    }
    let mut encoded = String::new();
    // Writing to a String cannot fail.
    let _written = rfc2047::encode(
        subject,
        &mut EmailWriter::new(&mut encoded, "Subject: ".len(), 0, false),
    );
    let name = HeaderName::new_from_ascii_str("Subject");
    headers.insert_raw(HeaderValue::dangerous_new_pre_encoded(
        name,
        subject.to_owned(),
        encoded,
    ));
}

#[cfg(test)]
mod tests;
