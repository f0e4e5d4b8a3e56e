//! Mails through real HTTP, queue, plugin and SMTP to a server that misbehaves.

use anyhow::Context;
use patchbay_stand_ins::smtp::{self, Account, Fault, Smtp, Stage};
use redis::AsyncCommands;
use serde_json::{Value, json};

use super::library::Office;
use super::{result, to};

const QUEUE: &str = "emailQueue";
pub(super) const PASSWORD: &str = "stand-in-password";

/// The configuration for a host that sends by the server, with its password in a file.
pub(super) fn environment(
    server: std::net::SocketAddr,
    file: &std::path::Path,
) -> Vec<(&'static str, String)> {
    vec![
        ("PATCHBAY_MAIL_HOST", server.ip().to_string()),
        ("PATCHBAY_MAIL_PORT", server.port().to_string()),
        ("EMAIL_USER", Account::default().username),
        ("PATCHBAY_MAIL_PASSWORD_FILE", file.display().to_string()),
    ]
}

/// An office whose mails go to a stand-in.
async fn office() -> anyhow::Result<(Office, Smtp, tempfile::TempDir)> {
    let server = smtp::start("127.0.0.1:0".parse()?, Account::default()).await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("password");
    std::fs::write(&file, PASSWORD)?;
    let env = environment(server.address, &file);
    let env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    Ok((Office::new(&env).await?, server, dir))
}

async fn breakers_are_closed(office: &Office) -> anyhow::Result<()> {
    let (_, breakers) = office.host.get("/api/admin/breakers").await?;
    let all = breakers["data"].as_array().context("a list")?;
    anyhow::ensure!(all.iter().all(|one| one["state"] == "closed"), "{breakers}");
    Ok(())
}

async fn sent(office: &Office, data: Value) -> anyhow::Result<Value> {
    let id = office.added("send", data).await?;
    office.host.revealed_job_in(QUEUE, &id, "completed").await
}

#[tokio::test]
async fn replies_decide_by_their_digits_and_one_recipients_refusal_touches_nobody_else()
-> anyhow::Result<()> {
    let (office, server, _dir) = office().await?;
    office.open().await?;
    // Bare codes, then texts in Latin-1, then a server that is slow.
    server.behave(|behaviour| behaviour.bare = true);
    let story = sent(&office, to(json!("bare@example.com"))).await?;
    assert_eq!(story["job"]["attemptsMade"], 1, "{story}");
    server.behave(|behaviour| {
        (behaviour.bare, behaviour.latin_1, behaviour.slow_ms) = (false, true, 300);
    });
    // Whatever is wrong with one, the others have it, and the breaker stays closed.
    let all = json!([
        "a@example.com",
        "rcpt-550@example.com",
        "rcpt-571-5.7.1@example.com",
        "rcpt-554@example.com",
        "b@example.com",
    ]);
    for _ in 0..3 {
        let story = sent(&office, to(all.clone())).await?;
        let told = result(&story)?;
        assert_eq!(
            told["accepted"],
            json!(["a@example.com", "b@example.com"]),
            "{told}"
        );
        let codes: Vec<&Value> = told["rejected"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| &one["code"])
            .collect();
        assert_eq!(codes, [550, 571, 554], "{told}");
        assert_eq!(story["job"]["attemptsMade"], 1);
    }
    server.behave(|behaviour| behaviour.slow_ms = 0);
    let (_, code, reply) = office.row("rcpt-571-5.7.1@example.com", "refused").await?;
    assert!(
        code == Some(571) && reply.contains("f\u{fc}r Sie"),
        "{code:?} {reply}"
    );
    let refused = office
        .added("send", to(json!("end-571@example.com")))
        .await?;
    assert!(
        office
            .reason(&refused)
            .await?
            .starts_with("message-refused: 571")
    );

    // What waits, waits: an attempt each, and then it is sent once.
    for (stage, reply) in [
        (Stage::Rcpt, "421 4.7.0 try later"),
        (Stage::Rcpt, "452 4.2.2 over quota"),
        (Stage::End, "451 4.3.0"),
    ] {
        server.fault(Fault {
            times: Some(1),
            ..Fault::reply(stage, reply)
        });
        let address = format!("waits-{}@example.com", &reply[..3]);
        let story = sent(&office, to(json!(address))).await?;
        assert_eq!(
            (&story["job"]["attemptsMade"], server.taken_for(&address)),
            (&json!(2), 1),
            "{reply}: {story}"
        );
    }
    // It dies in the middle of DATA: nobody has the mail, and it is sent. Without an answer to its
    // end, nobody knows: it costs an attempt, and is the same mail for whoever gets it twice.
    server.fault(Fault {
        times: Some(1),
        ..Fault::close(Stage::Data)
    });
    sent(&office, to(json!("middle@example.com"))).await?;
    assert_eq!(server.taken_for("middle@example.com"), 1);
    server.fault(Fault {
        times: Some(1),
        takes: true,
        ..Fault::close(Stage::End)
    });
    let story = sent(&office, to(json!("twice@example.com"))).await?;
    assert_eq!(
        (
            &story["job"]["attemptsMade"],
            server.taken_for("twice@example.com")
        ),
        (&json!(2), 2),
        "{story}"
    );
    let mails = server.mails();
    let ids: Vec<_> = mails
        .iter()
        .filter(|mail| mail.recipients == ["twice@example.com"])
        .map(|mail| mail.header("Message-ID"))
        .collect();
    assert!(ids[0].is_some() && ids[0] == ids[1], "{ids:?}");
    office.row("twice@example.com", "sent").await?;
    let unknown =
        json!({ "name": "send", "data": to(json!("end-close@example.com")), "attempts": 1 });
    let unknown = office.host.add(QUEUE, unknown).await?;
    assert!(
        office
            .reason(&unknown)
            .await?
            .starts_with("unknown-outcome:")
    );
    office.row("end-close@example.com", "unknown").await?;

    // Without SMTPUTF8 only whoever needs it goes without.
    server.behave(|behaviour| behaviour.smtp_utf8 = false);
    let told = result(
        &sent(
            &office,
            to(json!(["j\u{f6}rg@example.com", "c@m\u{fc}ller.example"])),
        )
        .await?,
    )?;
    assert_eq!(
        told["accepted"],
        json!(["c@xn--mller-kva.example"]),
        "{told}"
    );
    breakers_are_closed(&office).await?;

    let header = json!({ "to": "news@example.com", "subject": "s", "text": "t", "kind": "marketing", "unsubscribe": "https://example.com/u" });
    sent(&office, header).await?;
    let mails = server.mails();
    let news = mails.last().context("a mail")?;
    assert_eq!(
        news.header("List-Unsubscribe"),
        Some("<https://example.com/u>")
    );
    assert_eq!(
        news.header("List-Unsubscribe-Post"),
        Some("List-Unsubscribe=One-Click")
    );
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_gone_gets_no_mail_until_somebody_lifts_that_and_a_daily_limit_holds_the_queue()
-> anyhow::Result<()> {
    let (office, server, _dir) = office().await?;
    let sales = office.account("sales", "sales").await?;
    office.open().await?;
    let gone = Fault {
        to: Some("Gone@".into()),
        ..Fault::reply(Stage::Rcpt, "550 5.1.1 no such user")
    };
    server.fault(gone);
    let told = result(&sent(&office, to(json!(["here@example.com", "Gone@example.com"]))).await?)?;
    assert_eq!(told["rejected"][0]["code"], 550, "{told}");
    office.row("Gone@example.com", "refused").await?;
    let asked = server.reached(Stage::Rcpt);
    let again = office.added("send", to(json!("gone@example.com"))).await?;
    assert!(office.reason(&again).await?.starts_with("suppressed:"));
    assert_eq!(
        server.reached(Stage::Rcpt),
        asked,
        "the server was not even asked"
    );
    office.row("gone@example.com", "suppressed").await?;
    let list = "/api/sales/email-suppressions";
    let (_, listed) = office.ask(&sales, "GET", list, None).await?;
    assert_eq!(
        listed["data"]["suppressions"][0]["address"], "gone@example.com",
        "{listed}"
    );
    let one = format!("{list}/gone%40example.com");
    for expected in [200, 404] {
        let (status, answer) = office.ask(&sales, "DELETE", &one, None).await?;
        assert_eq!(status, expected, "{answer}");
    }
    server.remove_faults();
    let retry = format!("/api/admin/queues/{QUEUE}/jobs/{again}/retry");
    let (status, answer) = office.host.post(&retry, json!({})).await?;
    anyhow::ensure!(status == 200, "{answer}");
    office.host.job_in(QUEUE, &again, "completed").await?;

    // The daily limit: one is told, the others do not even try, and nobody uses up an attempt.
    let limit = server.mails().len();
    server.behave(|behaviour| behaviour.daily_limit = Some(limit));
    let tried = server.reached(Stage::End);
    let first = office.added("send", to(json!("p0@example.com"))).await?;
    let story = office.host.job_in(QUEUE, &first, "delayed").await?;
    assert_eq!(
        (&story["job"]["attemptsMade"], server.reached(Stage::End)),
        (&json!(0), tried + 1),
        "{story}"
    );
    let mut held = vec![first];
    for n in 1..4 {
        held.push(
            office
                .added("send", to(json!(format!("p{n}@example.com"))))
                .await?,
        );
    }
    for id in &held {
        let story = office.host.job_in(QUEUE, id, "delayed").await?;
        assert_eq!(story["job"]["attemptsMade"], 0, "{story}");
    }
    assert_eq!(server.reached(Stage::End), tried + 1, "only one has tried");

    // The time is over, the limit is not: one tries. Then it is lifted, and all go out once.
    let over = async || {
        let key = format!("{}-own:kv:plugin:email:held", office.world.prefix);
        let mut redis = office.world.redis().await?;
        anyhow::ensure!(redis.exists::<_, bool>(&key).await?, "the hold");
        redis.set::<_, _, ()>(&key, "1").await?;
        anyhow::Ok(())
    };
    over().await?;
    office.world.promote(QUEUE, &held[1]).await?;
    crate::harness::until(
        std::time::Duration::from_secs(10),
        "one more try",
        async || Ok((server.reached(Stage::End) == tried + 2).then_some(())),
    )
    .await?;
    office.host.job_in(QUEUE, &held[1], "delayed").await?;
    server.behave(|behaviour| behaviour.daily_limit = None);
    over().await?;
    for id in &held {
        office.world.promote(QUEUE, id).await?;
        let story = office.host.job_in(QUEUE, id, "completed").await?;
        assert_eq!(story["job"]["attemptsMade"], 1, "{story}");
    }
    for n in 0..4 {
        assert_eq!(server.taken_for(&format!("p{n}@example.com")), 1);
    }
    breakers_are_closed(&office).await
}
