//! Alerts and metrics of logins.

use super::emergency::{hashed, totp};
use super::*;
use crate::alerts::Receiver;
use crate::cable::Cable;
use crate::metrics::scrape;

const SOON: Duration = Duration::from_secs(10);

/// What the webhook was told of a rule: event and subject, oldest first.
fn told(receiver: &Receiver, rule: &str) -> Vec<(String, String)> {
    let messages = receiver.messages("/webhook", 200).into_iter();
    messages
        .filter(|message| message["alert"] == rule)
        .map(|message| (text(&message["event"]), text(&message["subject"])))
        .collect()
}

async fn until_told(receiver: &Receiver, rule: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    until(SOON, rule, async || {
        let messages = receiver.messages("/webhook", 200).into_iter();
        let about: Vec<Value> = messages
            .filter(|message| message["alert"] == rule)
            .collect();
        Ok((about.len() >= count).then_some(about))
    })
    .await
}

#[tokio::test]
async fn each_use_of_the_emergency_login_and_each_failure_is_told_at_once() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let (webhook, hash) = (receiver.url("webhook"), hashed("the emergency password")?);
    let secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
    let env = [
        ("PATCHBAY_PEOPLE_MASTER_PASSWORD_HASH", hash.as_str()),
        ("PATCHBAY_PEOPLE_MASTER_TOTP_SECRET", secret),
        ("PATCHBAY_ALERTS_WEBHOOK_URL", webhook.as_str()),
        // The next round is far away.
        ("PATCHBAY_ALERTS_EVERY_MS", "60000"),
    ];
    let host = world.host(&with(&env)).await?;
    let id = text(&verified(&world, &host, "ada@example.com").await?["user"]["id"]);
    let log_in = async |password: &str, totp: &str| {
        let body = json!({ "email": "ada@example.com", "masterPassword": password, "totp": totp });
        post(&host, "/api/auth/master-login", body).await
    };
    let now = chrono::Utc::now().timestamp() / 30;
    let right = totp(secret, now)?;
    assert_eq!(log_in("another password", "000000").await?.0, 401);
    assert_eq!(log_in("the emergency password", &right).await?.0, 200);
    assert_eq!(log_in("the emergency password", &right).await?.0, 401);
    let messages = until_told(&receiver, "master-login", 3).await?;
    let subjects = told(&receiver, "master-login");
    let of = |what: &str| {
        let about = subjects
            .iter()
            .filter(|(_, subject)| subject.starts_with(what));
        about.count()
    };
    assert_eq!((of("use "), of("failure ")), (1, 2), "{subjects:?}");
    assert!(
        messages
            .iter()
            .all(|message| message["severity"] == "critical" && message["event"] == "firing"),
        "{messages:?}"
    );
    let used = messages.iter().find(|message| {
        let reason = text(&message["reason"]);
        reason.contains(&id) && reason.contains("127.0.0.1")
    });
    let used = used.context("the use")?;
    assert!(text(&used["next"]).contains(&format!("patchbay user logout {id}")));
    let all = json!(messages).to_string();
    assert!(
        !all.contains("ada@example.com") && !all.contains(secret) && !all.contains(&right),
        "{all}"
    );
    let page = scrape(&host).await?;
    let logins = |result| {
        page.value(
            "patchbay_logins_total",
            &[("kind", "user"), ("method", "master"), ("result", result)],
        )
    };
    assert_eq!((logins("ok")?, logins("wrong")?), (1.0, 2.0));
    Ok(())
}

#[tokio::test]
async fn many_failures_and_an_account_that_is_guessed_from_everywhere_are_told()
-> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let env = with(&[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")]);
    let host = crate::alerts::host(&world, &receiver, &env).await?;
    let id = text(&verified(&world, &host, "ada@example.com").await?["user"]["id"]);
    let try_from = async |network: String, email: &str| {
        let request = host
            .http
            .post(format!("{}/api/auth/login", host.url))
            .header("x-forwarded-for", network)
            .json(&json!({ "email": email, "password": "a guess" }));
        Ok::<_, anyhow::Error>(answer(request).await?.0)
    };
    for n in 0..21 {
        assert_eq!(
            try_from(format!("203.0.113.{n}"), "ada@example.com").await?,
            401
        );
    }
    let messages = until_told(&receiver, "logins-failing", 1).await?;
    assert_eq!(
        messages[0]["subject"],
        format!("account {id}"),
        "{messages:?}"
    );
    assert!(text(&messages[0]["reason"]).contains("from 21 networks"));
    for n in 0..30 {
        let email = format!("nobody-{n}@example.com");
        assert_eq!(try_from("198.51.100.7".into(), &email).await?, 401);
    }
    let messages = until_told(&receiver, "logins-failing", 2).await?;
    assert_eq!(messages[1]["subject"], "logins", "{messages:?}");
    assert!(text(&messages[1]["reason"]).contains("51 logins failed within 5 min"));
    // Meanwhile, the owner gets in from elsewhere.
    assert_eq!(log_in(&host, "ada@example.com", PASSWORD).await?.0, 200);
    let page = scrape(&host).await?;
    let labels = [
        ("kind", "user"),
        ("method", "password"),
        ("result", "wrong"),
    ];
    assert_eq!(page.value("patchbay_logins_total", &labels)?, 51.0);
    assert!(page.value("patchbay_password_hash_seconds_count", &[])? >= 52.0);
    assert_eq!(page.value("patchbay_sessions", &[("kind", "user")])?, 2.0);
    assert_eq!(page.value("patchbay_identity_listen_up", &[])?, 1.0);
    Ok(())
}

#[tokio::test]
async fn refresh_tokens_that_are_shown_twice_in_three_sessions_are_told() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let host = crate::alerts::host(&world, &receiver, &PEOPLE).await?;
    verified(&world, &host, "ada@example.com").await?;
    for _ in 0..3 {
        let (_, session) = log_in(&host, "ada@example.com", PASSWORD).await?;
        let shown = json!({ "refreshToken": session["refreshToken"] });
        assert_eq!(
            post(&host, "/api/auth/refresh", shown.clone()).await?.0,
            200
        );
        assert_eq!(post(&host, "/api/auth/refresh", shown).await?.0, 401);
    }
    let messages = until_told(&receiver, "refresh-reuse", 1).await?;
    assert_eq!(
        (&messages[0]["subject"], &messages[0]["value"]),
        (&json!("sessions"), &json!(3.0))
    );
    assert_eq!(
        scrape(&host)
            .await?
            .value("patchbay_refresh_reuse_total", &[])?,
        3.0
    );
    Ok(())
}

#[tokio::test]
async fn a_host_that_hears_no_changes_remembers_nothing() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    let env = with(&[("DATABASE_URL", url.as_str())]);
    let host = crate::alerts::host(&world, &receiver, &env).await?;
    let token = text(&verified(&world, &host, "ada@example.com").await?["token"]);
    for _ in 0..3 {
        assert_eq!(profile(&host, &token).await?, 200);
    }
    let hits = async || {
        scrape(&host)
            .await?
            .value("patchbay_identity_cache_hits_total", &[])
    };
    assert!(hits().await? >= 1.0);
    cable.cut.send_replace(true);
    until(SOON, "the connection is missed", async || {
        let up = scrape(&host)
            .await?
            .value("patchbay_identity_listen_up", &[])?;
        Ok((up == 0.0).then_some(()))
    })
    .await?;
    let before = hits().await?;
    assert_eq!(profile(&host, &token).await?, 503, "nothing stale");
    let page = scrape(&host).await?;
    assert_eq!(
        page.value("patchbay_identity_cache_hits_total", &[])?,
        before
    );
    assert_eq!(page.value("patchbay_identity_listen_up", &[])?, 0.0);
    cable.cut.send_replace(false);
    until(SOON, "the recovery", async || {
        Ok((profile(&host, &token).await? == 200).then_some(()))
    })
    .await?;
    // Without that connection alone, requests are served, past what is remembered.
    let mut database = world.database().await?;
    until(SOON, "a request past the cache", async || {
        database
            .execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() \
                 and pid <> pg_backend_pid() and (query ilike 'listen%' or query = 'select 1')",
            )
            .await?;
        profile(&host, &token).await?;
        let page = scrape(&host).await?;
        let bypassed = page.value("patchbay_identity_cache_bypassed_total", &[])?;
        Ok((bypassed >= 1.0).then_some(()))
    })
    .await?;
    Ok(())
}
