//! Replies of a mail server (RFC 5321 §4.2): the three digits decide, whatever bytes the text has.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::error::Broken;

/// RFC 5321 §4.5.3.1.5 allows 512; real lines are longer.
const MAX_LINE_BYTES: u64 = 8 << 10;
/// Of all lines of one reply.
const MAX_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// 200 to 599.
    pub(super) code: u16,
    /// The text of each line, without control characters.
    pub(super) lines: Vec<String>,
}

impl Reply {
    pub(super) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Self, Broken> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        loop {
            let mut line = Vec::new();
            (&mut *stream)
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut line)
                .await?;
            if line.last() != Some(&b'\n') {
                return Err(if line.len() as u64 == MAX_LINE_BYTES {
                    Broken::NoReply
                } else {
                    Broken::Closed
                });
            }
            bytes += line.len();
            if bytes > MAX_BYTES {
                return Err(Broken::NoReply);
            }
            match parse(&line) {
                Some((_, true, text)) => lines.push(text),
                Some((code, false, text)) => {
                    lines.push(text);
                    return Ok(Self { code, lines });
                }
                // Within a reply, a line without its number is text.
                None if !lines.is_empty() => lines.push(readable(&line)),
                None => return Err(Broken::NoReply),
            }
        }
    }

    pub(super) fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    pub(super) fn is_negative(&self) -> bool {
        self.code >= 400
    }

    pub(super) fn text(&self) -> String {
        self.lines.join(" ").trim().to_owned()
    }

    /// `5.7.8 Username and Password not accepted`: RFC 2034 puts the code first in the text.
    pub(super) fn enhanced_code(&self) -> Option<String> {
        let first = self.lines.first()?.split_whitespace().next()?;
        let parts: Vec<&str> = first.split('.').collect();
        let is_number =
            |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let is_enhanced =
            parts.len() == 3 && matches!(parts[0], "2" | "4" | "5") && parts.iter().all(is_number);
        is_enhanced.then(|| first.to_owned())
    }
}

/// Code, whether more lines follow, text. RFC 5321 §4.2.1 gives the first digit a meaning from 2 to
/// 5; the other digits may be any.
fn parse(line: &[u8]) -> Option<(u16, bool, String)> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !(b'2'..=b'5').contains(&digits[0]) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits
        .iter()
        .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let more = rest.first() == Some(&b'-');
    Some((
        code,
        more,
        readable(rest.strip_prefix(b"-").unwrap_or(rest)),
    ))
}

/// UTF-8, else Latin-1, in which every byte is a character.
fn readable(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    };
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Reply, Broken> {
        Reply::read(&mut &*bytes).await
    }

    #[tokio::test]
    async fn the_three_digits_decide_whatever_the_text_is() {
        for (bytes, code, text) in [
            (&b"250 2.0.0 OK\r\n"[..], 250, "2.0.0 OK"),
            (b"250\r\n", 250, ""),
            (b"250 \r\n", 250, ""),
            (b"250 ok\n", 250, "ok"),
            (b"250 angenommen f\xfcr Sie\r\n", 250, "angenommen für Sie"),
            ("250 für Sie\r\n".as_bytes(), 250, "für Sie"),
            (b"250 \x1b[31mred\0\r\n", 250, "[31mred"),
            (b"571 refused\r\n", 571, "refused"),
            (b"599-a\r\n599 b\r\n", 599, "a b"),
            (
                b"250-first\r\nno number\r\n250 last\r\n",
                250,
                "first no number last",
            ),
            (b"550-a\r\n551 b\r\n", 551, "a b"),
        ] {
            let reply = read(bytes).await.expect("a reply");
            assert_eq!(
                (reply.code, reply.text().as_str()),
                (code, text),
                "{bytes:?}"
            );
        }
        for bytes in [
            &b"hello\r\n"[..],
            b"25 ok\r\n",
            b"650 ok\r\n",
            b"\xff\xfe\r\n",
            b"\r\n",
        ] {
            assert!(
                matches!(read(bytes).await, Err(Broken::NoReply)),
                "{bytes:?}"
            );
        }
        for bytes in [&b""[..], b"250 o", b"250-more\r\n"] {
            assert!(
                matches!(read(bytes).await, Err(Broken::Closed)),
                "{bytes:?}"
            );
        }
        assert!(
            matches!(
                read(&b"250-x\r\n".repeat(20_000)).await,
                Err(Broken::NoReply)
            ),
            "endless"
        );
        assert!(
            matches!(read(&b"2".repeat(20_000)).await, Err(Broken::NoReply)),
            "endless"
        );
    }

    #[tokio::test]
    async fn an_enhanced_code_is_the_first_word_or_there_is_none() {
        for (bytes, expected) in [
            (
                &b"535-5.7.8 not accepted\r\n535 5.7.8 see help\r\n"[..],
                Some("5.7.8"),
            ),
            (b"550 5.1.1\r\n", Some("5.1.1")),
            (b"550 192.0.2 is listed\r\n", None),
            (b"550 no 5.1.1\r\n", None),
        ] {
            assert_eq!(
                read(bytes)
                    .await
                    .expect("a reply")
                    .enhanced_code()
                    .as_deref(),
                expected
            );
        }
    }
}
