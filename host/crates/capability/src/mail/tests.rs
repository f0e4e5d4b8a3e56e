use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;

/// A server that answers each command line by the first rule whose word it contains, `250 ok` otherwise, and `354` to DATA.
/// A reply of `-` closes the connection instead.
async fn server(rules: &'static [(&'static str, &'static str)]) -> MailTransport {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, rules));
        }
    });
    let config = MailConfig {
        host: "127.0.0.1".into(),
        port,
        tls: MailTls::None,
        username: Some("user".into()),
        password: Some("abcd efgh".into()),
        timeout: Duration::from_secs(2),
        max_message_bytes: 1_000,
    };
    MailTransport::new(Some(config)).expect("a configuration")
}

async fn serve(stream: tokio::net::TcpStream, rules: &'static [(&'static str, &'static str)]) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 test ESMTP\r\n").await.ok()?;
    let mut in_data = false;
    while let Some(line) = lines.next_line().await.ok()? {
        if in_data && line != "." {
            continue;
        }
        let line = if in_data { "DOT".to_owned() } else { line };
        in_data = false;
        let rule = rules.iter().find(|(word, _)| line.contains(word)).map(|(_, reply)| *reply);
        let reply = match rule {
            Some("-") => return None,
            Some(reply) => reply,
            None if line.starts_with("EHLO") => "250-test\r\n250 AUTH PLAIN LOGIN",
            None if line == "DATA" => {
                in_data = true;
                "354 go on"
            }
            None => "250 ok",
        };
        write.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
    Some(())
}

async fn send(mail: &MailTransport, recipients: &[&str]) -> Result<SmtpReceipt, SmtpFailure> {
    reported(mail, recipients).await.0
}

async fn reported(mail: &MailTransport, recipients: &[&str]) -> (Result<SmtpReceipt, SmtpFailure>, Report) {
    let recipients = recipients.iter().map(|text| (*text).to_owned()).collect();
    let envelope = Envelope { sender: "us@example.com".into(), recipients };
    mail.send(envelope, b"Subject: x\r\n\r\nbody", Duration::from_secs(10)).await
}

#[tokio::test]
async fn only_a_server_that_does_not_answer_or_leaves_counts_for_the_breaker() {
    for (rules, recipients, expected) in [
        (&[][..], &["a@example.com"][..], Report::Answered),
        (&[("RCPT", "550 no such user")], &["a@example.com"], Report::Answered),
        (&[("AUTH", "535 wrong password")], &["a@example.com"], Report::Answered),
        (&[("MAIL", "450 later")], &["a@example.com"], Report::Answered),
        (&[], &["no address"], Report::Unknown),
        (&[("MAIL", "421 going down")], &["a@example.com"], Report::Failed),
        (&[("RCPT", "421 going down")], &["a@example.com"], Report::Failed),
        (&[("AUTH", "-")], &["a@example.com"], Report::Failed),
        (&[("DOT", "-")], &["a@example.com"], Report::Failed),
    ] {
        assert_eq!(reported(&server(rules).await, recipients).await.1, expected, "{rules:?} {recipients:?}");
    }
    let nobody = MailTransport::new(None).expect("no account");
    assert_eq!(reported(&nobody, &["a@example.com"]).await.1, Report::Unknown);
}

#[tokio::test]
async fn a_mail_that_one_recipient_takes_is_sent_and_lists_the_refused() {
    let mail = server(&[("RCPT TO:<b@", "550 5.1.1 no such user"), ("DOT", "250 2.0.0 OK 1 - gsmtp")]).await;
    let receipt = send(&mail, &["a@example.com", "b@example.com", "nonsense"]).await.expect("taken");
    assert_eq!(receipt.reply, "2.0.0 OK 1 - gsmtp");
    let codes: Vec<_> =
        receipt.refused.iter().map(|r| (r.recipient.as_str(), r.reply_code, r.enhanced_code.as_deref())).collect();
    assert_eq!(codes, [("nonsense", 553, Some("5.1.3")), ("b@example.com", 550, Some("5.1.1"))]);
}

#[tokio::test]
async fn refused_credentials_are_told_apart_from_refused_recipients() {
    let mail = server(&[("AUTH", "535-5.7.8 not accepted\r\n535 5.7.8 see help")]).await;
    let failure = send(&mail, &["a@example.com"]).await.expect_err("refused");
    assert_eq!(
        (failure.phase, failure.reply_code, failure.enhanced_code.as_deref()),
        ("auth", Some(535), Some("5.7.8"))
    );
    let mail = server(&[("RCPT", "451 4.3.0 later")]).await;
    let failure = send(&mail, &["a@example.com"]).await.expect_err("refused");
    assert_eq!((failure.phase, failure.reply_code, failure.refused.len()), ("rcpt", Some(451), 1));
}

#[tokio::test]
async fn a_reply_that_repeats_the_password_is_withheld_wherever_it_stands() {
    // Raw, and as it was sent: base64 of "\0user\0abcdefgh".
    for (word, reply) in [
        ("AUTH", "535 5.7.8 abcdefgh is not the password of user"),
        ("AUTH", "535 5.7.8 AHVzZXIAYWJjZGVmZ2g= is refused"),
        ("MAIL", "550 not with abcdefgh"),
        ("RCPT", "550 5.1.1 not with abcdefgh"),
        ("DOT", "554 not with abcdefgh"),
    ] {
        let failure = send(&server(Box::leak(Box::new([(word, reply)]))).await, &["a@example.com"]).await;
        let failure = failure.expect_err("refused");
        assert!(failure.text == ECHOED && failure.reply_code.is_some(), "{word}: {failure:?}");
        assert!(failure.refused.iter().all(|refusal| refusal.text == ECHOED), "{word}: {failure:?}");
    }
    let mail = server(&[("RCPT TO:<b@", "550 not with abcdefgh"), ("DOT", "250 taken with abcdefgh")]).await;
    let receipt = send(&mail, &["a@example.com", "b@example.com"]).await.expect("taken");
    assert_eq!((receipt.reply.as_str(), receipt.refused[0].text.as_str()), (ECHOED, ECHOED));
}

#[tokio::test]
async fn only_silence_after_the_final_dot_is_ambiguous() {
    let cut = send(&server(&[("DOT", "-")]).await, &["a@example.com"]).await.expect_err("cut");
    assert!(cut.ambiguous && cut.phase == "data", "{cut:?}");
    let refused =
        send(&server(&[("DOT", "550 5.4.5 daily limit")]).await, &["a@example.com"]).await.expect_err("refused");
    assert!(!refused.ambiguous && refused.reply_code == Some(550), "{refused:?}");
    let early = send(&server(&[("MAIL", "-")]).await, &["a@example.com"]).await.expect_err("cut");
    assert!(!early.ambiguous && early.phase == "mail", "{early:?}");
}

#[tokio::test]
async fn without_an_account_it_says_so_and_too_large_is_refused_before_connecting() {
    let none = MailTransport::new(None).expect("a configuration");
    assert_eq!(send(&none, &["a@example.com"]).await.expect_err("none").phase, "not-configured");
    let mail = server(&[]).await;
    let envelope = Envelope { sender: "us@example.com".into(), recipients: vec!["a@example.com".into()] };
    let failure = mail.send(envelope, &[b'x'; 2_000], Duration::from_secs(1)).await.0.expect_err("too large");
    assert_eq!(failure.phase, "too-large");
}

#[tokio::test]
async fn connections_are_kept_and_a_dead_one_is_replaced() {
    let mail = server(&[]).await;
    send(&mail, &["a@example.com"]).await.expect("taken");
    let mut kept = mail.take_idle().expect("kept for the next mail");
    kept.abort().await;
    mail.idle.lock().expect("no panic").push((Instant::now(), kept));
    send(&mail, &["a@example.com"]).await.expect("taken over a fresh connection");
}
