use tokio::io::AsyncReadExt;

use super::*;

/// The catcher's answer to parts written at once after the greeting, until it is silent or
/// ends.
async fn conversation(catcher: &MailCatcher, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(catcher.address)
        .await
        .expect("a connection");
    let mut all = String::new();
    let mut buffer = [0; 4_096];
    for part in parts {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        all.push_str(&String::from_utf8_lossy(&buffer[..read]));
        if read == 0 || stream.write_all(part).await.is_err() {
            return all;
        }
    }
    stream.shutdown().await.ok();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    all + &String::from_utf8_lossy(&rest)
}

const OPENING: [&[u8]; 4] = [
    b"EHLO x\r\n",
    b"MAIL FROM:<a@example.com>\r\n",
    b"RCPT TO:<b@example.com>\r\n",
    b"DATA\r\n",
];

async fn mailed(catcher: &MailCatcher, data: &[u8]) -> String {
    let parts: Vec<&[u8]> = OPENING.into_iter().chain([data]).collect();
    conversation(catcher, &parts).await
}

#[tokio::test]
async fn only_cr_lf_dot_cr_lf_ends_a_mail_and_only_clean_ones_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let catcher = MailCatcher::start(dir.path()).await.expect("a catcher");
    assert!(
        mailed(&catcher, b"Subject: x\r\n\r\n..a\r\n.\r\n")
            .await
            .contains("250 2.0.0 caught")
    );
    assert_eq!(catcher.count(), 1);
    let file = std::fs::read(dir.path().join(&catcher.list()[0].file)).expect("a file");
    assert_eq!(file, b"Subject: x\r\n\r\n.a\r\n");
    for bad in [
        &b"a\n.\r\nMAIL FROM:<evil@example.com>\r\n.\r\n"[..],
        b"a\r\n.\nMAIL FROM:<evil@example.com>\r\n.\r\n",
        b"a\r.\rb\r\n.\r\n",
        b"a\0b\r\n.\r\n",
        b"a\xffb\r\n.\r\n",
        &[&b"x".repeat(5_000)[..], b"\r\n.\r\n"].concat(),
        b"a\r\n.\r\nMAIL FROM:<evil@example.com>\r\n",
    ] {
        let answers = mailed(&catcher, bad).await;
        assert!(answers.contains("\r\n554 "), "{bad:?}: {answers}");
    }
    for open in [&b"a\n.\n"[..], b"a\r\n.\n", b"a\r.\r", b"a"] {
        let answers = mailed(&catcher, open).await;
        assert!(
            answers.trim_end().ends_with("354 end with a dot"),
            "{open:?}: {answers}"
        );
    }
    assert_eq!(catcher.count(), 1);
}

#[tokio::test]
async fn commands_out_of_order_or_out_of_form_are_refused_and_hostile_clients_do_no_harm() {
    let dir = tempfile::tempdir().expect("a directory");
    let catcher = MailCatcher::start(dir.path()).await.expect("a catcher");
    for (parts, expected) in [
        (&[&b"MAIL FROM:<a@example.com>\r\n"[..]][..], "503"),
        (&[b"EHLO\r\n"], "501"),
        (&[b"EHLO x\r\n", b"RCPT TO:<a@example.com>\r\n"], "503"),
        (&[b"EHLO x\r\n", b"DATA\r\n"], "503"),
        (&[b"EHLO x\r\n", b"MAIL FROM: <a@example.com>\r\n"], "501"),
        (
            &[b"EHLO x\r\n", b"MAIL FROM:<a@example.com> X=1\r\n"],
            "555",
        ),
        (
            &[
                b"EHLO x\r\n",
                b"MAIL FROM:<a@example.com> SIZE=99999999\r\n",
            ],
            "552",
        ),
        (
            &[
                b"EHLO x\r\n",
                "MAIL FROM:<\u{fc}@example.com>\r\n".as_bytes(),
            ],
            "553",
        ),
        (
            &[
                b"EHLO x\r\n",
                b"MAIL FROM:<a@example.com>\r\n",
                b"RCPT TO:<b\r\n",
            ],
            "501",
        ),
        (&[b"EHLO x\nNOOP\r\n"], "500"),
        (&[b"EHLO x\r\nNOOP\r\n"], "503"),
        (&[b"\xff\xfe\r\n"], "500"),
        (&[b"AUTH PLAIN\r\n"], "503"),
        (&[b"EHLO x\r\n", b"AUTH LOGIN\r\n", b"*\r\n"], "501"),
        (&[b"EHLO x\r\n", b"AUTH PLAIN AAA=\r\n"], "235"),
    ] {
        let answers = conversation(&catcher, parts).await;
        let last = answers.lines().last().unwrap_or_default();
        assert!(last.starts_with(expected), "{parts:?}: {answers}");
    }
    // An endless line uses no memory, and ends with its client.
    let mut endless = TcpStream::connect(catcher.address)
        .await
        .expect("a connection");
    for _ in 0..64 {
        if endless.write_all(&[b'x'; 64 << 10]).await.is_err() {
            break;
        }
    }
    drop(endless);
    assert!(
        mailed(&catcher, b"Subject: x\r\n\r\n.\r\n")
            .await
            .contains("250 2.0.0 caught")
    );
}
