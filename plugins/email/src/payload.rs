//! The jobs' data, and the message that each becomes. The shapes are described in schemas/.

use base64::Engine;
use chrono::{DateTime, FixedOffset};
use lettre::message::header::ContentType;
use patchbay_mailbox::Mailbox;
use patchbay_plugin::Failure;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::address::Addresses;
use crate::letter::Letter;
use crate::library::Stored;
use crate::message::{Attachment, Message};
use crate::record::{About, TemplateRef};
use crate::settings::{Brand, Settings};
use crate::template::fill;

/// Job data is at most 1 MiB, base64 included.
const DEFAULT_MAX_ATTACHMENT_BYTES: usize = 700 * 1024;

/// As file systems have it.
const MAX_FILENAME_BYTES: usize = 255;
/// A header line has at most 998.
const MAX_CONTENT_TYPE_BYTES: usize = 255;
/// Likewise.
const MAX_CID_BYTES: usize = 200;

/// Of an address to unsubscribe at: a header line has at most 998 bytes.
const MAX_UNSUBSCRIBE_BYTES: usize = 500;

/// Who gets it, and whom it is about: the same in every job.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Common {
    to: Addresses,
    cc: Option<Addresses>,
    bcc: Option<Addresses>,
    reply_to: Option<Addresses>,
    lead_id: Option<String>,
    recipient_id: Option<String>,
    sent_by: Option<String>,
    kind: Option<Kind>,
    unsubscribe: Option<Texts>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Transactional,
    Marketing,
}

/// One text, or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn all(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// A message, and what is told of it afterwards.
#[derive(Debug)]
pub struct Made {
    pub message: Message,
    pub about: About,
}

/// Finds a stored template by its name and version.
pub type Library<'a> = &'a dyn Fn(&str, Option<i64>) -> Result<Stored, Failure>;

#[derive(Debug, Deserialize)]
struct Send {
    subject: String,
    html: Option<String>,
    text: Option<String>,
    #[serde(default)]
    attachments: Vec<AttachmentData>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttachmentData {
    filename: String,
    content: String,
    content_type: Option<String>,
    cid: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TemplateData {
    template: Option<String>,
    template_version: Option<i64>,
    subject: Option<String>,
    html: Option<String>,
    text: Option<String>,
    variables: Map<String, Value>,
    #[serde(default)]
    attachments: Vec<AttachmentData>,
}

/// A text or a number, shown as it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Shown {
    Text(String),
    Number(serde_json::Number),
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Otp {
    otp: Shown,
    name: Option<String>,
    expires_in_minutes: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    name: Option<String>,
    username: Option<String>,
    password: String,
    login_url: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meeting {
    name: Option<String>,
    title: Option<String>,
    with: Option<String>,
    start_time: String,
    end_time: Option<String>,
    link: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PaymentReceipt {
    name: Option<String>,
    amount: Shown,
    currency: Option<String>,
    payment_id: Option<String>,
    order_id: Option<String>,
    item: Option<String>,
    paid_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DiscountDecision {
    name: Option<String>,
    decision: Decision,
    discount: Option<Shown>,
    item: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Approved,
    Rejected,
}

/// The message of a job.
pub fn message(
    name: &str,
    data: &Value,
    settings: &Settings,
    brand: &Brand,
    library: Library<'_>,
) -> Result<Made, Failure> {
    let common: Common = read(data)?;
    let to = common.to.parse("to")?;
    let list = |field: &str, addresses: Option<Addresses>| match addresses {
        Some(addresses) => addresses.parse(field),
        None => Ok(Vec::new()),
    };
    let content = content(name, data, settings, brand, library, &to)?;
    let is_marketing = match common.kind {
        Some(kind) => kind == Kind::Marketing,
        None => content.is_marketing,
    };
    let unsubscribe = unsubscribe(common.unsubscribe, is_marketing, settings)?;
    let subject = content.subject.replace('\t', " ");
    if subject.chars().any(is_control) {
        return Err(Failure::invalid_input(
            "subject",
            "contains a line break or another control character",
        ));
    }
    let message = Message {
        from: brand.from.clone().or_else(|| settings.from.clone()),
        cc: list("cc", common.cc)?,
        bcc: list("bcc", common.bcc)?,
        reply_to: list("replyTo", common.reply_to)?,
        to,
        subject: subject.trim().to_owned(),
        html: content.html,
        text: content.text,
        attachments: content.attachments,
        unsubscribe,
    };
    let about = About {
        kind: name.to_owned(),
        subject: message.subject.clone(),
        template: content.template,
        lead_id: common.lead_id,
        recipient_id: common.recipient_id,
        sent_by: common.sent_by,
    };
    Ok(Made { message, about })
}

#[derive(Default)]
struct Content {
    subject: String,
    html: Option<String>,
    text: Option<String>,
    attachments: Vec<Attachment>,
    template: Option<TemplateRef>,
    is_marketing: bool,
}

/// Where the kind of the mail asks for it, there must be a way to get no more of them.
fn unsubscribe(
    given: Option<Texts>,
    is_marketing: bool,
    settings: &Settings,
) -> Result<Vec<String>, Failure> {
    let given = given.map(Texts::all).unwrap_or_default();
    let (field, all) = match given.is_empty() && is_marketing {
        true => ("settings.unsubscribe", settings.unsubscribe.clone()),
        false => ("unsubscribe", given),
    };
    if all.is_empty() && is_marketing {
        let reason = "is missing: a mail of the kind marketing needs an address to unsubscribe at, here or in the settings";
        return Err(Failure::invalid_input("unsubscribe", reason));
    }
    let is_address = |text: &String| {
        (text.starts_with("https://") || text.starts_with("mailto:"))
            && text.len() <= MAX_UNSUBSCRIBE_BYTES
            && text
                .chars()
                .all(|c| c.is_ascii_graphic() && !"<>,\"\\".contains(c))
    };
    match all.iter().all(is_address) {
        true => Ok(all),
        false => Err(Failure::invalid_input(
            field,
            "must be https: or mailto: addresses of at most 500 ASCII characters, without spaces, commas and brackets",
        )),
    }
}

fn content(
    name: &str,
    data: &Value,
    settings: &Settings,
    brand: &Brand,
    library: Library<'_>,
    to: &[Mailbox],
) -> Result<Content, Failure> {
    let letter = match name {
        "send" => return send(read(data)?, settings),
        "template" => return template(read(data)?, settings, library),
        "otp" => otp(read(data)?),
        "credentials" => credentials(read(data)?, to),
        "meeting-booked" => meeting(
            "Meeting booked",
            "A meeting was booked for you.",
            read(data)?,
            brand,
        )?,
        "meeting-reminder" => meeting(
            "Meeting reminder",
            "Your meeting is coming up.",
            read(data)?,
            brand,
        )?,
        "meeting-cancelled" => meeting(
            "Meeting cancelled",
            "A meeting was cancelled.",
            read(data)?,
            brand,
        )?,
        "payment-receipt" => payment_receipt(read(data)?, brand)?,
        "discount-decision" => discount_decision(read(data)?),
        _ => {
            let reason = "is no job that this plugin knows; map it in the setting `mapping`";
            return Err(Failure::invalid_input("name", reason));
        }
    };
    Ok(Content {
        subject: match &brand.name {
            Some(brand) => format!("{} - {brand}", letter.title),
            None => letter.title.clone(),
        },
        html: Some(letter.html(brand)),
        text: Some(letter.text(brand)),
        ..Content::default()
    })
}

fn read<T: DeserializeOwned>(data: &Value) -> Result<T, Failure> {
    // Through text, because only the text reader knows the path of what does not fit.
    patchbay_plugin::parse(&data.to_string())
}

fn send(data: Send, settings: &Settings) -> Result<Content, Failure> {
    if data.subject.trim().is_empty() {
        return Err(Failure::invalid_input("subject", "is empty"));
    }
    if data.html.is_none() && data.text.is_none() {
        return Err(Failure::invalid_input("text", "text or html is needed"));
    }
    let attachments = attachments(data.attachments, settings)?;
    Ok(Content {
        subject: data.subject,
        html: data.html,
        text: data.text,
        attachments,
        ..Content::default()
    })
}

/// A template of the settings goes before a stored one: it needs no Postgres.
fn template(
    data: TemplateData,
    settings: &Settings,
    library: Library<'_>,
) -> Result<Content, Failure> {
    let mut content = Content::default();
    let (mut subject, mut html, mut text) = (None, None, None);
    if let Some(name) = data.template {
        let mut used = TemplateRef {
            name: name.clone(),
            ..TemplateRef::default()
        };
        match settings.templates.get(&name) {
            Some(known) if data.template_version.is_none() => {
                (subject, html, text) = (
                    Some(known.subject.clone()),
                    known.html.clone(),
                    known.text.clone(),
                );
            }
            _ => {
                let stored = library(&name, data.template_version)?;
                used.id = Some(stored.id);
                used.version = Some(stored.version);
                content.is_marketing = stored.is_marketing;
                (subject, html, text) = (Some(stored.subject), stored.html, stored.text);
            }
        }
        content.template = Some(used);
    }
    let subject = data
        .subject
        .or(subject)
        .ok_or_else(|| Failure::invalid_input("subject", "subject or template is needed"))?;
    let (html, text) = (data.html.or(html), data.text.or(text));
    if html.is_none() && text.is_none() {
        return Err(Failure::invalid_input(
            "template",
            "template, html or text is needed",
        ));
    }
    let variables = &data.variables;
    let part = |field: &str, part: Option<String>| {
        part.map(|part| fill(field, &part, variables)).transpose()
    };
    Ok(Content {
        subject: fill("subject", &subject, variables)?,
        html: part("html", html)?,
        text: part("text", text)?,
        attachments: attachments(data.attachments, settings)?,
        ..content
    })
}

fn attachments(data: Vec<AttachmentData>, settings: &Settings) -> Result<Vec<Attachment>, Failure> {
    let limit = settings
        .max_attachment_bytes
        .unwrap_or(DEFAULT_MAX_ATTACHMENT_BYTES);
    let mut total = 0;
    let mut attachments = Vec::with_capacity(data.len());
    for (i, one) in data.into_iter().enumerate() {
        let field = |name: &str| format!("attachments[{i}].{name}");
        let compact: String = one.content.chars().filter(|c| !c.is_whitespace()).collect();
        let content = base64::engine::general_purpose::STANDARD
            .decode(compact)
            .map_err(|_| Failure::invalid_input(&field("content"), "is not base64"))?;
        total += content.len();
        if total > limit {
            return Err(Failure::invalid_input(
                "attachments",
                &format!("are larger than {limit} bytes together"),
            ));
        }
        let filename = one.filename.trim().to_owned();
        if filename.is_empty()
            || filename.len() > MAX_FILENAME_BYTES
            || filename.chars().any(is_control)
        {
            let reason = "is empty, longer than 255 bytes, or contains a control character";
            return Err(Failure::invalid_input(&field("filename"), reason));
        }
        let content_type = one
            .content_type
            .unwrap_or_else(|| "application/octet-stream".into());
        let plain = |c: char| c.is_ascii_alphanumeric() || "/.+-_; =\"".contains(c);
        let content_type = Some(content_type).filter(|text| text.len() <= MAX_CONTENT_TYPE_BYTES);
        let content_type = content_type
            .filter(|text| text.chars().all(plain))
            .and_then(|text| media_type(&text));
        let Some(content_type) = content_type else {
            return Err(Failure::invalid_input(
                &field("contentType"),
                "is not a media type of a file",
            ));
        };
        let cid_is_plain = |cid: &str| {
            (1..=MAX_CID_BYTES).contains(&cid.len())
                && cid
                    .chars()
                    .all(|c| c.is_ascii_graphic() && !"<>".contains(c))
        };
        if one.cid.as_deref().is_some_and(|cid| !cid_is_plain(cid)) {
            return Err(Failure::invalid_input(
                &field("cid"),
                "has characters that a content id cannot have",
            ));
        }
        attachments.push(Attachment {
            filename,
            content_type,
            content,
            cid: one.cid,
        });
    }
    Ok(attachments)
}

/// Also the line breaks that only Unicode knows: some readers end a line there.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// A message within a message must not be base64 (RFC 2046 §5.2.1), and parts of a multipart are no
/// file: the one goes as bytes, with its name; the other not at all.
fn media_type(text: &str) -> Option<ContentType> {
    let kind = text.trim().to_ascii_lowercase();
    match kind.split('/').next() {
        Some("multipart") => None,
        Some("message") => ContentType::parse("application/octet-stream").ok(),
        _ => ContentType::parse(text.trim()).ok(),
    }
}

fn hello(name: Option<String>) -> String {
    name.filter(|name| !name.is_empty())
        .map_or_else(|| "Hello,".into(), |name| format!("Hello {name},"))
}

fn otp(data: Otp) -> Letter {
    let expiry = data
        .expires_in_minutes
        .map(|minutes| format!(" It is valid for {minutes} minutes."));
    let text = format!(
        "your one-time password is below.{} Do not share it with anybody.",
        expiry.unwrap_or_default()
    );
    Letter {
        title: "Your one-time password".into(),
        paragraphs: vec![hello(data.name), text],
        highlight: Some(data.otp.to_string()),
        ..Letter::default()
    }
}

fn credentials(data: Credentials, to: &[Mailbox]) -> Letter {
    let username = data
        .username
        .or_else(|| to.first().map(|first| first.address.to_string()))
        .unwrap_or_default();
    Letter {
        title: "Your account details".into(),
        paragraphs: vec![
            hello(data.name),
            "your account is ready. Please change the password after your first login.".into(),
        ],
        rows: vec![("Login", username), ("Password", data.password)],
        button: data
            .login_url
            .filter(|url| is_web(url))
            .map(|url| ("Log in", url)),
        ..Letter::default()
    }
}

fn meeting(title: &str, text: &str, data: Meeting, brand: &Brand) -> Result<Letter, Failure> {
    let rows = [
        ("Subject", data.title),
        ("With", data.with),
        ("Starts", Some(time(&data.start_time, brand))),
        ("Ends", data.end_time.map(|end| time(&end, brand))),
        ("Reason", data.reason),
    ];
    Ok(Letter {
        title: title.into(),
        paragraphs: vec![hello(data.name), text.into()],
        rows: present(rows),
        button: data
            .link
            .filter(|url| is_web(url))
            .map(|url| ("Join the meeting", url)),
        ..Letter::default()
    })
}

fn payment_receipt(data: PaymentReceipt, brand: &Brand) -> Result<Letter, Failure> {
    let amount = match &data.currency {
        Some(currency) => format!("{currency} {}", data.amount),
        None => data.amount.to_string(),
    };
    let rows = [
        ("Amount", Some(amount)),
        ("For", data.item),
        ("Payment", data.payment_id),
        ("Order", data.order_id),
        ("Paid", data.paid_at.map(|at| time(&at, brand))),
    ];
    Ok(Letter {
        title: "Payment receipt".into(),
        paragraphs: vec![
            hello(data.name),
            "we have received your payment. Thank you.".into(),
        ],
        rows: present(rows),
        ..Letter::default()
    })
}

fn discount_decision(data: DiscountDecision) -> Letter {
    let (title, text) = match data.decision {
        Decision::Approved => (
            "Discount approved",
            "the discount that you asked for was approved.",
        ),
        Decision::Rejected => (
            "Discount not approved",
            "the discount that you asked for was not approved.",
        ),
    };
    let rows = [
        (
            "Discount",
            data.discount.map(|discount| discount.to_string()),
        ),
        ("For", data.item),
        ("Reason", data.reason),
    ];
    Letter {
        title: title.into(),
        paragraphs: vec![hello(data.name), text.into()],
        rows: present(rows),
        ..Letter::default()
    }
}

fn present<const N: usize>(
    rows: [(&'static str, Option<String>); N],
) -> Vec<(&'static str, String)> {
    rows.into_iter()
        .filter_map(|(label, value)| Some((label, value.filter(|value| !value.is_empty())?)))
        .collect()
}

/// Only links that a browser opens: a `javascript:` address has no business in a mail.
fn is_web(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

/// In the brand's offset when it is a time that we understand, else as it was written.
fn time(text: &str, brand: &Brand) -> String {
    let Ok(at) = DateTime::parse_from_rfc3339(text) else {
        return text.to_owned();
    };
    let offset = brand
        .utc_offset
        .as_deref()
        .and_then(|offset| offset.parse::<FixedOffset>().ok());
    let at = offset.map_or(at, |offset| at.with_timezone(&offset));
    let zone = if at.offset().local_minus_utc() == 0 {
        "UTC".to_owned()
    } else {
        format!("UTC{}", at.format("%:z"))
    };
    format!("{} ({zone})", at.format("%-d %B %Y, %H:%M"))
}

#[cfg(test)]
mod tests;
