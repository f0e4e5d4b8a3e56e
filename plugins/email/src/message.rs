//! A finished message, and its MIME form.

use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::mime::MimePart;

use crate::address::Mailbox;

/// What is to be sent.
#[derive(Debug)]
pub struct Message {
    pub from: Option<String>,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub bcc: Vec<Mailbox>,
    pub reply_to: Option<Mailbox>,
    pub subject: String,
    pub text: Option<String>,
    pub html: Option<String>,
    pub attachments: Vec<Attachment>,
}

#[derive(Debug)]
pub struct Attachment {
    pub filename: String,
    pub content_type: String,
    pub content: Vec<u8>,
    /// Content-ID, for images within the HTML.
    pub cid: Option<String>,
}

fn addresses(boxes: &[Mailbox]) -> Address<'_> {
    Address::new_list(boxes.iter().map(|one| Address::new_address(one.name.as_deref(), one.address.as_str())).collect())
}

impl Message {
    /// Every recipient, in order, none twice.
    pub fn recipients(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for one in self.to.iter().chain(&self.cc).chain(&self.bcc) {
            if !all.iter().any(|known| known.eq_ignore_ascii_case(&one.address)) {
                all.push(one.address.clone());
            }
        }
        all
    }

    /// RFC 5322 and MIME. `message_id` without angle brackets; blind copies stay out of the header.
    pub fn mime(self, from: &Mailbox, message_id: &str, sent_at_s: i64) -> Vec<u8> {
        let mut builder = MessageBuilder::new()
            .from(Address::new_address(from.name.as_deref(), from.address.as_str()))
            .to(addresses(&self.to))
            .subject(self.subject.as_str())
            .message_id(message_id)
            .date(sent_at_s);
        if !self.cc.is_empty() {
            builder = builder.cc(addresses(&self.cc));
        }
        if let Some(reply_to) = &self.reply_to {
            builder = builder.reply_to(Address::new_address(reply_to.name.as_deref(), reply_to.address.as_str()));
        }
        if let Some(text) = self.text {
            builder = builder.text_body(text);
        }
        if let Some(html) = self.html {
            builder = builder.html_body(html);
        }
        for attachment in self.attachments {
            let part = MimePart::new(attachment.content_type, attachment.content);
            builder.attachments.get_or_insert_default().push(match attachment.cid {
                Some(cid) => part.inline().cid(cid),
                None => part.attachment(attachment.filename),
            });
        }
        // Writing to a Vec cannot fail.
        builder.write_to_vec().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};

    use super::*;

    #[test]
    fn a_message_reads_back_as_it_was_meant() {
        let mailbox = |text: &str| Mailbox::parse("to", text).expect("an address");
        let message = Message {
            from: None,
            to: vec![mailbox("Jörg Müller <joerg@example.com>")],
            cc: vec![],
            bcc: vec![mailbox("hidden@example.com")],
            reply_to: Some(mailbox("help@example.com")),
            subject: "Grüße 👋".into(),
            text: Some("Hallo".into()),
            html: Some("<p>Hallo</p>".into()),
            attachments: vec![Attachment {
                filename: "Rechnung №1.pdf".into(),
                content_type: "application/pdf".into(),
                content: vec![0, 1, 2],
                cid: None,
            }],
        };
        assert_eq!(message.recipients(), ["joerg@example.com", "hidden@example.com"]);
        let mime = message.mime(&mailbox("Us <us@example.com>"), "abc@example.com", 1_700_000_000);
        assert!(mime.is_ascii(), "transports without 8BITMIME take it too");
        assert!(!String::from_utf8_lossy(&mime).contains("hidden"), "blind copies are blind");
        let read = MessageParser::default().parse(&mime).expect("a message");
        assert_eq!(read.subject(), Some("Grüße 👋"));
        assert_eq!(read.to().and_then(|to| to.first()).and_then(|to| to.name()), Some("Jörg Müller"));
        assert_eq!(read.message_id(), Some("abc@example.com"));
        assert_eq!((read.body_text(0).as_deref(), read.body_html(0).as_deref()), (Some("Hallo"), Some("<p>Hallo</p>")));
        let attachment = read.attachment(0).expect("one");
        assert_eq!((attachment.attachment_name(), attachment.contents()), (Some("Rechnung №1.pdf"), &[0u8, 1, 2][..]));
    }
}
