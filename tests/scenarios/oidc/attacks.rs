//! What does not sign anybody in.

use super::*;

/// Nobody is signed in, and nobody was made an operator.
async fn refused(
    what: &str,
    seen: &Seen,
    browser: &mut Browser,
    host: &Host,
) -> anyhow::Result<()> {
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (400, "sign-in-failed"),
        "{what}: {seen:?}"
    );
    assert!(!seen.sets(SESSION), "{what}");
    assert_eq!(browser.who().await?, Value::Null, "{what}");
    assert_eq!(names(host).await?, Vec::<String>::new(), "{what}");
    Ok(())
}

/// The address with another value of this parameter; `None`: without it.
fn changed(url: &str, name: &str, value: Option<&str>) -> anyhow::Result<String> {
    let mut url: reqwest::Url = url.parse()?;
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(known, _)| known != name)
        .map(|(known, value)| (known.into_owned(), value.into_owned()))
        .collect();
    let mut pairs = url.query_pairs_mut();
    pairs.clear().extend_pairs(others);
    if let Some(value) = value {
        pairs.append_pair(name, value);
    }
    drop(pairs);
    Ok(url.into())
}

fn parameter(url: &str, name: &str) -> anyhow::Result<String> {
    let url: reqwest::Url = url.parse()?;
    let mut pairs = url.query_pairs();
    let found = pairs.find(|(known, _)| known == name);
    Ok(found.context("the parameter")?.1.into_owned())
}

#[tokio::test]
async fn an_answer_is_good_once_for_the_browser_that_asked() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    let (mut victim, mut other) = (Browser::new(&host)?, Browser::new(&host)?);
    let callback = victim.until_callback("").await?;
    let theirs = other.until_callback("").await?;
    // Without a cookie, with the cookie of another login, with another state.
    let mut stranger = Browser::new(&host)?;
    let seen = stranger.send("GET", &callback, None).await?;
    refused("no cookie", &seen, &mut stranger, &host).await?;
    let seen = other.send("GET", &callback, None).await?;
    refused("another browser's state", &seen, &mut other, &host).await?;
    for (what, state) in [("no state", None), ("a made-up state", Some("made-up"))] {
        let seen = victim
            .send("GET", &changed(&callback, "state", state)?, None)
            .await?;
        refused(what, &seen, &mut victim, &host).await?;
    }
    // None of that has used the answer up.
    let seen = victim.send("GET", &callback, None).await?;
    assert_eq!(seen.status, 303, "{seen:?}");
    assert_eq!(victim.who().await?["name"], "ada");
    // Again, with the cookie that the browser had then.
    let mut again = other.clone();
    assert_eq!(other.send("GET", &theirs, None).await?.status, 303);
    let seen = again.send("GET", &theirs, None).await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (400, "sign-in-failed"),
        "{seen:?}"
    );
    assert_eq!(again.who().await?, Value::Null);
    // Two of the same at once: one wins.
    let mut one = Browser::new(&host)?;
    let callback = one.until_callback("").await?;
    let mut two = one.clone();
    let (one, two) = tokio::join!(
        one.send("GET", &callback, None),
        two.send("GET", &callback, None)
    );
    let mut statuses = [one?.status, two?.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [303, 400]);
    Ok(())
}

#[tokio::test]
async fn a_code_of_another_login_is_refused() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    let (mut attacker, mut victim) = (Browser::new(&host)?, Browser::new(&host)?);
    let stolen = parameter(&victim.until_callback("").await?, "code")?;
    let own = attacker.until_callback("").await?;
    let seen = attacker
        .send("GET", &changed(&own, "code", Some(&stolen))?, None)
        .await?;
    refused("a stolen code", &seen, &mut attacker, &host).await?;
    for (what, code) in [("no code", None), ("a made-up code", Some("made-up"))] {
        let own = attacker.until_callback("").await?;
        let seen = attacker
            .send("GET", &changed(&own, "code", code)?, None)
            .await?;
        refused(what, &seen, &mut attacker, &host).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_of_another_issuer_is_refused() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    for issuer in [Some("https://id.evil.example"), Some(""), None] {
        let mut browser = Browser::new(&host)?;
        let callback = browser.until_callback("").await?;
        let seen = browser
            .send("GET", &changed(&callback, "iss", issuer)?, None)
            .await?;
        refused(&format!("{issuer:?}"), &seen, &mut browser, &host).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_not_genuine_or_not_for_this_login_is_refused() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    for bend in [
        "nonce",
        "no-nonce",
        "issuer",
        "audience",
        "audiences",
        "azp",
        "expired",
        "old",
        "future",
        "nobody",
        "keys",
        "unknown-key",
        "own-key",
        "hs256-client-secret",
        "hs256-public-key",
        "none",
        "changed",
    ] {
        provider.set(json!({ "bend": bend })).await?;
        let mut browser = Browser::new(&host)?;
        let seen = browser.sign_in("").await?;
        refused(bend, &seen, &mut browser, &host).await?;
    }
    provider.set(json!({})).await?;
    let mut browser = Browser::new(&host)?;
    assert_eq!(
        browser.sign_in("").await?.status,
        303,
        "without any of that"
    );
    Ok(())
}

#[tokio::test]
async fn what_the_provider_refuses_is_said_and_its_text_is_not_repeated() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    provider.set(json!({ "denies": true })).await?;
    let mut browser = Browser::new(&host)?;
    let seen = browser.sign_in("").await?;
    refused("denied", &seen, &mut browser, &host).await?;
    assert!(
        seen.text.contains("access_denied") && !seen.text.contains("script"),
        "{seen:?}"
    );
    browser.accepts = "text/html";
    let callback = browser.until_callback("").await?;
    let hostile = changed(&callback, "error", Some("<script>alert(1)</script>"))?;
    let page = browser.send("GET", &hostile, None).await?;
    assert_eq!(
        (page.status, page.kind.as_str()),
        (400, "text/html; charset=utf-8")
    );
    assert!(!page.text.contains("<script"), "{}", page.text);
    assert!(page.text.contains("href=\"/api/admin/oidc/start\""));
    Ok(())
}

#[tokio::test]
async fn a_browser_is_only_sent_to_paths_of_this_host() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    for asked in [
        "//evil.example",
        "%2f%2fevil.example",
        "/%5Cevil.example",
        "/%09/evil.example",
        "https%3A%2F%2Fevil.example",
        "/.%2F%2Fevil.example",
        "javascript:alert(1)",
        "%0d%0aSet-Cookie:a=b",
    ] {
        let mut browser = Browser::new(&host)?;
        let seen = browser.sign_in(&format!("?return_to={asked}")).await?;
        assert_eq!(
            (seen.status, seen.location.as_str()),
            (303, "/"),
            "{asked}: {seen:?}"
        );
    }
    // The address of the callback comes from the configuration, whatever a request says.
    let request = Browser::new(&host)?
        .http
        .get(format!("{}/api/admin/oidc/start", host.url));
    let begun = request
        .header("host", "evil.example")
        .header("x-forwarded-host", "evil.example")
        .send()
        .await?;
    let location = begun.headers()["location"].to_str()?;
    let expected = format!("{HERE}{CALLBACK}");
    assert_eq!(parameter(location, "redirect_uri")?, expected);
    assert_eq!(parameter(location, "code_challenge_method")?, "S256");
    Ok(())
}

#[tokio::test]
async fn the_same_address_with_another_subject_is_somebody_else() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    Browser::new(&host)?.sign_in("").await?;
    provider.set(json!({ "person": "eve" })).await?;
    let mut eve = Browser::new(&host)?;
    assert_eq!(eve.sign_in("").await?.status, 303);
    let who = eve.who().await?;
    assert_eq!(
        (&who["name"], &who["role"]),
        (&json!("ada-2"), &json!("viewer"))
    );
    let mut database = world.database().await?;
    let linked: Vec<(String, String)> = sqlx::query_as(
        "select i.subject, o.name from patchbay.operator_identities i join patchbay.operators o on o.id = i.operator_id order by 1",
    )
    .fetch_all(&mut database)
    .await?;
    let pair = |subject: &str, name: &str| (subject.to_owned(), name.to_owned());
    assert_eq!(linked, [pair("ada", "ada"), pair("eve", "ada-2")]);
    Ok(())
}

#[tokio::test]
async fn a_disabled_operator_does_not_come_back_by_single_sign_on() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    provider.set(json!({ "person": "bob" })).await?;
    Browser::new(&host)?.sign_in("").await?;
    provider.set(json!({ "person": "ada" })).await?;
    let mut ada = Browser::new(&host)?;
    ada.sign_in("").await?;
    let (status, body) = host
        .post("/api/admin/operators/ada/disable", json!({}))
        .await?;
    assert_eq!(status, 200, "{body}");
    assert_eq!(ada.who().await?, Value::Null);
    let seen = ada.sign_in("").await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (403, "forbidden"),
        "{seen:?}"
    );
    assert_eq!(
        names(&host).await?,
        ["ada", "bob"],
        "and no second one is made"
    );
    Ok(())
}
