//! A message as it is sent (RFC 5321 §2.3.8, §4.5.2): lines end with CR LF, no other CR or LF
//! occurs, and a dot at the start of a line is doubled. So a guest's message cannot end before its
//! end and add commands of its own: servers disagree about what a bare LF or CR around a dot means
//! ("SMTP smuggling", CVE-2023-51764 and its kind).

#[derive(Debug, PartialEq, Eq)]
pub(super) struct EncodedMessage {
    /// With a line end at the end, but without the final dot.
    pub(super) bytes: Vec<u8>,
    /// Before the dots were doubled, as SIZE counts.
    pub(super) size: usize,
    /// Non-ASCII bytes anywhere; needs 8BITMIME.
    pub(super) has_eight_bit: bool,
    /// Non-ASCII bytes in the header, which have a meaning only with SMTPUTF8.
    pub(super) has_eight_bit_header: bool,
}

impl EncodedMessage {
    /// Bare CR and LF become line ends: many languages write messages with LF alone. A NUL is an
    /// error: a message cannot have one (RFC 5322 §4).
    pub(super) fn new(mime: &[u8]) -> Result<Self, &'static str> {
        if mime.contains(&0) {
            return Err("the message has a NUL character, which mail cannot contain");
        }
        let mut bytes = Vec::with_capacity(mime.len() + mime.len() / 64 + 2);
        let (mut dots, mut has_eight_bit, mut has_eight_bit_header, mut in_header) =
            (0, false, false, true);
        let mut rest = mime;
        while !rest.is_empty() {
            let end = rest
                .iter()
                .position(|byte| matches!(byte, b'\r' | b'\n'))
                .unwrap_or(rest.len());
            let line = &rest[..end];
            in_header &= !line.is_empty();
            if !line.is_ascii() {
                has_eight_bit = true;
                has_eight_bit_header |= in_header;
            }
            if line.first() == Some(&b'.') {
                bytes.push(b'.');
                dots += 1;
            }
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\r\n");
            let ending = if rest[end..].starts_with(b"\r\n") {
                2
            } else {
                1
            };
            rest = rest.get(end + ending..).unwrap_or_default();
        }
        let size = bytes.len() - dots;
        Ok(Self {
            bytes,
            size,
            has_eight_bit,
            has_eight_bit_header,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cr_lf_ends_a_line_and_no_line_is_a_lone_dot() {
        for (mime, expected) in [
            (&b"a\r\nb"[..], &b"a\r\nb\r\n"[..]),
            (b"a\r\n", b"a\r\n"),
            (b"a\nb\n", b"a\r\nb\r\n"),
            (b"a\rb\r", b"a\r\nb\r\n"),
            (b"a\n.\nb", b"a\r\n..\r\nb\r\n"),
            (b"a\r\n.\nb", b"a\r\n..\r\nb\r\n"),
            (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n"),
            (b"a\r.\rb", b"a\r\n..\r\nb\r\n"),
            (b"a\r.\r\nb", b"a\r\n..\r\nb\r\n"),
            (b".\r\nb", b"..\r\nb\r\n"),
            (b"a\r\r\nb", b"a\r\n\r\nb\r\n"),
            (b"a\n\rb", b"a\r\n\r\nb\r\n"),
            (b"a\r\n.", b"a\r\n..\r\n"),
            (b"..a\r\n...\r\n", b"...a\r\n....\r\n"),
            (b"", b""),
        ] {
            assert_eq!(
                EncodedMessage::new(mime).expect("a message").bytes,
                expected,
                "{mime:?}"
            );
        }
        assert!(EncodedMessage::new(b"a\0b").is_err());
    }

    #[test]
    fn its_size_is_that_of_the_message_and_characters_beyond_ascii_are_noticed() {
        let wire = EncodedMessage::new("Subject: x\n\n.ü\n".as_bytes()).expect("a message");
        assert_eq!(wire.size, "Subject: x\r\n\r\n.ü\r\n".len());
        assert!(wire.has_eight_bit && !wire.has_eight_bit_header);
        assert!(
            EncodedMessage::new("Subject: ü\n\nx".as_bytes())
                .expect("a message")
                .has_eight_bit_header
        );
    }
}
