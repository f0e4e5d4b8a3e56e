//! The console at /admin/queues: over HTTP, and in a real browser.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{Host, World, hostile_plugin, repository, until};
use crate::operators_as_people::{ENV, PASSWORD, Person, enrolled, session};

const QUEUE: &str = "hostileQueue";
const ROOT: &str = "/admin/queues";

/// What somebody could write into a job so that a page does more than show it.
const HOSTILE: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&</pre></textarea></script>\u{202e}gnp.\u{1b}[31mred javascript:alert(3)";

/// A browser of its own, without the harness's login.
struct Browser {
    http: reqwest::Client,
    url: String,
    cookies: Vec<(String, String)>,
}

struct Page {
    status: StatusCode,
    location: Option<String>,
    policy: String,
    body: String,
}

impl Browser {
    fn new(host: &Host) -> anyhow::Result<Self> {
        let none = reqwest::redirect::Policy::none();
        Ok(Self {
            http: reqwest::Client::builder()
                .redirect(none)
                .no_proxy()
                .build()?,
            url: host.url.clone(),
            cookies: Vec::new(),
        })
    }

    async fn signed_in(host: &Host, person: &mut Person) -> anyhow::Result<Self> {
        let mut browser = Self::new(host)?;
        let cookie = session(host, person).await?;
        let (name, value) = cookie.split_once('=').context("a cookie")?;
        browser.cookies.push((name.into(), value.into()));
        browser.get("/overview").await?;
        Ok(browser)
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> anyhow::Result<Page> {
        let pairs: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let request = match pairs.is_empty() {
            true => request,
            false => request.header(COOKIE, pairs.join("; ")),
        };
        let response = request.send().await?;
        for line in response.headers().get_all(SET_COOKIE) {
            let pair = line.to_str()?.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').context("a cookie")?;
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.into(), value.into()));
            }
        }
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        Ok(Page {
            status: response.status(),
            location: header(LOCATION.as_str()),
            policy: header("content-security-policy").unwrap_or_default(),
            body: response.text().await?,
        })
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Page> {
        let request = self.http.get(format!("{}{ROOT}{path}", self.url));
        self.send(request).await
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Page> {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request = self
            .http
            .post(format!("{}{ROOT}{path}", self.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        self.send(request).await
    }

    /// Sends a form with the token of this page.
    async fn submit(
        &mut self,
        page: &Page,
        path: &str,
        fields: &[(&str, &str)],
    ) -> anyhow::Result<Page> {
        let token = page.token()?;
        let mut all = vec![("form-token", token.as_str())];
        all.extend_from_slice(fields);
        self.post(path, &all).await
    }
}

impl Page {
    fn token(&self) -> anyhow::Result<String> {
        let (_, rest) = self
            .body
            .split_once("name=\"form-token\" value=\"")
            .with_context(|| format!("a form: {}", self.body))?;
        Ok(rest.split('"').next().unwrap_or_default().to_owned())
    }

    fn goes_to(&self) -> &str {
        self.location.as_deref().unwrap_or_default()
    }
}

#[tokio::test]
async fn pages_are_for_operators_show_text_and_change_only_by_their_own_forms() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let data = json!({ "message": HOSTILE, "code": "on-request", "retry": "never" });
    let failed = host
        .add(QUEUE, json!({ "name": "fail", "data": data }))
        .await?;
    host.job_in(QUEUE, &failed, "failed").await?;
    let mut viewer = enrolled(&host, "vera", "viewer", false).await?;
    let mut operator = enrolled(&host, "otto", "operator", true).await?;

    // Nobody sees anything without a login, and comes back to where they wanted to go, here only.
    let mut browser = Browser::new(&host)?;
    let sent = browser.get("/queue/hostileQueue?state=failed").await?;
    assert_eq!(sent.status, StatusCode::SEE_OTHER);
    assert_eq!(
        sent.goes_to(),
        "/admin/queues/sign-in?to=%2Fadmin%2Fqueues%2Fqueue%2FhostileQueue%3Fstate%3Dfailed"
    );
    let page = browser
        .get("/sign-in?to=https%3A%2F%2Fevil.example%2Fadmin%2Fqueues%2F")
        .await?;
    assert_eq!(page.status, StatusCode::OK);
    assert!(!page.body.contains("evil.example"), "{}", page.body);
    let wrong = [
        ("name", "otto"),
        ("password", "wrong"),
        ("to", "//evil.example"),
    ];
    let refused = browser.submit(&page, "/sign-in", &wrong).await?;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(refused.body.contains("role=\"alert\"") && !refused.body.contains("evil.example"));
    let code = operator.recovery_codes.pop().context("a code")?;
    let right = [
        ("name", "otto"),
        ("password", PASSWORD),
        ("code", &code),
        ("to", "//evil.example"),
    ];
    let stolen = Browser::new(&host)?
        .submit(&page, "/sign-in", &right)
        .await?;
    assert_eq!(
        stolen.status,
        StatusCode::FORBIDDEN,
        "another browser's form"
    );
    let entered = browser.submit(&page, "/sign-in", &right).await?;
    assert_eq!(entered.status, StatusCode::SEE_OTHER, "{}", entered.body);
    assert_eq!(entered.goes_to(), "/admin/queues/overview");

    // Every page: a strict policy, no script or style of its own, and hostile text as text.
    let group = until(Duration::from_secs(10), "the dead letter", async || {
        let (_, groups) = host.get("/api/admin/dead-letters").await?;
        Ok(groups["data"][0]["id"].as_i64())
    })
    .await?;
    let job = format!("/job/{QUEUE}/{failed}");
    let pages = [
        "/overview".to_owned(),
        "/queues".to_owned(),
        format!("/queue/{QUEUE}?state=failed"),
        job.clone(),
        format!("{job}/edit"),
        format!("{job}/remove"),
        "/dead-letters".to_owned(),
        format!("/dead-letters/{group}"),
        "/search".to_owned(),
        format!("/search?queue={QUEUE}"),
        format!("/search?queue={QUEUE}&state=failed"),
        "/bulk".to_owned(),
        format!("/bulk-new?kind=retry&dead-letter={group}"),
        format!("/queue/{QUEUE}/drain"),
        format!("/queue/{QUEUE}/clean?state=failed"),
        "/plugins".to_owned(),
        "/plugin/hostile".to_owned(),
        "/plugin/hostile/grants".to_owned(),
        "/plugin/hostile/settings".to_owned(),
        "/plugin/hostile/secrets".to_owned(),
        "/routes".to_owned(),
        "/breakers".to_owned(),
        "/schedules".to_owned(),
        "/schedule-new".to_owned(),
        "/alerts".to_owned(),
        "/alert-rules".to_owned(),
        "/alert-rules/plugin-quarantined".to_owned(),
        "/alerts-history".to_owned(),
        "/inbox".to_owned(),
        "/webhooks".to_owned(),
        "/activity".to_owned(),
        "/audit".to_owned(),
        "/audit/operators".to_owned(),
        "/tokens".to_owned(),
        "/people".to_owned(),
        "/vendor-keys".to_owned(),
        "/host".to_owned(),
    ];
    for path in &pages {
        let page = browser.get(path).await?;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.body);
        assert!(
            page.policy
                .starts_with("default-src 'none'; script-src 'self'; style-src 'self'")
                && page.policy.contains("frame-ancestors 'none'")
                && !page.policy.contains("unsafe"),
            "{path}: {}",
            page.policy
        );
        for hostile in [
            "<script>alert",
            "<img",
            "onerror=alert(2)>",
            "\u{202e}",
            "\u{1b}",
            " style=\"",
            " onclick=",
        ] {
            assert!(
                !page.body.contains(hostile),
                "{path}: {hostile:?}: {}",
                page.body
            );
        }
    }
    let shown = browser.get(&job).await?.body;
    assert!(
        shown.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{shown}"
    );
    assert!(
        shown.contains("U+202E") && shown.contains(">ESC<"),
        "{shown}"
    );

    // A change needs the token of a form of this session.
    let page = browser.get(&format!("/queue/{QUEUE}")).await?;
    let pause = format!("/queue/{QUEUE}/pause");
    for token in [None, Some(""), Some("AAAA")] {
        let fields: Vec<_> = token
            .map(|token| ("form-token", token))
            .into_iter()
            .collect();
        let refused = browser.post(&pause, &fields).await?;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{token:?}");
    }
    let reason = [("reason", "the mail server moves")];
    let mut other = Browser::signed_in(&host, &mut operator).await?;
    let refused = other.submit(&page, &pause, &reason).await?;
    assert_eq!(
        refused.status,
        StatusCode::FORBIDDEN,
        "another session's form"
    );
    let foreign = browser
        .http
        .post(format!("{}{ROOT}{pause}", host.url))
        .header("origin", "https://evil.example")
        .header("sec-fetch-site", "cross-site")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("form-token={}", page.token()?));
    assert_eq!(browser.send(foreign).await?.status, StatusCode::FORBIDDEN);
    let paused = browser.submit(&page, &pause, &reason).await?;
    assert_eq!(
        paused.goes_to(),
        format!("{ROOT}/queue/{QUEUE}"),
        "{}",
        paused.body
    );
    let page = browser.get(&format!("/queue/{QUEUE}")).await?;
    assert!(page.body.contains("is paused now") && page.body.contains("the mail server moves"));
    let again = browser.get(&format!("/queue/{QUEUE}")).await?;
    assert!(
        !again.body.contains("is paused now"),
        "a notice is shown once"
    );
    assert!(again.body.contains("otto"), "by whom");

    // What cannot be restored asks for the name; another name does nothing.
    let drain = format!("/queue/{QUEUE}/drain");
    let page = browser.get(&drain).await?;
    assert!(
        page.body
            .contains("This removes every waiting job of the queue. It cannot be undone.")
    );
    let refused = browser
        .submit(&page, &drain, &[("confirm", "emailQueue")])
        .await?;
    assert!(
        refused.body.contains("Nothing was done"),
        "{}",
        refused.body
    );
    let done = browser.submit(&page, &drain, &[("confirm", QUEUE)]).await?;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.body);

    // A viewer sees no button that would be refused, and is refused without one.
    let mut browser = Browser::signed_in(&host, &mut viewer).await?;
    for path in &pages {
        let page = browser.get(path).await?;
        for action in [
            "/pause\"",
            "/resume\"",
            "/retry\"",
            "/remove\"",
            "/acknowledge\"",
            "/clean",
            "value=\"begin\"",
        ] {
            let is_own = path.contains(action.trim_matches('"'));
            assert!(
                is_own || !page.body.contains(action),
                "{path} has {action}: {}",
                page.body
            );
        }
        assert!(
            !page.body.contains("alert(1)"),
            "{path}: without the right to see data"
        );
    }
    let page = browser.get("/queues").await?;
    let refused = browser.submit(&page, &pause, &reason).await?;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.body.contains("Not allowed"), "{}", refused.body);

    // What names a person never stands in an address.
    let mut browser = Browser::signed_in(&host, &mut operator).await?;
    let page = browser.get("/search").await?;
    let typed = browser.submit(
        &page,
        "/search",
        &[("q", "data.to:ann@example.org queue:hostileQueue")],
    );
    let typed = typed.await?;
    assert!(typed.location.is_none(), "{:?}", typed.location);
    let plain = browser.submit(
        &page,
        "/search",
        &[("q", "queue:hostileQueue outcome:failed")],
    );
    let plain = plain.await?;
    assert_eq!(
        plain.goes_to(),
        "/admin/queues/search?queue=hostileQueue&outcome=failed"
    );
    let found = browser
        .get("/search?queue=hostileQueue&outcome=failed")
        .await?;
    assert!(
        found.body.contains(&format!("/job/{QUEUE}/{failed}")),
        "{}",
        found.body
    );
    let exported = browser
        .submit(&page, "/search-csv", &[("q", "queue:hostileQueue")])
        .await?;
    assert!(
        exported.body.starts_with("queue") || exported.body.contains(','),
        "{}",
        exported.body
    );

    // The shared login works, as in the address that people have kept.
    let shared = host.http.get(format!("{}{ROOT}/queues", host.url));
    let shared = shared
        .basic_auth(crate::harness::USER, Some(crate::harness::PASSWORD))
        .send()
        .await?;
    assert_eq!(shared.status(), 200);
    let asked = reqwest::Client::builder().no_proxy().build()?;
    let asked = asked
        .get(format!("{}{ROOT}/shared-login", host.url))
        .send()
        .await?;
    assert_eq!(asked.status(), 401);
    assert!(asked.headers().contains_key("www-authenticate"));

    // Signing out ends the session.
    let page = browser.get("/overview").await?;
    let out = browser.submit(&page, "/sign-out", &[]).await?;
    assert_eq!(out.goes_to(), "/admin/queues/sign-in", "{}", out.body);
    assert_eq!(
        browser.get("/overview").await?.status,
        StatusCode::SEE_OTHER
    );

    // Its files are kept for ever, also by whoever is signed in.
    let style = page
        .body
        .split('"')
        .find(|part| part.ends_with("/console.css"))
        .context("a style")?;
    let kept = host
        .http
        .get(host.url.clone() + style)
        .header("cookie", "a=b");
    let kept = kept.send().await?;
    assert_eq!(
        kept.headers()["cache-control"],
        "public, max-age=31536000, immutable"
    );
    Ok(())
}

/// The value of an attribute of the page that begins so.
fn attribute<'p>(page: &'p Page, begins: &str) -> anyhow::Result<&'p str> {
    let found = page.body.split('"').find(|part| part.starts_with(begins));
    found.with_context(|| format!("{begins}: {}", page.body))
}

#[tokio::test]
async fn an_owner_changes_plugins_schedules_alerts_and_tokens_at_the_console() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let mut owner = enrolled(&host, "olga", "owner", true).await?;
    let mut browser = Browser::signed_in(&host, &mut owner).await?;

    // A schedule: looked at before it is stored, paused, run, removed and restored.
    let page = browser.get("/schedule-new").await?;
    let new = [
        ("id", "nightly"),
        ("queue", QUEUE),
        ("name", "noop"),
        ("cron", "0 3 * * *"),
        ("tz", "Asia/Kolkata"),
        ("missed", "skip"),
        ("data", "{}"),
    ];
    let mut asked = new.to_vec();
    asked.push(("preview", "on"));
    let shown = browser.submit(&page, "/schedule-new", &asked).await?;
    assert!(
        shown.body.contains("Not stored yet") && shown.body.contains("21:30:00 UTC"),
        "{}",
        shown.body
    );
    let wrong = browser
        .submit(&page, "/schedule-new", &[("id", "x"), ("data", "{ oops")])
        .await?;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    let made = browser.submit(&page, "/schedule-new", &new).await?;
    let place = format!("{ROOT}/schedule/nightly");
    assert_eq!(made.goes_to(), place, "{}", made.body);
    let reason = [("reason", "the vendor moves")];
    let paused = browser
        .submit(&page, "/schedule/nightly/pause", &reason)
        .await?;
    assert_eq!(paused.goes_to(), place, "{}", paused.body);
    let shown = browser.get("/schedules").await?;
    assert!(
        shown.body.contains("the vendor moves") && shown.body.contains("olga"),
        "{}",
        shown.body
    );
    let run = browser.submit(&page, "/schedule/nightly/run", &[]).await?;
    let job = format!("{ROOT}/job/{QUEUE}/");
    assert!(run.goes_to().starts_with(&job), "{}", run.body);
    let remove = "/schedule/nightly/remove";
    let refused = browser
        .submit(&page, remove, &[("confirm", "daily")])
        .await?;
    assert!(refused.body.contains("Nothing was done"));
    let removed = browser
        .submit(&page, remove, &[("confirm", "nightly")])
        .await?;
    assert_eq!(removed.goes_to(), format!("{ROOT}/schedules"));
    let shown = browser.get("/schedules").await?;
    assert!(
        shown.body.contains("/schedule/nightly/restore"),
        "{}",
        shown.body
    );
    let restored = browser
        .submit(&page, "/schedule/nightly/restore", &[])
        .await?;
    assert_eq!(restored.goes_to(), place, "{}", restored.body);

    // A secret is set and never shown.
    let secret = "/plugin/hostile/secrets/SMTP_PASSWORD";
    let value = [("value", "hunter2-hunter2")];
    let set = browser.submit(&page, secret, &value).await?;
    assert_eq!(
        set.goes_to(),
        format!("{ROOT}/plugin/hostile/secrets"),
        "{}",
        set.body
    );
    for path in [secret, "/plugin/hostile/secrets", "/activity"] {
        let shown = browser.get(path).await?.body;
        assert!(!shown.contains("hunter2"), "{path}: {shown}");
    }
    let gone = browser
        .submit(
            &page,
            &format!("{secret}/remove"),
            &[("confirm", "SMTP_PASSWORD")],
        )
        .await?;
    assert_eq!(gone.status, StatusCode::SEE_OTHER, "{}", gone.body);

    // A plugin is deactivated, and activated again by the notice's button.
    let off = browser
        .submit(&page, "/plugin/hostile/deactivate", &reason)
        .await?;
    assert_eq!(
        off.goes_to(),
        format!("{ROOT}/plugin/hostile"),
        "{}",
        off.body
    );
    let shown = browser.get("/plugin/hostile").await?;
    assert!(shown.body.contains(">inactive<"), "{}", shown.body);
    let undo = attribute(&shown, &format!("{ROOT}/plugin/hostile/activate/"))?;
    let undo = undo.strip_prefix(ROOT).context("an address")?.to_owned();
    let page = browser.get(&undo).await?;
    assert_eq!(page.status, StatusCode::OK, "{}", page.body);
    let on = browser.submit(&page, &undo, &[]).await?;
    assert_eq!(
        on.goes_to(),
        format!("{ROOT}/plugin/hostile"),
        "{}",
        on.body
    );
    assert!(
        browser
            .get("/plugin/hostile")
            .await?
            .body
            .contains("takes calls")
    );

    // Alerts are silenced for a while, with why.
    let silence = [("rule", "all"), ("for", "1 h"), ("reason", "the move")];
    let silenced = browser.submit(&page, "/alerts-silence", &silence).await?;
    assert_eq!(
        silenced.goes_to(),
        format!("{ROOT}/alerts"),
        "{}",
        silenced.body
    );
    let shown = browser.get("/alerts").await?;
    let end = attribute(&shown, &format!("{ROOT}/alerts-silence/"))?;
    let end = end.strip_prefix(ROOT).context("an address")?.to_owned();
    browser.submit(&page, &end, &[]).await?;
    assert!(!browser.get("/alerts").await?.body.contains("the move"));

    // The secret of a token is shown once.
    let token = [
        ("name", "deploy"),
        ("scopes", "queues:read"),
        ("role", "viewer"),
        ("days", "30"),
    ];
    let made = browser.submit(&page, "/tokens", &token).await?;
    assert!(
        made.body.contains("shown only now") && made.location.is_none(),
        "{}",
        made.body
    );
    let (_, rest) = made.body.split_once("id=\"secret\"").context("a secret")?;
    let secret = rest.split(['>', '<']).nth(1).context("a secret")?;
    assert!(secret.starts_with("pbt_") && secret.len() > 40, "{rest}");
    let listed = browser.get("/tokens").await?.body;
    assert!(
        listed.contains("deploy") && !listed.contains(secret),
        "{listed}"
    );

    // Trails are verified, and a bundle is taken along.
    let verified = browser
        .submit(&page, "/audit-verify", &[("trail", "operators")])
        .await?;
    assert!(
        verified.body.contains("Every entry is as it was written"),
        "{}",
        verified.body
    );
    let bundle = browser
        .submit(&page, "/host/incident", &[("since", "1 h")])
        .await?;
    assert_eq!(bundle.status, StatusCode::OK, "{}", bundle.body);
    assert_eq!(browser.get("/operators").await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_person_at_the_console_finds_what_failed_mends_it_and_retries_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    // Fails while its data says so: mended by editing the data.
    let act = json!({ "name": "act", "data": { "ends": ["never"], "log": ["before the call"], "lead": { "id": 7 } } });
    let broken = host.add(QUEUE, act.clone()).await?;
    for _ in 0..12 {
        host.add(
            QUEUE,
            json!({ "name": "fail", "data": { "message": HOSTILE, "retry": "never" } }),
        )
        .await?;
    }
    let mended = host.add(QUEUE, act).await?;
    let wide = json!({ "line": "x".repeat(200_000), "text": HOSTILE });
    let done = host
        .add(QUEUE, json!({ "name": "noop", "data": wide }))
        .await?;
    let delayed = host
        .add(QUEUE, json!({ "name": "noop", "delayMs": 3_600_000 }))
        .await?;
    let panicked = host.add(QUEUE, json!({ "name": "panic" })).await?;
    host.job_in(QUEUE, &done, "completed").await?;
    host.job_in(QUEUE, &panicked, "failed").await?;
    until(
        Duration::from_secs(10),
        "all groups of dead letters",
        async || {
            let (_, groups) = host.get("/api/admin/dead-letters").await?;
            let jobs = groups["data"].as_array().map(|groups| {
                groups
                    .iter()
                    .filter_map(|group| group["jobs"].as_i64())
                    .sum::<i64>()
            });
            Ok((jobs == Some(15)).then_some(()))
        },
    )
    .await?;
    let every = json!({ "id": "nightly", "queue": QUEUE, "name": "noop", "cron": "0 3 * * *", "tz": "Asia/Kolkata", "data": {} });
    let (status, answer) = host.post("/api/admin/schedules", every).await?;
    ensure!(status == 200 || status == 201, "{answer:#}");
    let mut people = serde_json::Map::new();
    for (name, role) in [("vera", "viewer"), ("otto", "operator"), ("olga", "owner")] {
        let person = enrolled(&host, name, role, role != "viewer").await?;
        let known =
            json!({ "name": person.name, "password": PASSWORD, "codes": person.recovery_codes });
        people.insert(role.into(), known);
    }
    let browser = Command::new("node")
        .arg("console.mjs")
        .current_dir(repository().join("tests/interop"))
        .env("HOST", &host.url)
        .env("PEOPLE", Value::Object(people).to_string())
        .env("JOBS", json!({ "broken": broken, "mended": mended, "done": done, "delayed": delayed, "panicked": panicked }).to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(150), browser).await??;
    ensure!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    for kind in ["refused", "errors", "axe", "html", "wide", "foreign"] {
        assert_eq!(seen[kind], json!([]), "{kind}: {:#}", seen[kind]);
    }
    assert!(
        seen["pages"].as_u64().is_some_and(|count| count >= 12),
        "{seen:#}"
    );

    // What was clicked has happened, under the name of whoever clicked.
    host.job_in(QUEUE, &broken, "completed").await?;
    let (_, job) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs/{broken}/timeline"))
        .await?;
    let text = job.to_string();
    assert!(
        text.contains("\"job.set-data\"") && text.contains("\"olga\""),
        "{job:#}"
    );
    host.job_in(QUEUE, &mended, "completed").await?;
    let (_, delayed) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs/{delayed}"))
        .await?;
    assert_eq!(delayed["data"]["job"]["state"], "completed", "{delayed:#}");
    Ok(())
}
