//! The second factor of this host, after the provider: nobody guesses it.

use super::*;

const CODE: &str = "/api/admin/oidc/code";
const HOME: &str = "198.51.100.1";
const MORE: [(&str, &str); 2] = [
    ("PATCHBAY_OPERATORS_REQUIRE_TOTP", "true"),
    ("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8"),
];

fn this_half_minute() -> i64 {
    chrono::Utc::now().timestamp() / 30
}

/// A code that is none of those which are good around now.
fn wrong(secret: &str, n: i64) -> anyhow::Result<String> {
    let now = this_half_minute();
    let mut good = Vec::new();
    for step in now - 2..=now + 4 {
        good.push(totp(secret, step)?);
    }
    let mut codes = (n * 50..).map(|number| format!("{number:06}"));
    codes.find(|code| !good.contains(code)).context("a code")
}

/// An operator with a second factor who has signed in from home. Returns the secret, and the half minute
/// of the code that was used.
async fn signed_in_from_home(host: &Host) -> anyhow::Result<(String, i64)> {
    let mut browser = Browser::new(host)?;
    browser.from = Some(HOME.to_owned());
    let seen = browser.sign_in("").await?;
    let secret = seen.json()["details"]["totpSecret"]
        .as_str()
        .context("a key")?
        .to_owned();
    let used = this_half_minute();
    let body = json!({ "totp": totp(&secret, used)? });
    let seen = browser.post(CODE, body).await?;
    anyhow::ensure!(seen.status == 303, "{seen:?}");
    Ok((secret, used))
}

async fn noted(world: &World) -> anyhow::Result<i64> {
    let mut database = world.database().await?;
    Ok(sqlx::query_scalar(
        "select count(*) from patchbay.audit_entries where trail = 'operators' and action = 'operator.login-failed'",
    )
    .fetch_one(&mut database)
    .await?)
}

#[tokio::test]
async fn a_code_after_the_provider_cannot_be_guessed_from_many_networks_and_guesses_are_noted()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &MORE)).await?;
    let (secret, used) = signed_in_from_home(&host).await?;
    let mut browser = Browser::new(&host)?;
    assert_eq!(browser.sign_in("").await?.status, 403, "it asks for a code");
    assert_eq!(noted(&world).await?, 0, "that is no failure");
    let mut statuses = Vec::new();
    for n in 0..40 {
        browser.from = Some(format!("2001:db8:{n:x}::1"));
        let body = json!({ "totp": wrong(&secret, n)? });
        statuses.push(browser.post(CODE, body).await?.status);
    }
    let guessed = statuses.iter().filter(|status| **status == 403).count();
    let limited = statuses.iter().filter(|status| **status == 429).count();
    assert_eq!(&statuses[..5], &[403; 5], "{statuses:?}");
    // While the test takes time, one or another wait ends.
    assert!(guessed < 10 && guessed + limited == 40, "{statuses:?}");
    let expected = i64::try_from(guessed)?;
    let entries = crate::harness::until(Duration::from_secs(10), "entries", async || {
        Ok(Some(noted(&world).await?).filter(|count| *count >= expected))
    });
    assert_eq!(entries.await?, expected);
    let metrics = crate::metrics::scrape(&host).await?;
    let labels = [
        ("kind", "operator"),
        ("method", "oidc"),
        ("result", "wrong"),
    ];
    assert_eq!(
        metrics.value("patchbay_logins_total", &labels)?,
        expected as f64
    );
    // Where the operator has logged in before, nobody else's guesses count.
    browser.from = Some(HOME.to_owned());
    let right = json!({ "totp": totp(&secret, (used + 1).max(this_half_minute()))? });
    let seen = browser.post(CODE, right).await?;
    assert_eq!(seen.status, 303, "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn after_ten_wrong_codes_a_login_at_the_provider_has_ended() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &MORE)).await?;
    let (secret, used) = signed_in_from_home(&host).await?;
    let mut browser = Browser::new(&host)?;
    browser.from = Some(HOME.to_owned());
    browser.sign_in("").await?;
    let mut redis = world.redis().await?;
    for n in 0..11 {
        let body = json!({ "totp": wrong(&secret, n)? });
        let seen = browser.post(CODE, body).await?;
        let expected = match n {
            10 => (400, "sign-in-failed"),
            _ => (403, "second-factor"),
        };
        assert_eq!(
            (seen.status, seen.code().as_str()),
            expected,
            "{n}: {seen:?}"
        );
        // As if the waits were over.
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{}-own:limit:operator-login:*", world.prefix))
            .query_async(&mut redis)
            .await?;
        for key in keys {
            redis::cmd("DEL").arg(key).exec_async(&mut redis).await?;
        }
    }
    let right = json!({ "totp": totp(&secret, (used + 1).max(this_half_minute()))? });
    let seen = browser.post(CODE, right).await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (400, "sign-in-failed"),
        "{seen:?}"
    );
    Ok(())
}
