//! The stand-in of Exotel, driven by independent clients, and its misdeeds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use patchbay_stand_ins::exotel::{self, Account, Encoding, Exotel, Fault, Misdeed, Operation};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::mpsc;

async fn started() -> anyhow::Result<Exotel> {
    exotel::start("127.0.0.1:0".parse()?, Account::default()).await
}

fn client() -> anyhow::Result<Client> {
    Ok(Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()?)
}

fn interop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../interop")
}

/// What the client printed at each step.
async fn driven(
    program: &Path,
    script: &str,
    server: &Exotel,
) -> anyhow::Result<Vec<(String, Value)>> {
    let account = server.account();
    let output = Command::new(program)
        .arg(script)
        .current_dir(interop())
        .env("EXOTEL_URL", server.url())
        .env("EXOTEL_SID", &account.sid)
        .env("EXOTEL_KEY", &account.key)
        .env("EXOTEL_TOKEN", &account.token)
        .env("EXOTEL_EXOPHONE", &account.exophones[0])
        .env("NODE_NO_WARNINGS", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{}: run `scripts/setup test`", program.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {errors}");
    let text = String::from_utf8(output.stdout)?;
    println!("{text}{errors}");
    let mut steps = Vec::new();
    // The client itself prints lines that are not ours.
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let mut line: Value = serde_json::from_str(line)?;
        let step = line["step"].as_str().context("a step")?.to_owned();
        steps.push((step, line["answer"].take()));
    }
    Ok(steps)
}

fn step<'a>(steps: &'a [(String, Value)], name: &str) -> anyhow::Result<&'a Value> {
    let found = steps.iter().find(|(step, _)| step == name);
    Ok(&found.with_context(|| format!("no step {name}"))?.1)
}

#[tokio::test]
async fn pyexotel_places_calls_reads_them_and_is_refused_with_wrong_credentials()
-> anyhow::Result<()> {
    let server = started().await?;
    server.behave(|behaviour| behaviour.plays = false);
    let python = interop().join(".venv/bin/python");
    let steps = driven(&python, "exotel-client.py", &server).await?;
    let placed = &step(&steps, "call")?["Call"];
    let sid = placed["Sid"].as_str().context("a sid")?;
    assert_eq!(sid.len(), 32, "{placed}");
    assert_eq!(
        (placed["From"].as_str(), placed["To"].as_str()),
        (Some("09876543210"), Some("09123456789")),
        "the vendor writes numbers in its own way"
    );
    assert_eq!(
        (&placed["EndTime"], &placed["Price"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(step(&steps, "details")?["Call"]["Sid"], sid);
    assert_ne!(step(&steps, "flow")?["Call"]["Sid"], sid);
    for refused in ["unknown call", "wrong token", "wrong sid"] {
        assert_eq!(step(&steps, refused)?, &Value::Null, "{refused}");
    }
    assert_eq!(server.calls().len(), 2);
    assert_eq!(server.calls()[0].form["TimeLimit"], "14400");
    Ok(())
}

#[tokio::test]
async fn the_npm_client_sends_messages_and_reads_xml() -> anyhow::Result<()> {
    // The old client knows no key: it uses the SID.
    let account = Account {
        key: "patchbay1".into(),
        ..Account::default()
    };
    let server = exotel::start("127.0.0.1:0".parse()?, account).await?;
    let steps = driven(Path::new("node"), "exotel-client.mjs", &server).await?;
    let sent = step(&steps, "send")?;
    assert_eq!(sent["Body"], "Hello <you> & all, ₹ 5", "{sent}");
    assert_eq!(
        (sent["Status"].as_str(), sent["DateSent"].as_str()),
        (Some("queued"), Some("1970-01-01 05:30:00"))
    );
    assert_eq!(step(&steps, "check")?["Sid"], sent["Sid"]);
    for (name, says) in [
        ("no such message", "404: "),
        ("no text", "400: Bad or missing parameters"),
        ("wrong token", "401: Authentication failed"),
    ] {
        let error = step(&steps, name)?["error"].as_str().unwrap_or_default();
        assert!(error.starts_with(says), "{name}: {error}");
    }
    Ok(())
}

fn url(server: &Exotel, path: &str) -> String {
    format!(
        "{}/v1/Accounts/{}{path}",
        server.url(),
        server.account().sid
    )
}

async fn got(server: &Exotel, path: &str) -> anyhow::Result<(u16, Value)> {
    let account = server.account();
    let request = client()?
        .get(url(server, path))
        .basic_auth(account.key, Some(account.token));
    let response = request.send().await?;
    Ok((response.status().as_u16(), response.json().await?))
}

fn connecting(server: &Exotel, more: &[(&str, &str)]) -> anyhow::Result<reqwest::RequestBuilder> {
    let account = server.account();
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.extend_pairs([
        ("From", "+919876543210"),
        ("To", "+919123456789"),
        ("CallerId", "08047112233"),
    ]);
    form.extend_pairs(more);
    Ok(client()?
        .post(url(server, "/Calls/connect.json"))
        .basic_auth(account.key, Some(account.token))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form.finish()))
}

async fn connected(server: &Exotel, more: &[(&str, &str)]) -> anyhow::Result<String> {
    let answer: Value = connecting(server, more)?.send().await?.json().await?;
    Ok(answer["Call"]["Sid"].as_str().context("a sid")?.to_owned())
}

#[tokio::test]
async fn calls_are_listed_by_filter_and_page_by_page() -> anyhow::Result<()> {
    let server = started().await?;
    server.behave(|behaviour| behaviour.plays = false);
    let mut sids = Vec::new();
    for to in ["+919123456789", "+919123456780", "+919123456789"] {
        sids.push(connected(&server, &[("To2", ""), ("CustomField", to)]).await?);
    }
    let listed = async |query: &str| -> anyhow::Result<Vec<String>> {
        let (status, page) = got(&server, &format!("/Calls.json{query}")).await?;
        ensure!(status == 200, "{query}: {status} {page}");
        let calls = page["Calls"].as_array().context("calls")?;
        Ok(calls
            .iter()
            .filter_map(|call| Some(call["Sid"].as_str()?.to_owned()))
            .collect())
    };
    let mut newest = sids.clone();
    newest.reverse();
    assert_eq!(listed("").await?, newest);
    assert_eq!(listed("?SortBy=DateCreated:asc").await?, sids);
    assert_eq!(
        listed(&format!("?Sid={}", sids[1])).await?,
        [sids[1].clone()]
    );
    assert_eq!(listed("?From=09876543210&To=09123456789").await?.len(), 3);
    assert!(
        listed("?To=%2B919123456789").await?.is_empty(),
        "the vendor's spelling only"
    );
    assert!(listed("?Status=busy").await?.is_empty());
    assert_eq!(
        listed("?DateCreated=gte:2026-01-01%2000:00:00")
            .await?
            .len(),
        3
    );
    assert!(
        listed("?DateCreated=lte:2026-01-01%2000:00:00")
            .await?
            .is_empty()
    );
    for wrong in [
        "?PageSize=0",
        "?PageSize=101",
        "?DateCreated=gte:yesterday",
        "?DateCreated=gte:2026-01-01%2000:00:00%3Blte:2026-03-01%2000:00:00",
    ] {
        let (status, error) = got(&server, &format!("/Calls.json{wrong}")).await?;
        assert_eq!(
            (status, &error["RestException"]["Status"]),
            (400, &400.into()),
            "{wrong}"
        );
    }
    // By NextPageUri, as the vendor says.
    let (_, first) = got(&server, "/Calls.json?PageSize=2").await?;
    let next = first["Metadata"]["NextPageUri"]
        .as_str()
        .context("a next page")?;
    let prefix = format!("/v1/Accounts/{}", server.account().sid);
    let (_, second) = got(&server, next.strip_prefix(&prefix).context("a path")?).await?;
    assert_eq!(second["Calls"][0]["Sid"], sids[0].as_str());
    assert_eq!(second["Metadata"]["NextPageUri"], Value::Null);
    Ok(())
}

#[tokio::test]
async fn balance_account_and_number_are_told_and_limits_are_kept() -> anyhow::Result<()> {
    let server = started().await?;
    let (_, balance) = got(&server, "/Balance.json").await?;
    assert_eq!(balance["Account"]["BalanceData"]["Balance"], "1543.75");
    let (_, number) = got(&server, "/Numbers/09123456789.json").await?;
    assert_eq!(number["Numbers"]["DND"], "No");
    let (_, account) = got(&server, ".json").await?;
    assert_eq!(
        account["Account"]["AuthToken"], "stand-in-token",
        "the vendor repeats it"
    );
    let refused = connecting(&server, &[("TimeLimit", "14401")])?
        .send()
        .await?;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let long = "x".repeat(129);
    let refused = connecting(&server, &[("CustomField", &long)])?
        .send()
        .await?;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    server.behave(|behaviour| behaviour.per_minute = Some(1));
    let (status, error) = got(&server, "/Balance.json").await?;
    assert_eq!(
        (status, &error["RestException"]["Status"]),
        (429, &429.into())
    );
    Ok(())
}

#[tokio::test]
async fn it_is_slow_resets_refuses_and_answers_html_when_it_is_told_to() -> anyhow::Result<()> {
    let server = started().await?;
    server.behave(|behaviour| behaviour.plays = false);
    server.fault(Fault::new(Operation::Connect, Misdeed::Reset));
    server.fault(Fault::new(Operation::Connect, Misdeed::Reset).done());
    for placed in [0, 1] {
        let error = connecting(&server, &[])?
            .send()
            .await
            .expect_err("no answer");
        assert!(!error.is_connect() && !error.is_timeout(), "{error:?}");
        assert_eq!(server.calls().len(), placed);
    }
    server.fault(Fault::new(Operation::Connect, Misdeed::Html(502)));
    let page = connecting(&server, &[])?.send().await?;
    assert_eq!(page.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(page.headers()["content-type"], "text/html");
    server.fault(Fault::new(Operation::Connect, Misdeed::Status(503)).times(2));
    for _ in 0..2 {
        assert_eq!(connecting(&server, &[])?.send().await?.status(), 503);
    }
    // By the control address, too.
    let control = |path: &str| format!("{}/_control/{path}", server.url());
    let slow = serde_json::json!({ "on": "connect", "misdeed": { "slow": 300 } });
    client()?
        .post(control("faults"))
        .json(&slow)
        .send()
        .await?
        .error_for_status()?;
    let began = Instant::now();
    assert_eq!(connecting(&server, &[])?.send().await?.status(), 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    let change = serde_json::json!({ "clock_skew_s": 3600, "copies": 2 });
    client()?
        .put(control("behaviour"))
        .json(&change)
        .send()
        .await?
        .error_for_status()?;
    let wrong = client()?
        .put(control("behaviour"))
        .json(&serde_json::json!({ "odd": 1 }))
        .send()
        .await?;
    assert_eq!(wrong.status(), 422);
    let state: Value = client()?.get(control("state")).send().await?.json().await?;
    assert_eq!(state["behaviour"]["copies"], 2);
    assert_eq!(state["calls"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        state["account"]["token"],
        Value::Null,
        "no credential is shown"
    );
    Ok(())
}

/// A server for callbacks, which answers with each of these statuses and then with 200.
async fn receiver(
    statuses: Vec<u16>,
) -> anyhow::Result<(String, mpsc::UnboundedReceiver<(String, Bytes)>)> {
    let (sender, received) = mpsc::unbounded_channel();
    let statuses = Arc::new(std::sync::Mutex::new(statuses));
    type Shared = (
        mpsc::UnboundedSender<(String, Bytes)>,
        Arc<std::sync::Mutex<Vec<u16>>>,
    );
    let take = |State((sender, statuses)): State<Shared>, headers: HeaderMap, body: Bytes| async move {
        let kind = headers["content-type"]
            .to_str()
            .unwrap_or_default()
            .to_owned();
        sender.send((kind, body)).ok();
        let next = statuses.lock().expect("no panic").pop().unwrap_or(200);
        StatusCode::from_u16(next).unwrap_or_default()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/callback", listener.local_addr()?);
    let app = Router::new()
        .route("/callback", post(take))
        .with_state((sender, statuses));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((url, received))
}

async fn next(
    received: &mut mpsc::UnboundedReceiver<(String, Bytes)>,
) -> anyhow::Result<(String, String)> {
    match tokio::time::timeout(Duration::from_secs(10), received.recv()).await {
        Ok(Some((kind, body))) => Ok((kind, String::from_utf8(body.to_vec())?)),
        _ => bail!("no callback came"),
    }
}

const BOTH: [(&str, &str); 2] = [
    ("StatusCallbackEvents[0]", "terminal"),
    ("StatusCallbackEvents[1]", "answered"),
];

#[tokio::test]
async fn callbacks_come_as_forms_in_parts_by_default_and_are_tried_again() -> anyhow::Result<()> {
    let server = started().await?;
    server.behave(|behaviour| {
        behaviour.callback_retry_ms = 10;
        behaviour.answer_after_ms = 10;
        behaviour.end_after_ms = 10;
    });
    let (url, mut received) = receiver(vec![503]).await?;
    let sid = connected(
        &server,
        &[
            &[("StatusCallback", url.as_str()), ("CustomField", "lead-7")],
            &BOTH[..],
        ]
        .concat(),
    )
    .await?;
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let (kind, body) = next(&mut received).await?;
        assert!(kind.starts_with("multipart/form-data; boundary="), "{kind}");
        bodies.push(body);
    }
    let has = |body: &str, name: &str, value: &str| {
        body.contains(&format!("name=\"{name}\"\r\n\r\n{value}\r\n"))
    };
    let ended: Vec<&String> = bodies
        .iter()
        .filter(|body| has(body, "EventType", "terminal"))
        .collect();
    let answered: Vec<&String> = bodies
        .iter()
        .filter(|body| has(body, "EventType", "answered"))
        .collect();
    assert_eq!(
        ended.len() + answered.len(),
        3,
        "one of them twice: {bodies:?}"
    );
    let (ended, answered) = (
        ended.first().context("an end")?,
        answered.first().context("an answer")?,
    );
    for (name, value) in [
        ("CallSid", sid.as_str()),
        ("Status", "completed"),
        ("CustomField", "lead-7"),
        ("ConversationDuration", "42"),
        ("Legs[0][Status]", "completed"),
        ("Legs[1][OnCallDuration]", "42"),
    ] {
        assert!(has(ended, name, value), "{name}: {ended}");
    }
    assert!(
        has(answered, "Status", "in-progress") && !answered.contains("CustomField"),
        "{answered}"
    );
    Ok(())
}

#[tokio::test]
async fn callbacks_come_in_json_repeated_and_in_the_wrong_order() -> anyhow::Result<()> {
    let server = started().await?;
    server.behave(|behaviour| {
        behaviour.plays = false;
        behaviour.copies = 5;
        behaviour.reverses = true;
    });
    let (url, mut received) = receiver(Vec::new()).await?;
    let json = ("StatusCallbackContentType", "application/json");
    let sid = connected(
        &server,
        &[&[("StatusCallback", url.as_str()), json], &BOTH[..]].concat(),
    )
    .await?;
    assert!(server.answer_call(&sid) && server.end_call(&sid, "completed"));
    assert!(!server.end_call(&sid, "busy"), "it has ended");
    let mut events = Vec::new();
    for _ in 0..10 {
        let body: Value = serde_json::from_str(&next(&mut received).await?.1)?;
        assert_eq!(body["Legs"].as_array().map(Vec::len), Some(2), "{body}");
        events.push(body["EventType"].as_str().context("an event")?.to_owned());
    }
    assert_eq!(events, [vec!["terminal"; 5], vec!["answered"; 5]].concat());
    // Without a subscription there is one, at the end, without an event.
    server.behave(|behaviour| {
        behaviour.copies = 1;
        behaviour.encoding = Some(Encoding::Urlencoded);
    });
    let sid = connected(&server, &[("StatusCallback", &url)]).await?;
    assert!(server.end_call(&sid, "busy"));
    let (kind, body) = next(&mut received).await?;
    assert_eq!(kind, "application/x-www-form-urlencoded");
    assert!(
        body.contains("Status=busy") && !body.contains("EventType"),
        "{body}"
    );
    Ok(())
}

#[tokio::test]
async fn recordings_want_credentials_and_give_ranges() -> anyhow::Result<()> {
    let server = started().await?;
    server.behave(|behaviour| {
        behaviour.plays = false;
        behaviour.settle_after_ms = 0;
    });
    let sid = connected(&server, &[("Record", "true")]).await?;
    server.answer_call(&sid);
    server.end_call(&sid, "completed");
    let (_, details) = got(&server, &format!("/Calls/{sid}.json?details=true")).await?;
    let call = &details["Call"];
    assert_eq!(
        (
            call["Duration"].as_str(),
            &call["Details"]["ConversationDuration"]
        ),
        (Some("57"), &42.into())
    );
    let url = call["RecordingUrl"].as_str().context("a recording")?;
    assert_eq!(client()?.get(url).send().await?.status(), 401);
    let account = server.account();
    let asked = || {
        anyhow::Ok(
            client()?
                .get(url)
                .basic_auth(&account.key, Some(&account.token)),
        )
    };
    let whole = asked()?.send().await?.bytes().await?;
    assert_eq!((whole.len(), &whole[..3]), (100_000, &b"ID3"[..]));
    let part = asked()?.header("range", "bytes=1000-1999").send().await?;
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], "bytes 1000-1999/100000");
    assert_eq!(part.bytes().await?, whole.slice(1000..2000));
    let beyond = asked()?.header("range", "bytes=100000-").send().await?;
    assert_eq!(beyond.status(), 416);
    Ok(())
}
