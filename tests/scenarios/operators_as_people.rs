//! Operators as people: links, logins, roles, tokens, and what the shared login still opens.

mod alerting;
mod commands;
mod hidden;
mod logins;
mod roles;
mod shared_login;
mod tokens;

use std::time::Duration;

use anyhow::Context;
use reqwest::header::SET_COOKIE;
use serde_json::{Value, json};

use crate::harness::{Host, World, until};
use crate::people::totp;

const KEY: &str = "8f3c1d2e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

pub(crate) const PASSWORD: &str = "a long enough password";

/// Cheap hashes: what they cost is tested elsewhere.
pub(crate) const ENV: [(&str, &str); 3] = [
    ("PATCHBAY_SECRETS_KEY", KEY),
    ("PATCHBAY_PEOPLE_HASH_MEMORY_KIB", "64"),
    ("PATCHBAY_PEOPLE_HASH_PASSES", "1"),
];

/// An operator who can log in.
pub(crate) struct Person {
    pub(crate) name: String,
    link: String,
    totp_secret: String,
    pub(crate) recovery_codes: Vec<String>,
    /// The last step whose code was used.
    last_step: i64,
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    let body = serde_json::from_str(&text).with_context(|| format!("{status}: {text:?}"))?;
    Ok((status, body))
}

async fn post(host: &Host, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
    answer(host.http.post(host.url.clone() + path).json(&body)).await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Person {
    /// A code that was not used yet. There are two, which are good also when a half minute ends
    /// before they are looked at.
    fn code(&mut self) -> anyhow::Result<String> {
        let now = chrono::Utc::now().timestamp() / 30;
        self.last_step = (self.last_step + 1).max(now);
        anyhow::ensure!(self.last_step <= now + 1, "no code is left at this time");
        totp(&self.totp_secret, self.last_step)
    }
}

/// Makes an operator with the shared login, and uses the link.
pub(crate) async fn enrolled(
    host: &Host,
    name: &str,
    role: &str,
    data: bool,
) -> anyhow::Result<Person> {
    let (status, made) = host
        .post(
            "/api/admin/operators",
            json!({ "name": name, "role": role, "maySeeData": data }),
        )
        .await?;
    assert_eq!(status, 200, "{made}");
    let link = text(&made["data"]["link"]);
    enrol(host, &link).await
}

async fn enrol(host: &Host, link: &str) -> anyhow::Result<Person> {
    let (status, offer) = post(host, "/api/admin/enrolment/begin", json!({ "link": link })).await?;
    assert_eq!(status, 200, "{offer}");
    let mut person = Person {
        name: text(&offer["data"]["name"]),
        link: link.to_owned(),
        totp_secret: text(&offer["data"]["totpSecret"]),
        recovery_codes: Vec::new(),
        last_step: 0,
    };
    let (status, done) = post(
        host,
        "/api/admin/enrolment/complete",
        json!({ "link": link, "password": PASSWORD, "totp": person.code()? }),
    )
    .await?;
    assert_eq!(status, 200, "{done}");
    let codes = done["data"]["recoveryCodes"].as_array();
    person.recovery_codes = codes.context("codes")?.iter().map(text).collect();
    assert_eq!(person.recovery_codes.len(), 10);
    Ok(person)
}

/// The answer of a login, and the cookie as a client sends it back.
async fn log_in(host: &Host, body: Value) -> anyhow::Result<(u16, Value, Option<String>)> {
    let request = host
        .http
        .post(format!("{}/api/admin/session", host.url))
        .json(&body);
    let response = request.send().await?;
    let status = response.status().as_u16();
    let cookie = response.headers().get(SET_COOKIE);
    let cookie = cookie.and_then(|line| line.to_str().ok()?.split(';').next());
    let cookie = cookie.map(str::to_owned);
    Ok((status, response.json().await?, cookie))
}

/// The cookie of a new session. Each takes a recovery code, of which there are ten.
pub(crate) async fn session(host: &Host, person: &mut Person) -> anyhow::Result<String> {
    let code = person.recovery_codes.pop().context("a recovery code")?;
    let body = json!({ "name": person.name, "password": PASSWORD, "recoveryCode": code });
    let (status, body, cookie) = log_in(host, body).await?;
    assert_eq!(status, 200, "{body}");
    cookie.context("a cookie")
}

/// A request with a session.
async fn with(
    host: &Host,
    cookie: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<(u16, Value)> {
    let request = host
        .http
        .request(method.parse()?, host.url.clone() + path)
        .header("cookie", cookie);
    answer(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

async fn get(host: &Host, cookie: &str, path: &str) -> anyhow::Result<(u16, Value)> {
    with(host, cookie, "GET", path, None).await
}

/// Entries of the trail of operators with this action.
async fn entries(
    world: &World,
    action: &str,
) -> anyhow::Result<Vec<(String, Option<String>, Value)>> {
    let mut database = world.database().await?;
    Ok(sqlx::query_as(
        "select actor_name, entity, entry from patchbay.audit_entries where trail = 'operators' and action = $1 order by id",
    )
    .bind(action)
    .fetch_all(&mut database)
    .await?)
}

/// Waits until there are so many.
async fn entries_once(
    world: &World,
    action: &str,
    count: usize,
) -> anyhow::Result<Vec<(String, Option<String>, Value)>> {
    until(Duration::from_secs(10), action, async || {
        let found = entries(world, action).await?;
        Ok((found.len() >= count).then_some(found))
    })
    .await
}
