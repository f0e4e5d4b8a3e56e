//! A route of a plugin, in a fresh instance for each request, beside a native axum handler and an
//! Express route with the same identity (an access token, and an account that is remembered for 5 s)
//! and the same schemas of input and answer. The work itself is nothing.
//!
//! The host does more than the others: it takes a unit of a rate limit in Redis, refuses repeated
//! keys of a body, counts, and traces.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::json_schema::{Schema, Values};
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};
use sha2::Sha256;
use sqlx::PgPool;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::api::{self, CONNECTIONS, JWT_SECRET, KEY, SAMPLE, WARM_UP};
use crate::host_process::{HostProcess, Services};
use crate::statistics::{Spread, verdict};
use crate::world::World;

/// The argument with which this program is the native side.
pub const NATIVE: &str = "native-route";
const PATH: &str = "/api/bench/{leadId}/call";
const BODY: &str = r#"{"phone":"+4930123456","note":"as agreed","tags":["new","hot"]}"#;

fn schemas() -> Value {
    json!({
        "input": {
            "type": "object",
            "required": ["path", "body"],
            "properties": {
                "path": { "type": "object", "required": ["leadId"], "properties": { "leadId": { "type": "integer" } } },
                "body": {
                    "type": "object",
                    "required": ["phone"],
                    "additionalProperties": false,
                    "properties": {
                        "phone": { "type": "string", "pattern": "^\\+?[0-9]{5,20}$" },
                        "note": { "type": "string", "maxLength": 1_000 },
                        "tags": { "type": "array", "maxItems": 20, "items": { "type": "string" } },
                    },
                },
            },
        },
        "output": {
            "type": "object",
            "required": ["stamp"],
            "properties": { "stamp": { "type": "string" } },
        },
    })
}

fn plugin() -> anyhow::Result<Vec<u8>> {
    let schemas = schemas();
    let manifest = json!({
        "format": 1, "name": "bench", "version": "1.0.0", "wit": "0.1",
        "secrets": [{ "name": "TOKEN" }],
        "egress": [{ "url": "http://127.0.0.1:9/**", "methods": ["GET"], "allow_addresses": ["127.0.0.0/8"] }],
        "routes": [{
            "method": "POST", "path": PATH, "access": "any-user", "operation": "stamp.1",
            "input": schemas["input"], "output": schemas["output"], "response_headers": ["x-stamp"],
            "rate": { "max": 100_000, "per_ms": 1_000, "by": "all" }, "audit": false,
        }],
    });
    let manifest = Manifest::from_packed(manifest.to_string().as_bytes())?;
    let component =
        std::env::var("PATCHBAY_BENCH_ANSWERS").context("run this with `make bench`")?;
    Ok(patchbay_runtime::pack(
        &std::fs::read(component)?,
        &manifest,
    )?)
}

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    let services = Services::fresh("bench_routes").await?;
    let settings = [
        ("PATCHBAY_PEOPLE_ENABLED", "true".to_owned()),
        ("PATCHBAY_SECRETS_KEY", KEY.to_owned()),
        ("JWT_SECRET", JWT_SECRET.to_owned()),
    ];
    let host = HostProcess::start(&services, world.dir.path(), &settings, "/readyz").await?;
    let token = api::account(&services, &host).await?;
    let digest = host.push(plugin()?).await?;
    host.activate("bench", &digest).await?;
    let file = world.dir.path().join("route-schemas.json");
    std::fs::write(&file, schemas().to_string())?;
    let file = file.to_str().context("a path")?;
    let (_native, native) = natively(&services).await?;
    let (_node, node) = api::express(&services, &[("ROUTE_SCHEMAS", file)]).await?;
    let sides = [host.address()?, native, node];

    println!("a no-op route: POST {PATH}, {CONNECTIONS} connections");
    let request = format!(
        "POST /api/bench/7/call HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    for side in sides {
        api::load(side, &request, WARM_UP).await?;
    }
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut middles: [Vec<f64>; 3] = Default::default();
    let mut tails: [Vec<f64>; 3] = Default::default();
    for pair in 0..pairs {
        for turn in 0..sides.len() {
            let i = (turn + pair) % sides.len();
            let sample = api::load(sides[i], &request, SAMPLE).await?;
            rates[i].push(sample.per_second);
            middles[i].push(sample.p50_ms);
            tails[i].push(sample.p99_ms);
        }
    }
    let names = ["ours", "native axum", "express"];
    for (i, name) in names.iter().enumerate() {
        let [rate, middle, tail] = [&rates, &middles, &tails].map(|of| Spread::of(of[i].clone()));
        println!("    {name}: {rate}/s, p50 {middle} ms, p99 {tail} ms");
    }
    for (place, least) in [(1, 0.7), (2, 3.0)] {
        let ratio = |of: &[Vec<f64>; 3]| {
            Spread::of(of[0].iter().zip(&of[place]).map(|(a, b)| a / b).collect())
        };
        let (faster, middle, tail) = (ratio(&rates), ratio(&middles), ratio(&tails));
        println!(
            "    ours / {} {faster}  {}; p50 {middle}, p99 {tail}",
            names[place],
            verdict(faster.median, least, true)
        );
    }
    host.kill().await
}

/// This program again, as a server of its own.
async fn natively(services: &Services) -> anyhow::Result<(Child, SocketAddr)> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(NATIVE)
        .env("DATABASE_URL", &services.database_url)
        .env("JWT_SECRET", JWT_SECRET)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the native server")?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let port = lines.next_line().await?.context("it has ended")?;
    Ok((child, format!("127.0.0.1:{port}").parse()?))
}

struct Native {
    pool: PgPool,
    secret: String,
    input: Schema,
    output: Schema,
    known: Mutex<HashMap<String, (Instant, String)>>,
}

pub async fn serve_natively() -> anyhow::Result<()> {
    let schemas = schemas();
    let compiled = |name: &str| Schema::new(&schemas[name]).map_err(anyhow::Error::msg);
    let native = Native {
        pool: PgPool::connect(&std::env::var("DATABASE_URL")?).await?,
        secret: std::env::var("JWT_SECRET")?,
        input: compiled("input")?,
        output: compiled("output")?,
        known: Mutex::default(),
    };
    let app = Router::new()
        .route(PATH, post(call))
        .layer(DefaultBodyLimit::max(262_144))
        .with_state(Arc::new(native));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    Ok(axum::serve(listener, app).await?)
}

async fn call(
    State(native): State<Arc<Native>>,
    Path(lead): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = |status: StatusCode, body: Value| {
        let json = [(header::CONTENT_TYPE, "application/json")];
        (status, json, body.to_string()).into_response()
    };
    let refused = |status: StatusCode, message: &str| {
        answer(status, json!({ "success": false, "message": message }))
    };
    if let Err(error) = native.account(&headers).await {
        return refused(StatusCode::UNAUTHORIZED, &error.to_string());
    }
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let lead = lead
        .parse::<i64>()
        .map_or_else(|_| lead.into(), Value::from);
    let input = json!({ "path": { "leadId": lead }, "body": body });
    if let Err(violations) = native.input.fits(&input, Values::Withheld, 5) {
        return refused(StatusCode::BAD_REQUEST, &violations.to_string());
    }
    let data = json!({ "stamp": "stamp.1" });
    if native.output.fits(&data, Values::Withheld, 3).is_err() {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "invalid answer");
    }
    let mut response = answer(StatusCode::OK, json!({ "success": true, "data": data }));
    response
        .headers_mut()
        .insert("x-stamp", header::HeaderValue::from_static("stamp.1"));
    response
}

impl Native {
    /// The e-mail address of the account whose token it is.
    async fn account(&self, headers: &HeaderMap) -> anyhow::Result<String> {
        let given = headers.get(header::AUTHORIZATION).context("no token")?;
        let token = given
            .to_str()?
            .strip_prefix("Bearer ")
            .context("no token")?;
        let (signed, signature) = token.rsplit_once('.').context("no signature")?;
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.secret.as_bytes())?;
        mac.update(signed.as_bytes());
        mac.verify_slice(&URL_SAFE_NO_PAD.decode(signature)?)?;
        let (_, claims) = signed.split_once('.').context("no claims")?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        ensure!(
            claims["exp"].as_u64().is_some_and(|exp| exp > now),
            "expired"
        );
        let id = claims["sub"].as_str().context("no sub")?;
        if let Some((at, email)) = self.known.lock().expect("not poisoned").get(id)
            && at.elapsed() < Duration::from_secs(5)
        {
            return Ok(email.clone());
        }
        let email: String =
            sqlx::query_scalar(r#"select "email" from users where "id"::text = $1"#)
                .bind(id)
                .fetch_one(&self.pool)
                .await?;
        let known = (Instant::now(), email.clone());
        self.known
            .lock()
            .expect("not poisoned")
            .insert(id.to_owned(), known);
        Ok(email)
    }
}
