//! Single sign-on of operators, with a real provider (tests/interop/oidc-provider.mjs) and a browser
//! that shows each step.

mod attacks;
mod codes;
mod linking;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, PASSWORD, USER, World, server_of_node};
use crate::people::totp;

/// Where browsers reach the host, as it is configured. The browser of these tests knows where that
/// really is.
const HERE: &str = "https://ops.example";
const CALLBACK: &str = "/api/admin/oidc/callback";
const CLIENT: &str = "patchbay";
const SECRET: &str = "a secret of the client";
const KEY: &str = "8f3c1d2e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const SESSION: &str = "__Host-patchbay";
const LOGIN: &str = "__Host-patchbay-oidc";

struct Provider {
    issuer: String,
    http: reqwest::Client,
    _child: Child,
}

impl Provider {
    async fn start() -> anyhow::Result<Self> {
        let env = [
            ("CLIENT_ID", CLIENT),
            ("CLIENT_SECRET", SECRET),
            ("REDIRECT_URI", &format!("{HERE}{CALLBACK}")),
        ];
        let (child, issuer) = server_of_node("oidc-provider.mjs", &env).await?;
        Ok(Self {
            issuer,
            http: reqwest::Client::builder().no_proxy().build()?,
            _child: child,
        })
    }

    async fn set(&self, change: Value) -> anyhow::Result<()> {
        let request = self.http.post(format!("{}/control", self.issuer));
        request.json(&change).send().await?.error_for_status()?;
        Ok(())
    }
}

/// What the host needs of the provider, plus `more`.
fn with<'a>(issuer: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let own = [
        ("PATCHBAY_SECRETS_KEY", KEY),
        ("PATCHBAY_PEOPLE_HASH_MEMORY_KIB", "64"),
        ("PATCHBAY_PEOPLE_HASH_PASSES", "1"),
        ("PATCHBAY_OPERATORS_REQUIRE_TOTP", "false"),
        ("PATCHBAY_HTTP_PUBLIC_URL", HERE),
        ("PATCHBAY_OPERATORS_OIDC_ISSUER", issuer),
        ("PATCHBAY_OPERATORS_OIDC_CLIENT_ID", CLIENT),
        ("PATCHBAY_OPERATORS_OIDC_CLIENT_SECRET", SECRET),
        (
            "PATCHBAY_OPERATORS_OIDC_ROLES",
            "ops-admins:owner,ops:operator,staff:viewer",
        ),
        ("PATCHBAY_OPERATORS_OIDC_PAYLOAD_GROUPS", "support"),
        ("PATCHBAY_OPERATORS_OIDC_LABEL", "Example ID"),
    ];
    own.into_iter().chain(more.iter().copied()).collect()
}

/// What a browser sees.
#[derive(Debug)]
struct Seen {
    status: u16,
    location: String,
    cookies: Vec<String>,
    kind: String,
    text: String,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    fn sets(&self, cookie: &str) -> bool {
        let begins = format!("{cookie}=");
        let mut lines = self.cookies.iter();
        lines.any(|line| line.starts_with(&begins) && !line.contains("Max-Age=0"))
    }
}

/// Keeps cookies of this host and of the provider, and follows nothing by itself.
#[derive(Clone)]
struct Browser {
    http: reqwest::Client,
    /// Where this host really is.
    host: String,
    /// By whether they are of this host, and by name.
    cookies: HashMap<(bool, String), String>,
    accepts: &'static str,
    /// The client that a trusted proxy in front of the host would name.
    from: Option<String>,
}

impl Browser {
    fn new(host: &Host) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30));
        Ok(Self {
            http: client.build()?,
            host: host.url.clone(),
            cookies: HashMap::new(),
            accepts: "*/*",
            from: None,
        })
    }

    async fn send(&mut self, method: &str, url: &str, body: Option<Value>) -> anyhow::Result<Seen> {
        let is_here = url.starts_with(HERE);
        let real = url.replacen(HERE, &self.host, 1);
        let sent: Vec<String> = self
            .cookies
            .iter()
            .filter(|((of_host, _), _)| *of_host == is_here)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let mut request = self
            .http
            .request(method.parse()?, real)
            .header("accept", self.accepts);
        if !sent.is_empty() {
            request = request.header("cookie", sent.join("; "));
        }
        if let Some(from) = self.from.as_deref().filter(|_| is_here) {
            request = request.header("x-forwarded-for", from);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let header = |name: &str| {
            let value = response.headers().get(name);
            let value = value.and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let set = response.headers().get_all("set-cookie");
        let lines = set.iter().filter_map(|line| line.to_str().ok());
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        for line in &lines {
            let (name, rest) = line.split_once('=').context("a cookie")?;
            let value = rest.split(';').next().unwrap_or_default();
            let key = (is_here, name.to_owned());
            match value.is_empty() || line.contains("Max-Age=0") {
                true => self.cookies.remove(&key),
                false => self.cookies.insert(key, value.to_owned()),
            };
        }
        Ok(Seen {
            status: response.status().as_u16(),
            location: header("location"),
            cookies: lines,
            kind: header("content-type"),
            text: response.text().await?,
        })
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Seen> {
        self.send("GET", &format!("{HERE}{path}"), None).await
    }

    async fn post(&mut self, path: &str, body: Value) -> anyhow::Result<Seen> {
        self.send("POST", &format!("{HERE}{path}"), Some(body))
            .await
    }

    /// Logs in at the provider, from this address on, until it sends the browser back here. Returns
    /// that address, where the browser has not been yet.
    async fn at_provider(&mut self, mut url: String) -> anyhow::Result<String> {
        for _ in 0..12 {
            if url.starts_with(HERE) {
                return Ok(url);
            }
            let seen = self.send("GET", &url, None).await?;
            anyhow::ensure!(!seen.location.is_empty(), "{url}: {seen:?}");
            url = url.parse::<reqwest::Url>()?.join(&seen.location)?.into();
        }
        anyhow::bail!("the provider sends the browser round: {url}")
    }

    /// Begins a login here, and logs in at the provider.
    async fn until_callback(&mut self, query: &str) -> anyhow::Result<String> {
        let seen = self.get(&format!("/api/admin/oidc/start{query}")).await?;
        anyhow::ensure!(seen.status == 303, "{seen:?}");
        assert!(seen.sets(LOGIN), "{seen:?}");
        self.at_provider(seen.location).await
    }

    async fn sign_in(&mut self, query: &str) -> anyhow::Result<Seen> {
        let callback = self.until_callback(query).await?;
        self.send("GET", &callback, None).await
    }

    /// Who is signed in; null: nobody.
    async fn who(&mut self) -> anyhow::Result<Value> {
        let seen = self.get("/api/admin/session").await?;
        match seen.status {
            200 => Ok(seen.json()["data"].take()),
            401 => Ok(Value::Null),
            other => anyhow::bail!("{other}: {}", seen.text),
        }
    }
}

/// Names of all operators.
async fn names(host: &Host) -> anyhow::Result<Vec<String>> {
    let (_, listed) = host.get("/api/admin/operators").await?;
    let rows = listed["data"].as_array().context("operators")?;
    let names = rows.iter().filter_map(|row| row["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

async fn actions(world: &World, name: &str) -> anyhow::Result<Vec<String>> {
    let mut database = world.database().await?;
    Ok(sqlx::query_scalar(
        "select action from patchbay.audit_entries where trail = 'operators' and entity = $1 order by id",
    )
    .bind(name)
    .fetch_all(&mut database)
    .await?)
}

#[tokio::test]
async fn the_first_login_makes_an_operator_whose_role_follows_the_groups() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    provider.set(json!({ "person": "bob" })).await?;
    Browser::new(&host)?.sign_in("").await?;
    provider.set(json!({ "person": "ada" })).await?;
    let mut first = Browser::new(&host)?;
    let seen = first
        .sign_in("?return_to=/queues/email%3Fstate%3Dfailed")
        .await?;
    assert_eq!(
        (seen.status, seen.location.as_str()),
        (303, "/queues/email?state=failed"),
        "{seen:?}"
    );
    let session = seen
        .cookies
        .iter()
        .find(|line| line.starts_with(&format!("{SESSION}=")));
    let session = session.context("a session")?;
    for part in ["; Path=/", "; HttpOnly", "; Secure", "; SameSite=Lax"] {
        assert!(
            session.contains(part) && !session.contains("Domain"),
            "{session}"
        );
    }
    assert!(
        !first.cookies.contains_key(&(true, LOGIN.to_owned())),
        "used up"
    );
    let who = first.who().await?;
    assert_eq!(
        (
            &who["name"],
            &who["role"],
            &who["maySeeData"],
            &who["credential"]
        ),
        (
            &json!("ada"),
            &json!("owner"),
            &json!(false),
            &json!("session")
        )
    );
    let (_, shown) = host.get("/api/admin/operators/ada").await?;
    assert_eq!(shown["data"]["operator"]["source"], "oidc", "{shown}");
    assert_eq!(shown["data"]["sessions"][0]["method"], "oidc");
    let (status, refused) = host
        .put("/api/admin/operators/ada/role", json!({ "role": "viewer" }))
        .await?;
    assert_eq!(status, 409, "{refused}");
    // Other groups, at the next login: also the open session has the other role.
    provider
        .set(json!({ "people": { "ada": { "groups": ["staff", "support", "unknown"] } } }))
        .await?;
    let mut second = Browser::new(&host)?;
    assert_eq!(second.sign_in("").await?.location, "/");
    for browser in [&mut first, &mut second] {
        let who = browser.who().await?;
        assert_eq!(
            (&who["name"], &who["role"], &who["maySeeData"]),
            (&json!("ada"), &json!("viewer"), &json!(true))
        );
    }
    // No group: no login, and what was open ends.
    provider
        .set(json!({ "people": { "ada": { "groups": ["unknown"] } } }))
        .await?;
    let mut third = Browser::new(&host)?;
    let seen = third.sign_in("").await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (403, "no-role"),
        "{seen:?}"
    );
    assert!(seen.text.contains("No group of yours has a role here"));
    assert!(!seen.sets(SESSION));
    for browser in [&mut first, &mut second, &mut third] {
        assert_eq!(browser.who().await?, Value::Null);
    }
    let done = actions(&world, "ada").await?;
    let expected = [
        "operator.provision",
        "operator.login",
        "operator.follow-groups",
        "operator.login",
    ];
    let own = done
        .iter()
        .filter(|action| expected.contains(&action.as_str()));
    assert_eq!(own.collect::<Vec<_>>(), expected, "{done:?}");
    // Somebody without a group who was never here leaves no trace as an operator.
    provider
        .set(json!({ "person": "eve", "people": { "eve": { "groups": [] } } }))
        .await?;
    assert_eq!(Browser::new(&host)?.sign_in("").await?.status, 403);
    assert_eq!(names(&host).await?, ["ada", "bob"]);
    Ok(())
}

#[tokio::test]
async fn the_last_owner_stays_one_whatever_the_groups_say() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    Browser::new(&host)?.sign_in("").await?;
    provider
        .set(json!({ "people": { "ada": { "groups": ["staff"] } } }))
        .await?;
    let seen = Browser::new(&host)?.sign_in("").await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (409, "conflict"),
        "{seen:?}"
    );
    assert!(seen.text.contains("last active owner"), "{seen:?}");
    let (_, shown) = host.get("/api/admin/operators/ada").await?;
    assert_eq!(shown["data"]["operator"]["role"], "owner");
    Ok(())
}

#[tokio::test]
async fn without_a_reported_second_factor_this_host_asks_for_its_own() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let require = [("PATCHBAY_OPERATORS_REQUIRE_TOTP", "true")];
    let host = world.host(&with(&provider.issuer, &require)).await?;
    let mut browser = Browser::new(&host)?;
    let seen = browser.sign_in("?return_to=/queues").await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (403, "second-factor"),
        "{seen:?}"
    );
    let details = seen.json()["details"].take();
    let secret = details["totpSecret"].as_str().context("a key")?.to_owned();
    let uri = details["totpUri"].as_str().unwrap_or_default();
    assert!(
        uri.starts_with("otpauth://totp/Patchbay:ada?secret="),
        "{details}"
    );
    assert_eq!(browser.who().await?, Value::Null, "not yet");
    let now = chrono::Utc::now().timestamp() / 30;
    let code = "/api/admin/oidc/code";
    let stranger = Browser::new(&host)?
        .post(code, json!({ "totp": totp(&secret, now)? }))
        .await?;
    assert_eq!(
        (stranger.status, stranger.code().as_str()),
        (400, "sign-in-failed")
    );
    let wrong = browser.post(code, json!({ "totp": "000000" })).await?;
    assert_eq!(
        (wrong.status, wrong.code().as_str()),
        (403, "second-factor"),
        "{wrong:?}"
    );
    assert_eq!(browser.post(code, json!({})).await?.status, 400);
    let right = browser
        .post(code, json!({ "totp": totp(&secret, now)? }))
        .await?;
    assert_eq!(
        (right.status, right.location.as_str()),
        (303, "/queues"),
        "{right:?}"
    );
    assert_eq!(browser.who().await?["name"], "ada");
    // The next time the key is known, and is not shown again; a code is good for one login.
    let mut browser = Browser::new(&host)?;
    browser.accepts = "text/html,application/xhtml+xml";
    let seen = browser.sign_in("").await?;
    assert_eq!(
        (seen.status, seen.kind.as_str()),
        (403, "text/html; charset=utf-8")
    );
    assert!(seen.text.contains("action=\"/api/admin/oidc/code\"") && !seen.text.contains("Key:"));
    let form = |code: String| {
        let cookie = format!("{LOGIN}={}", browser.cookies[&(true, LOGIN.to_owned())]);
        browser
            .http
            .post(format!("{}/api/admin/oidc/code", host.url))
            .header("cookie", cookie)
            .header("accept", "text/html")
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("totp={code}"))
            .send()
    };
    let again = form(totp(&secret, now)?).await?;
    assert_eq!(again.status(), 403, "{}", again.text().await?);
    let next = form(totp(&secret, now + 1)?).await?;
    assert_eq!(next.status(), 303, "{}", next.text().await?);
    Ok(())
}

#[tokio::test]
async fn a_required_method_must_be_reported_and_takes_the_place_of_our_second_factor()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let env = [
        ("PATCHBAY_OPERATORS_REQUIRE_TOTP", "true"),
        ("PATCHBAY_OPERATORS_OIDC_REQUIRE_AMR", "mfa,hwk"),
    ];
    let host = world.host(&with(&provider.issuer, &env)).await?;
    for methods in [json!(null), json!(["pwd"]), json!([])] {
        provider.set(json!({ "amr": methods })).await?;
        let seen = Browser::new(&host)?.sign_in("").await?;
        assert_eq!(
            (seen.status, seen.code().as_str()),
            (403, "second-factor"),
            "{seen:?}"
        );
        assert_eq!(seen.json()["details"], Value::Null, "no code would help");
    }
    assert_eq!(names(&host).await?, Vec::<String>::new());
    provider.set(json!({ "amr": ["pwd", "mfa"] })).await?;
    let mut browser = Browser::new(&host)?;
    assert_eq!(browser.sign_in("").await?.status, 303);
    assert_eq!(browser.who().await?["name"], "ada");
    Ok(())
}

#[tokio::test]
async fn a_logout_ends_our_session_first_and_then_goes_to_the_provider() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    let mut browser = Browser::new(&host)?;
    browser.sign_in("").await?;
    let kept = browser.clone();
    let seen = browser.post("/api/admin/oidc/logout", json!({})).await?;
    assert_eq!(seen.status, 303, "{seen:?}");
    let expected = format!("{}/session/end?client_id={CLIENT}", provider.issuer);
    assert_eq!(seen.location, expected);
    assert!(!browser.cookies.contains_key(&(true, SESSION.to_owned())));
    assert_eq!(
        kept.clone().who().await?,
        Value::Null,
        "also for who kept the cookie"
    );
    assert_eq!(browser.send("GET", &seen.location, None).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn while_the_provider_is_away_the_answer_is_quick_and_other_logins_go_on()
-> anyhow::Result<()> {
    let world = World::new().await?;
    // One that takes connections and never answers, and one that is not there.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        listener.local_addr()?
    };
    for issuer in [
        format!("http://{}", silent.local_addr()?),
        format!("http://{gone}"),
    ] {
        let host = world.host(&with(&issuer, &[])).await?;
        let begun = Instant::now();
        let mut browser = Browser::new(&host)?;
        let seen = browser.get("/api/admin/oidc/start").await?;
        assert_eq!(
            (seen.status, seen.code().as_str()),
            (502, "provider-failed"),
            "{seen:?}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
        assert!(!seen.sets(LOGIN), "nothing has begun");
        browser.accepts = "text/html";
        let page = browser.get("/api/admin/oidc/start").await?;
        assert_eq!(
            (page.status, page.kind.as_str()),
            (502, "text/html; charset=utf-8")
        );
        let (status, who) = host.get("/api/admin/session").await?;
        assert_eq!((status, &who["data"]["credential"]), (200, &json!("basic")));
        let tested = patchbay(&host, &["operator", "oidc", "test"]).await?;
        let printed = String::from_utf8_lossy(&tested.stderr).into_owned();
        assert!(
            !tested.status.success() && printed.contains(&issuer),
            "{printed}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_provider_that_goes_away_during_a_login_fails_that_login_only() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    let mut browser = Browser::new(&host)?;
    let callback = browser.until_callback("").await?;
    drop(provider);
    let begun = Instant::now();
    let seen = browser.send("GET", &callback, None).await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (502, "provider-failed"),
        "{seen:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(browser.who().await?, Value::Null);
    Ok(())
}

#[tokio::test]
async fn the_provider_can_be_tested_and_the_configuration_shown() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let claim = [("PATCHBAY_OPERATORS_OIDC_SCOPES", "profile,groups")];
    let host = world.host(&with(&provider.issuer, &claim)).await?;
    let tested = json_of(&host, &["--json", "operator", "oidc", "test"]).await?;
    assert_eq!(tested["redirectUri"], format!("{HERE}{CALLBACK}"));
    assert_eq!(
        (&tested["keys"], &tested["namesIssuer"]),
        (&json!(1), &json!(true))
    );
    assert!(
        tested["algorithms"]
            .as_array()
            .is_some_and(|all| all.contains(&json!("RS256")))
    );
    assert!(!tested["algorithms"].to_string().contains("HS"), "{tested}");
    let problems = tested["problems"].to_string();
    assert!(
        problems.contains("the scope groups") && !problems.contains("PKCE"),
        "{problems}"
    );
    let shown = json_of(&host, &["--json", "operator", "oidc", "status"]).await?;
    assert_eq!(shown["provider"]["label"], "Example ID");
    assert_eq!(
        shown["provider"]["roles"][0],
        json!({ "group": "ops-admins", "role": "owner" })
    );
    let all = [tested.to_string(), shown.to_string()].concat();
    assert!(!all.contains(SECRET));
    assert_eq!(
        names(&host).await?,
        Vec::<String>::new(),
        "nobody is signed in"
    );
    Ok(())
}

#[tokio::test]
async fn single_sign_on_is_off_unless_it_is_configured() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for path in [
        "/api/admin/oidc/start",
        "/api/admin/oidc/callback?state=a&code=b",
    ] {
        let seen = Browser::new(&host)?.get(path).await?;
        assert_eq!(
            (seen.status, seen.code().as_str()),
            (404, "not-found"),
            "{seen:?}"
        );
    }
    let shown = json_of(&host, &["--json", "operator", "oidc", "status"]).await?;
    assert_eq!(shown, json!({ "provider": null, "identities": [] }));
    Ok(())
}

#[tokio::test]
async fn a_configuration_that_cannot_work_stops_the_start() -> anyhow::Result<()> {
    let world = World::new().await?;
    let file = world.dir.path().join("secret");
    std::fs::write(&file, "a secret")?;
    let file = file.to_str().context("a path")?;
    for (env, expected) in [
        (
            vec![("PATCHBAY_OPERATORS_OIDC_ISSUER", "http://id.example")],
            "must be an https:// URL",
        ),
        (
            vec![("PATCHBAY_OPERATORS_OIDC_ISSUER", "https://id.example?a=b")],
            "must be an https:// URL",
        ),
        (
            vec![("PATCHBAY_OPERATORS_OIDC_ROLES", "ops:admin")],
            "each item must be group:role",
        ),
        (
            vec![("PATCHBAY_OPERATORS_OIDC_ROLES", "ops")],
            "each item must be group:role",
        ),
        (
            vec![("PATCHBAY_OPERATORS_OIDC_ROLES", "")],
            "operators.oidc.roles is not, so nobody could sign in",
        ),
        (
            vec![("PATCHBAY_OPERATORS_OIDC_CLIENT_ID", "")],
            "belong together",
        ),
        (
            vec![("PATCHBAY_HTTP_PUBLIC_URL", "")],
            "http.public_url is not",
        ),
        (
            vec![("PATCHBAY_HTTP_PUBLIC_URL", "http://ops.example")],
            "must be https:// while operators.oidc.issuer is set",
        ),
        (
            vec![("PATCHBAY_OPERATORS_OIDC_CLIENT_SECRET_FILE", file)],
            "contradict each other",
        ),
        (
            vec![
                ("PATCHBAY_OPERATORS_OIDC_CLIENT_SECRET", ""),
                ("PATCHBAY_OPERATORS_OIDC_CLIENT_SECRET_FILE", file),
            ],
            "can be read by others",
        ),
        (
            vec![
                ("PATCHBAY_SECRETS_KEY", ""),
                ("PATCHBAY_OPERATORS_REQUIRE_TOTP", "true"),
            ],
            "no master key is configured",
        ),
    ] {
        let (exit, printed) = world
            .output(&["serve"], &with("https://id.example", &env))
            .await?;
        assert_ne!(exit, Some(0), "{env:?}");
        assert!(printed.contains(expected), "{env:?}: {printed}");
        assert!(!printed.contains("a secret"), "{printed}");
    }
    Ok(())
}

#[tokio::test]
async fn the_client_secret_may_come_from_a_file_and_is_never_shown() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let file = world.dir.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n"))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let env = [
        ("PATCHBAY_OPERATORS_OIDC_CLIENT_SECRET", ""),
        (
            "PATCHBAY_OPERATORS_OIDC_CLIENT_SECRET_FILE",
            file.to_str().context("a path")?,
        ),
    ];
    let env = with(&provider.issuer, &env);
    let host = world.host(&env).await?;
    let mut browser = Browser::new(&host)?;
    assert_eq!(browser.sign_in("").await?.status, 303);
    let (_, printed) = world.output(&["config"], &env).await?;
    assert!(printed.contains("operators.oidc.client_secret_file") && !printed.contains(SECRET));
    let basic = format!("{USER}:{PASSWORD}");
    let log = host.log.lock().expect("no writer panics").clone();
    for secret in [
        SECRET,
        &browser.cookies[&(true, SESSION.to_owned())],
        &basic,
    ] {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
    Ok(())
}
