//! Who may call what: every operation of the OpenAPI document, called by everybody, compared with
//! one table. Callers with the same answer stand in it together.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::role::Role;
use serde_json::{Value, json};

use crate::harness::{Host, PASSWORD, USER, World, repository};
use crate::people::{PEOPLE, verified};

/// Operations that end the session of whoever calls them.
const ENDS_A_SESSION: [&str; 2] = ["auth.logout", "auth.logout_all"];
const SECRET: &str = "0123456789abcdef0123456789abcdef-of-this-installation";
const ANOTHER: &str = "0123456789abcdef0123456789abcdef-of-another-one";

/// Who calls.
#[derive(Clone)]
enum Who {
    Nobody,
    Token(String),
    Cookie(String),
    /// A good cookie, and a token that is none.
    Both(String),
    Operator(&'static str),
}

async fn call(
    host: &Host,
    method: &str,
    path: &str,
    (place, who): (usize, &Who),
) -> anyhow::Result<String> {
    let filled: String = path
        .split('/')
        .map(|part| if part.starts_with('{') { "none" } else { part })
        .collect::<Vec<_>>()
        .join("/");
    let request = host
        .http
        .request(method.to_uppercase().parse()?, host.url.clone() + &filled)
        // Nobody uses up the limit of another.
        .header("x-forwarded-for", format!("203.0.113.{place}"));
    let cookie = |token: &str| format!("token={token}");
    let request = match who {
        Who::Nobody => request,
        Who::Token(token) => request.bearer_auth(token),
        Who::Cookie(token) => request.header("cookie", cookie(token)),
        Who::Both(token) => request.header("cookie", cookie(token)).bearer_auth("x"),
        Who::Operator(password) => request.basic_auth(USER, Some(password)),
    };
    Ok(match request.send().await?.status().as_u16() {
        refused @ (401 | 403) => refused.to_string(),
        _ => "in".to_owned(),
    })
}

fn address(role: Role) -> String {
    format!("{}@example.com", role.as_str().replace('_', "-"))
}

/// The token of each role.
async fn log_in(host: &Host) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut tokens = Vec::new();
    for role in Role::ALL {
        let body = json!({ "email": address(role), "password": crate::people::PASSWORD });
        let request = host.http.post(format!("{}/api/auth/login", host.url));
        let answer: Value = request.json(&body).send().await?.json().await?;
        let token = answer["token"].as_str().context("a token")?;
        tokens.push((role.as_str(), token.to_owned()));
    }
    Ok(tokens)
}

/// The token as it was an hour ago, signed anew.
fn aged(token: &str) -> anyhow::Result<String> {
    let mut parts = token.split('.');
    let (header, claims) = (
        parts.next().context("a header")?,
        parts.next().context("claims")?,
    );
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    for time in ["iat", "exp"] {
        claims[time] = json!(claims[time].as_i64().context("a time")? - 3_600);
    }
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes())?;
    mac.update(text.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    Ok(format!("{text}.{signature}"))
}

async fn host_with_key(world: &World, secret: &str) -> anyhow::Result<Host> {
    let secrets = format!("k1:{secret}");
    let more = [
        ("PATCHBAY_PEOPLE_JWT_SECRETS", secrets.as_str()),
        ("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8"),
    ];
    world.host(&[&PEOPLE[..], &more].concat()).await
}

/// Tokens that open nothing.
async fn bad_tokens(world: &World, host: &Host) -> anyhow::Result<Vec<(&'static str, Who)>> {
    let own = verified(world, host, "gone@example.com").await?;
    let own = own["token"].as_str().context("a token")?.to_owned();
    let logout = host.http.post(format!("{}/api/auth/logout", host.url));
    assert_eq!(logout.bearer_auth(&own).send().await?.status(), 200);
    let elsewhere = World::new().await?;
    let other = host_with_key(&elsewhere, ANOTHER).await?;
    let foreign = verified(&elsewhere, &other, "gone@example.com").await?;
    let foreign = foreign["token"].as_str().context("a token")?.to_owned();
    let fresh = log_in(host).await?;
    let (_, admin) = fresh
        .iter()
        .find(|(role, _)| *role == "admin")
        .context("admin")?;
    Ok(vec![
        ("forged token", Who::Token("e30.e30.e30".into())),
        ("expired token", Who::Token(aged(admin)?)),
        ("revoked token", Who::Token(own)),
        ("foreign token", Who::Token(foreign)),
    ])
}

/// `name answer`, or each by itself where they differ.
fn told(group: &str, answers: &[(&str, String)]) -> String {
    let mut each = answers.iter().map(|(_, answer)| answer);
    let first = each.next();
    if let Some(answer) = first.filter(|first| each.all(|answer| answer == *first)) {
        return format!("{group} {answer}");
    }
    let each = answers
        .iter()
        .map(|(name, answer)| format!("{name} {answer}"));
    each.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn who_may_call_which_operation_is_as_in_the_table() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host_with_key(&world, SECRET).await?;
    for role in Role::ALL {
        let account = verified(&world, &host, &address(role)).await?;
        let id = account["user"]["id"].as_str().context("an id")?;
        let path = format!("/api/admin/people/{id}/role");
        let (status, _) = host.put(&path, json!({ "role": role })).await?;
        assert_eq!(status, 200);
    }
    let document: Value = serde_json::from_str(&std::fs::read_to_string(
        repository().join("docs/openapi.json"),
    )?)?;
    let bad = bad_tokens(&world, &host).await?;
    let mut tokens = log_in(&host).await?;
    let mut table = BTreeMap::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("methods")? {
            let id = operation["operationId"].as_str().context("an id")?;
            let (admin, others): (Vec<_>, Vec<_>) = tokens
                .iter()
                .cloned()
                .partition(|(role, _)| *role == "admin");
            let (_, admin) = admin.first().context("an administrator")?.clone();
            let others: Vec<(&str, Who)> = others
                .into_iter()
                .map(|(role, token)| (role, Who::Token(token)))
                .collect();
            let one = |name: &'static str, who: Who| (name, vec![(name, who)]);
            let mut groups = vec![
                one("nobody", Who::Nobody),
                ("bad tokens", bad.clone()),
                one("admin's cookie", Who::Cookie(admin.clone())),
                one("the cookie beside a bad token", Who::Both(admin.clone())),
                ("other accounts", others),
                one("admin", Who::Token(admin)),
                one("wrong operator", Who::Operator("wrong")),
            ];
            // Whether an operator gets in is shown by what does no harm.
            if operation["x-patchbay-effect"] == "reads" || ENDS_A_SESSION.contains(&id) {
                groups.push(one("operator", Who::Operator(PASSWORD)));
            }
            let (mut row, mut place) = (Vec::new(), 0);
            for (group, callers) in groups {
                let mut answers = Vec::new();
                for (name, who) in callers {
                    place += 1;
                    answers.push((name, call(&host, method, path, (place, &who)).await?));
                }
                row.push(told(group, &answers));
            }
            table.insert(id.to_owned(), row.join(", "));
            if ENDS_A_SESSION.contains(&id) {
                tokens = log_in(&host).await?;
            }
        }
    }
    let lines: Vec<String> = table
        .into_iter()
        .map(|(id, row)| format!("{id}: {row}\n"))
        .collect();
    let (text, file) = (
        lines.concat(),
        repository().join("tests/snapshots/access.txt"),
    );
    if std::env::var_os("PATCHBAY_TEST_UPDATE").is_some() {
        std::fs::write(&file, &text)?;
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        kept, text,
        "compare, then update with PATCHBAY_TEST_UPDATE=1"
    );
    Ok(())
}
