use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::account::{Account, ECHOED};
use super::failure::{SmtpFailure, SmtpReceipt};
use super::{Envelope, MailConfig, MailError, MailTls, MailTransport};
use crate::breaker::Report;

/// Word and answer: the first rule whose word a line contains decides.
type Rules<'a> = &'a [(&'static str, &'static [u8])];

/// Answers each command line by the first rule whose word it contains, else `250 ok`, and `354` to
/// DATA. The reply `-` closes the connection instead, `...` sends nothing. `DOT` is the end of a
/// message; `HELLO` is the greeting.
struct Server {
    port: u16,
    connections: AtomicUsize,
    /// Everything that clients have sent.
    heard: Mutex<Vec<u8>>,
}

impl Server {
    async fn start(rules: Rules<'_>) -> Arc<Self> {
        let rules = rules.to_vec();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Arc::new(Self {
            port,
            connections: AtomicUsize::new(0),
            heard: Mutex::default(),
        });
        let shared = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let (server, rules) = (Arc::clone(&shared), rules.clone());
                tokio::spawn(async move { server.serve(stream, &rules).await });
            }
        });
        server
    }

    async fn serve(&self, stream: TcpStream, rules: Rules<'_>) -> Option<()> {
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        let mut in_data = false;
        let mut line = b"HELLO".to_vec();
        loop {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !in_data || text == "." {
                let text = if in_data { "DOT".to_owned() } else { text };
                in_data = false;
                let reply = match rules.iter().find(|(word, _)| text.contains(word)) {
                    Some((_, b"-")) => return None,
                    Some((_, b"...")) => b"",
                    Some((_, reply)) => *reply,
                    None if text == "HELLO" => b"220 test ESMTP\r\n",
                    None if text.starts_with("EHLO") => b"250-test\r\n250 AUTH PLAIN LOGIN\r\n",
                    None if text == "DATA" => {
                        in_data = true;
                        b"354 go on\r\n"
                    }
                    None => b"250 ok\r\n",
                };
                write.write_all(reply).await.ok()?;
            }
            line.clear();
            if read.read_until(b'\n', &mut line).await.ok()? == 0 {
                return None;
            }
            self.heard.lock().extend_from_slice(&line);
        }
    }

    fn config(&self) -> MailConfig {
        MailConfig {
            host: "127.0.0.1".into(),
            port: self.port,
            tls: MailTls::None,
            hello_name: None,
            username: Some("user".into()),
            password: Some("abcd efgh".into()),
            password_file: None,
            timeout: Duration::from_secs(2),
            max_message_bytes: 1_000,
        }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock()).into_owned()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn server(rules: Rules<'_>) -> MailTransport {
    transport(&*Server::start(rules).await)
}

fn transport(server: &Server) -> MailTransport {
    MailTransport::new(Some(server.config())).expect("a configuration")
}

async fn send(mail: &MailTransport, recipients: &[&str]) -> Result<SmtpReceipt, SmtpFailure> {
    reported(mail, recipients).await.0
}

async fn reported(
    mail: &MailTransport,
    recipients: &[&str],
) -> (Result<SmtpReceipt, SmtpFailure>, Report) {
    let seconds = Duration::from_secs(4);
    mail.send(
        "test",
        envelope(recipients),
        b"Subject: x\r\n\r\nbody",
        seconds,
        &|| (),
    )
    .await
}

async fn send_mime(mail: &MailTransport, mime: &[u8]) -> Result<SmtpReceipt, SmtpFailure> {
    mail.send(
        "test",
        envelope(&["a@example.com"]),
        mime,
        Duration::from_secs(4),
        &|| (),
    )
    .await
    .0
}

fn envelope(recipients: &[&str]) -> Envelope {
    let recipients = recipients.iter().map(|text| (*text).to_owned()).collect();
    Envelope {
        sender: "us@example.com".into(),
        recipients,
    }
}

#[tokio::test]
async fn only_a_server_that_does_not_answer_or_leaves_counts_for_the_breaker() {
    let cases: [(Rules<'_>, &[&str], Report); 10] = [
        (&[], &["a@example.com"], Report::Answered),
        (
            &[("RCPT", b"550 no such user\r\n")],
            &["a@example.com"],
            Report::Answered,
        ),
        (
            &[("AUTH", b"535 wrong password\r\n")],
            &["a@example.com"],
            Report::Answered,
        ),
        (
            &[("MAIL", b"450 later\r\n")],
            &["a@example.com"],
            Report::Answered,
        ),
        (&[], &["no address"], Report::Unknown),
        (
            &[("MAIL", b"421 going down\r\n")],
            &["a@example.com"],
            Report::Failed,
        ),
        (
            &[("RCPT", b"421 going down\r\n")],
            &["a@example.com"],
            Report::Failed,
        ),
        (&[("AUTH", b"-")], &["a@example.com"], Report::Failed),
        (&[("DOT", b"-")], &["a@example.com"], Report::Failed),
        (
            &[("DOT", b"nonsense\r\n")],
            &["a@example.com"],
            Report::Failed,
        ),
    ];
    for (rules, recipients, expected) in cases {
        assert_eq!(
            reported(&server(rules).await, recipients).await.1,
            expected,
            "{rules:?} {recipients:?}"
        );
    }
    let nobody = MailTransport::new(None).expect("no account");
    assert_eq!(
        reported(&nobody, &["a@example.com"]).await.1,
        Report::Unknown
    );
}

#[tokio::test]
async fn a_mail_that_one_recipient_takes_is_sent_and_lists_the_refused() {
    let mail = server(&[
        ("RCPT TO:<b@", b"550 5.1.1 no such user\r\n"),
        ("DOT", b"250 2.0.0 OK 1 - gsmtp\r\n"),
    ])
    .await;
    let receipt = send(&mail, &["a@example.com", "b@example.com", "nonsense"])
        .await
        .expect("taken");
    assert_eq!(receipt.reply, "2.0.0 OK 1 - gsmtp");
    let codes: Vec<_> = receipt
        .refused
        .iter()
        .map(|r| {
            (
                r.recipient.as_str(),
                r.reply_code,
                r.enhanced_code.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        codes,
        [
            ("nonsense", 553, Some("5.1.3")),
            ("b@example.com", 550, Some("5.1.1"))
        ]
    );
}

#[tokio::test]
async fn refused_credentials_are_told_apart_from_refused_recipients() {
    let mail = server(&[("AUTH", b"535-5.7.8 not accepted\r\n535 5.7.8 see help\r\n")]).await;
    let failure = send(&mail, &["a@example.com"]).await.expect_err("refused");
    assert_eq!(
        (
            failure.phase,
            failure.reply_code,
            failure.enhanced_code.as_deref()
        ),
        ("auth", Some(535), Some("5.7.8"))
    );
    let mail = server(&[("RCPT", b"451 4.3.0 later\r\n")]).await;
    let failure = send(&mail, &["a@example.com"]).await.expect_err("refused");
    assert_eq!(
        (failure.phase, failure.reply_code, failure.refused.len()),
        ("rcpt", Some(451), 1)
    );
}

#[tokio::test]
async fn a_reply_that_repeats_the_password_is_withheld_wherever_it_stands() {
    // The password raw, and as it was sent: base64 of "\0user\0abcd efgh".
    let echoes: [(&str, &[u8]); 5] = [
        (
            "AUTH",
            b"535 5.7.8 abcd efgh is not the password of user\r\n",
        ),
        ("AUTH", b"535 5.7.8 AHVzZXIAYWJjZCBlZmdo is refused\r\n"),
        ("MAIL", b"550 not with abcd efgh\r\n"),
        ("RCPT", b"550 5.1.1 not with abcd efgh\r\n"),
        ("DOT", b"554 not with abcd efgh\r\n"),
    ];
    for (word, reply) in echoes {
        let failure = send(&server(&[(word, reply)]).await, &["a@example.com"]).await;
        let failure = failure.expect_err("refused");
        assert!(
            failure.text == ECHOED && failure.reply_code.is_some(),
            "{word}: {failure:?}"
        );
        assert!(
            failure.refused.iter().all(|refusal| refusal.text == ECHOED),
            "{word}: {failure:?}"
        );
    }
    let mail = server(&[
        ("RCPT TO:<b@", b"550 not with abcd efgh\r\n"),
        ("DOT", b"250 taken with abcd efgh\r\n"),
    ])
    .await;
    let receipt = send(&mail, &["a@example.com", "b@example.com"])
        .await
        .expect("taken");
    assert_eq!(
        (receipt.reply.as_str(), receipt.refused[0].text.as_str()),
        (ECHOED, ECHOED)
    );
}

#[tokio::test]
async fn only_silence_after_the_final_dot_is_ambiguous() {
    let cut = send(&server(&[("DOT", b"-")]).await, &["a@example.com"])
        .await
        .expect_err("cut");
    assert!(cut.ambiguous && cut.phase == "data", "{cut:?}");
    let refused = send(
        &server(&[("DOT", b"550 5.4.5 daily limit\r\n")]).await,
        &["a@example.com"],
    )
    .await
    .expect_err("refused");
    assert!(
        !refused.ambiguous && refused.reply_code == Some(550),
        "{refused:?}"
    );
    let early = send(&server(&[("MAIL", b"-")]).await, &["a@example.com"])
        .await
        .expect_err("cut");
    assert!(!early.ambiguous && early.phase == "mail", "{early:?}");
}

#[tokio::test]
async fn without_an_account_it_says_so_and_too_large_is_refused_before_connecting() {
    let none = MailTransport::new(None).expect("a configuration");
    assert_eq!(
        send(&none, &["a@example.com"])
            .await
            .expect_err("none")
            .phase,
        "not-configured"
    );
    let mail = server(&[]).await;
    let envelope = Envelope {
        sender: "us@example.com".into(),
        recipients: vec!["a@example.com".into()],
    };
    let failure = mail
        .send(
            "test",
            envelope,
            &[b'x'; 2_000],
            Duration::from_secs(1),
            &|| (),
        )
        .await
        .0
        .expect_err("too large");
    assert_eq!(failure.phase, "too-large");
}

#[tokio::test]
async fn connections_are_kept_and_a_dead_one_is_replaced() {
    let server = Server::start(&[]).await;
    let mail = transport(&server);
    for _ in 0..3 {
        send(&mail, &["a@example.com"]).await.expect("taken");
    }
    assert_eq!(server.connections(), 1);
    let closing = Server::start(&[("QUIT", b"-")]).await;
    let mail = transport(&closing);
    send(&mail, &["a@example.com"]).await.expect("taken");
    mail.idle
        .take("test")
        .await
        .expect("kept for the next mail")
        .quit()
        .await;
    send(&mail, &["a@example.com"])
        .await
        .expect("taken over a fresh connection");
    assert_eq!(closing.connections(), 2);
}

#[tokio::test]
async fn a_plugin_never_gets_another_plugins_connection() {
    let server = Server::start(&[]).await;
    let mail = transport(&server);
    for plugin in ["one", "two", "one", "two"] {
        let sent = mail
            .send(
                plugin,
                envelope(&["a@example.com"]),
                b"x",
                Duration::from_secs(4),
                &|| (),
            )
            .await;
        sent.0.expect("taken");
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_connection_with_unread_bytes_is_never_used_again() {
    // A second reply to one message: read later, it would look like the answer to another one.
    let server = Server::start(&[("DOT", b"250 taken\r\n250 smuggled\r\n")]).await;
    let mail = transport(&server);
    for n in 1..=3 {
        assert_eq!(
            send(&mail, &["a@example.com"]).await.expect("taken").reply,
            "taken"
        );
        assert_eq!(server.connections(), n);
    }
    // Within a conversation, such bytes end it before anything is sent.
    for (word, reply) in [
        ("RCPT", &b"250 ok\r\n250 ok\r\n"[..]),
        ("DATA", b"354 go\r\n250 taken\r\n"),
    ] {
        let server = Server::start(&[(word, reply)]).await;
        let failure = send(&transport(&server), &["a@example.com"])
            .await
            .expect_err("out of step");
        assert!(
            failure.text.contains("more than it was asked for") && !failure.ambiguous,
            "{failure:?}"
        );
        assert!(!server.heard().contains("body"));
    }
}

#[tokio::test]
async fn a_message_is_taken_by_its_three_digits_whatever_the_words_are() {
    for reply in [
        &b"250 angenommen f\xfcr Sie\r\n"[..],
        b"250-\xff\r\n250 \x80\r\n",
        b"250\r\n",
        b"252 x\r\n",
        b"250 ok\n",
    ] {
        let server = Server::start(&[("DOT", reply)]).await;
        let (answer, report) = reported(&transport(&server), &["a@example.com"]).await;
        assert!(
            answer.is_ok() && report == Report::Answered,
            "{reply:?}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn each_recipient_has_a_verdict_of_his_own_whatever_its_number() {
    for (reply, code) in [
        (&b"571 5.7.1 no\r\n"[..], 571),
        (b"599 \xfc\r\n", 599),
        (b"452 full\r\n", 452),
        (b"590\r\n", 590),
    ] {
        let server = Server::start(&[("RCPT TO:<b@", reply)]).await;
        let (answer, report) = reported(
            &transport(&server),
            &["a@example.com", "b@example.com", "c@example.com"],
        )
        .await;
        let receipt = answer.expect("taken for the others");
        assert_eq!(report, Report::Answered);
        let refused: Vec<_> = receipt
            .refused
            .iter()
            .map(|one| (one.recipient.as_str(), one.reply_code))
            .collect();
        assert_eq!(refused, [("b@example.com", code)]);
        assert!(server.heard().contains("RCPT TO:<c@example.com>"));
    }
    let gone = Server::start(&[("RCPT TO:<b@", b"421 going down\r\n")]).await;
    let failure = send(
        &transport(&gone),
        &["a@example.com", "b@example.com", "c@example.com"],
    )
    .await
    .expect_err("gone");
    assert_eq!(
        (failure.phase, failure.reply_code, failure.ambiguous),
        ("rcpt", Some(421), false)
    );
    assert!(!gone.heard().contains("DATA"));
}

#[tokio::test]
async fn nothing_that_a_guest_writes_ends_its_message_or_its_command_early() {
    let server = Server::start(&[]).await;
    let mail = transport(&server);
    for end in [
        "\n.\n",
        "\r\n.\n",
        "\n.\r\n",
        "\r.\r",
        "\r.\r\n",
        "\r\n.\r",
        "\r\n.\r\n",
    ] {
        let smuggled = format!("Subject: x{end}MAIL FROM:<evil@example.com>\n\nbody{end}RSET{end}");
        send_mime(&mail, smuggled.as_bytes()).await.expect("taken");
    }
    let heard = server.heard();
    assert_eq!(heard.matches("\r\n.\r\n").count(), 7, "one end each");
    assert!(
        !heard.replace("\r\n", "").contains(['\r', '\n']),
        "only CR LF: {heard:?}"
    );
    assert_eq!(server.connections(), 1, "and never out of step");

    let server = Server::start(&[]).await;
    let mail = transport(&server);
    let nul = send_mime(&mail, b"Subject: x\r\n\r\na\0b")
        .await
        .expect_err("refused");
    assert_eq!((nul.phase, nul.reply_code), ("data", Some(554)));
    for evil in [
        "a@example.com>\r\nDATA\r\n",
        "a@example.com\n",
        "\"a\r\n.\r\n\"@example.com",
        "a\0@example.com",
        "a@example.com> SIZE=1",
    ] {
        let failure = send(&mail, &[evil]).await.expect_err("refused");
        assert_eq!(
            (failure.phase, failure.reply_code),
            ("rcpt", Some(553)),
            "{evil:?}"
        );
        let envelope = Envelope {
            sender: evil.into(),
            recipients: vec!["a@example.com".into()],
        };
        let failure = mail
            .send("test", envelope, b"x", Duration::from_secs(1), &|| ())
            .await
            .0
            .expect_err("refused");
        assert_eq!(
            (failure.phase, failure.reply_code),
            ("mail", Some(553)),
            "{evil:?}"
        );
    }
    assert_eq!(server.connections(), 0, "the server was not even asked");
    for evil in ["x\r\nMAIL FROM:<>", "x y", "", "[1.2.3]"] {
        let config = MailConfig {
            hello_name: Some(evil.into()),
            ..server.config()
        };
        assert!(
            matches!(
                MailTransport::new(Some(config)),
                Err(MailError::HelloName(_))
            ),
            "{evil:?}"
        );
    }
}

#[tokio::test]
async fn an_international_domain_needs_nothing_of_the_server_and_a_local_part_only_his_own_mail() {
    let old = Server::start(&[]).await;
    let recipients = [
        "info@m\u{fc}ller.example",
        "j\u{f6}rg@example.com",
        "a@example.com",
    ];
    let receipt = send(&transport(&old), &recipients)
        .await
        .expect("taken for two");
    assert!(
        old.heard()
            .contains("RCPT TO:<info@xn--mller-kva.example>\r\n")
    );
    let refused: Vec<_> = receipt
        .refused
        .iter()
        .map(|one| (one.recipient.as_str(), one.enhanced_code.as_deref()))
        .collect();
    assert_eq!(refused, [("j\u{f6}rg@example.com", Some("5.6.7"))]);

    let new = Server::start(&[(
        "EHLO",
        b"250-test\r\n250-SIZE 500\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH=LOGIN PLAIN\r\n",
    )])
    .await;
    let receipt = send(&transport(&new), &recipients).await.expect("taken");
    assert_eq!(receipt.refused, []);
    assert!(
        new.heard()
            .contains("MAIL FROM:<us@example.com> SIZE=20 SMTPUTF8\r\n"),
        "{}",
        new.heard()
    );
    assert!(new.heard().contains("RCPT TO:<j\u{f6}rg@example.com>\r\n"));
    send_mime(&transport(&new), "Subject: x\n\n\u{fc}".as_bytes())
        .await
        .expect("taken");
    assert!(new.heard().contains(" BODY=8BITMIME\r\n"));
    let large = send_mime(&transport(&new), &[b'x'; 600])
        .await
        .expect_err("too large");
    assert_eq!(large.phase, "too-large");
    let raw = send_mime(&transport(&old), "Subject: x\n\n\u{fc}".as_bytes())
        .await
        .expect_err("8 bits");
    assert_eq!(
        (raw.phase, raw.enhanced_code.as_deref()),
        ("data", Some("5.6.3"))
    );
}

#[tokio::test]
async fn an_old_server_is_greeted_by_helo_and_the_name_is_the_configured_one() {
    let server = Server::start(&[("EHLO", b"502 what?\r\n")]).await;
    let named = |name: Option<&str>| {
        let config = MailConfig {
            hello_name: name.map(str::to_owned),
            username: None,
            password: None,
            ..server.config()
        };
        MailTransport::new(Some(config)).expect("a configuration")
    };
    send(&named(Some("m\u{fc}ller.example")), &["a@example.com"])
        .await
        .expect("taken");
    assert!(
        server
            .heard()
            .contains("EHLO xn--mller-kva.example\r\nHELO xn--mller-kva.example\r\nMAIL FROM:<us@")
    );
    send(&named(None), &["a@example.com"]).await.expect("taken");
    assert!(server.heard().contains("HELO [127.0.0.1]\r\n"));
    let later = Server::start(&[("EHLO", b"450 later\r\n")]).await;
    let failure = send(&transport(&later), &["a@example.com"])
        .await
        .expect_err("later");
    assert!(failure.reply_code == Some(450) && !later.heard().contains("HELO 1"));
    // No login is possible then, and it is not skipped silently.
    let failure = send(&transport(&server), &["a@example.com"])
        .await
        .expect_err("no login");
    assert_eq!((failure.phase, failure.reply_code), ("auth", Some(504)));
}

#[tokio::test]
async fn a_password_is_sent_as_it_is_given() {
    let server = Server::start(&[
        ("AUTH LOGIN", b"334 VXNlcm5hbWU6\r\n"),
        ("dXNlcg==", b"334 x\r\n"),
        ("EHLO", b"250-x\r\n250 AUTH LOGIN\r\n"),
    ])
    .await;
    let config = MailConfig {
        password: Some(" p\u{e4}ss  word ".into()),
        ..server.config()
    };
    send(
        &MailTransport::new(Some(config)).expect("a configuration"),
        &["a@example.com"],
    )
    .await
    .expect("taken");
    assert!(
        server
            .heard()
            .contains("AUTH LOGIN\r\ndXNlcg==\r\nIHDDpHNzICB3b3JkIA==\r\n"),
        "{}",
        server.heard()
    );
    let nul = MailConfig {
        password: Some("a\0b".into()),
        ..server.config()
    };
    assert!(matches!(
        MailTransport::new(Some(nul)),
        Err(MailError::Credentials)
    ));
    // Google shows a password with spaces that are not part of it.
    for (host, given, sent) in [
        ("smtp.gmail.com", "abcd efgh ijkl mnop", "abcdefghijklmnop"),
        ("smtp.gmail.com", "abcd efgh", "abcd efgh"),
        (
            "smtp.example.com",
            "abcd efgh ijkl mnop",
            "abcd efgh ijkl mnop",
        ),
    ] {
        let config = MailConfig {
            host: host.into(),
            password: Some(given.into()),
            ..server.config()
        };
        let account = Account::new(config).expect("an account");
        let login = account.login().await.expect("a login").expect("a login");
        assert_eq!(login.1.expose(), sent);
    }
}

#[tokio::test]
async fn a_password_of_a_file_is_read_for_each_login_and_never_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    let server = Server::start(&[
        (
            "AUTH PLAIN AHVzZXIAb2xkLXNlY3JldA==",
            b"535 5.7.8 old-secret is stale\r\n",
        ),
        ("RCPT TO:<echo@", b"550 5.1.1 new-secret\r\n"),
    ])
    .await;
    let config = MailConfig {
        password: None,
        password_file: Some(file.clone()),
        ..server.config()
    };
    let mail = MailTransport::new(Some(config)).expect("a configuration");
    let missing = send(&mail, &["a@example.com"]).await.expect_err("no file");
    assert_eq!((missing.phase, missing.reply_code), ("auth", None));
    assert!(
        !missing.text.contains("password\"")
            && !missing.text.contains(dir.path().to_str().expect("a path"))
    );
    std::fs::write(&file, "old-secret\n").expect("written");
    let stale = send(&mail, &["a@example.com"]).await.expect_err("stale");
    assert_eq!((stale.phase, stale.reply_code), ("auth", Some(535)));
    assert!(!stale.text.contains("old-secret"), "{}", stale.text);
    std::fs::write(&file, "new-secret\n").expect("written");
    let echoed = send(&mail, &["a@example.com", "echo@example.com"])
        .await
        .expect("taken");
    assert!(
        !echoed.refused[0].text.contains("new-secret"),
        "{}",
        echoed.refused[0].text
    );
    std::fs::write(&file, "\n").expect("written");
    let empty = send(&transport_of(&server, &file), &["a@example.com"])
        .await
        .expect_err("empty");
    assert_eq!((empty.phase, empty.reply_code), ("auth", None));
}

fn transport_of(server: &Server, file: &std::path::Path) -> MailTransport {
    let config = MailConfig {
        password: None,
        password_file: Some(file.to_owned()),
        ..server.config()
    };
    MailTransport::new(Some(config)).expect("a configuration")
}

#[tokio::test]
async fn a_mechanism_that_is_not_there_after_all_is_not_the_end() {
    let server = Server::start(&[
        ("AUTH PLAIN", b"504 not today\r\n"),
        ("AUTH LOGIN", b"334 x\r\n"),
        ("dXNlcg==", b"334 x\r\n"),
        ("YWJjZCBlZmdo", b"235 ok\r\n"),
    ])
    .await;
    send(&transport(&server), &["a@example.com"])
        .await
        .expect("taken");
}

#[tokio::test]
async fn before_its_end_no_message_is_in_doubt_and_after_it_only_an_answer_settles_it() {
    let cases: [(Rules<'_>, bool, bool); 10] = [
        (&[("DATA", b"-")], false, false),
        (&[("DATA", b"...")], false, false),
        (&[("DATA", b"554 no\r\n")], false, false),
        (&[("DATA", b"250 what?\r\n")], false, false),
        (&[("DOT", b"-")], true, true),
        (&[("DOT", b"...")], true, true),
        (&[("DOT", b"what?\r\n")], true, true),
        (&[("DOT", b"354 go on\r\n")], true, true),
        (&[("DOT", b"421 going down\r\n")], false, true),
        (&[("DOT", b"554 no\r\n")], false, true),
    ];
    for (rules, ambiguous, committed) in cases {
        let server = Server::start(rules).await;
        let called = AtomicUsize::new(0);
        let count = || {
            called.fetch_add(1, Ordering::SeqCst);
        };
        let sent = transport(&server)
            .send(
                "test",
                envelope(&["a@example.com"]),
                b"x",
                Duration::from_millis(600),
                &count,
            )
            .await;
        let failure = sent.0.expect_err("not taken");
        assert_eq!(
            (failure.ambiguous, called.load(Ordering::SeqCst) == 1),
            (ambiguous, committed),
            "{rules:?}: {failure:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_in_the_middle_of_a_message_has_not_taken_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"220 x\r\n").await.ok();
            while let Ok(Some(line)) = lines.next_line().await {
                let reply = match line.split(' ').next() {
                    Some("EHLO") => "250 x\r\n",
                    Some("DATA") => "354 go\r\n",
                    Some("MAIL" | "RCPT") => "250 ok\r\n",
                    _ => {
                        write.write_all(b"552 5.3.4 enough\r\n").await.ok();
                        break;
                    }
                };
                write.write_all(reply.as_bytes()).await.ok();
            }
        }
    });
    let config = MailConfig {
        port,
        username: None,
        password: None,
        max_message_bytes: 64 << 20,
        ..Server::start(&[]).await.config()
    };
    let mail = MailTransport::new(Some(config)).expect("a configuration");
    let failure = send_mime(&mail, &b"line\r\n".repeat(4 << 20))
        .await
        .expect_err("cut");
    assert!(!failure.ambiguous && failure.phase == "data", "{failure:?}");
}

#[tokio::test]
async fn starttls_is_not_left_out_and_words_in_the_clear_do_not_outlive_it() {
    let starttls = |server: &Server| {
        let config = MailConfig {
            tls: MailTls::StartTls,
            ..server.config()
        };
        MailTransport::new(Some(config)).expect("a configuration")
    };
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let without = Server::start(&[]).await;
    let failure = send(&starttls(&without), &["a@example.com"])
        .await
        .expect_err("no STARTTLS");
    assert!(
        failure.phase == "tls" && !without.heard().contains("AUTH"),
        "{failure:?}"
    );
    let early = Server::start(&[
        ("EHLO", b"250-x\r\n250 STARTTLS\r\n"),
        ("STARTTLS", b"220 go\r\n250 AUTH PLAIN\r\n"),
    ])
    .await;
    let failure = send(&starttls(&early), &["a@example.com"])
        .await
        .expect_err("injected");
    assert!(
        failure.phase == "tls" && failure.text.contains("more than it was asked for"),
        "{failure:?}"
    );
}
