//! The same calls in native Rust.

use std::io::{PipeWriter, Read};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hmac::{Hmac, KeyInit, Mac};
use lettre::address::Envelope;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use patchbay_model::flow::{ChildFailure, Flow};
use patchbay_model::job::NewJob;
use patchbay_queue::Broker;
use redis::AsyncCommands;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use subtle::ConstantTimeEq;
use tracing::Dispatch;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;

use crate::host_process::Services;
use crate::servers::Servers;

/// A week, as the host's.
const TTL_MS: u64 = 7 * 24 * 3_600_000;

pub struct Native {
    url: String,
    payload: String,
    secret: String,
    settings: Map<String, Value>,
    progress: Mutex<Option<String>>,
    log: Dispatch,
    http: reqwest::Client,
    redis: redis::aio::ConnectionManager,
    queues: Broker,
    postgres: PgPool,
    mail: AsyncSmtpConnection,
}

/// What both sides query, before a plugin may ask for it.
pub async fn make_table(services: &Services) -> anyhow::Result<()> {
    let make = "create schema bench; create table bench.notes (id bigint primary key, name text not null); \
                insert into bench.notes select n, 'a note' from generate_series(1, 100) n";
    sqlx::raw_sql(make)
        .execute(&mut services.postgres().await?)
        .await?;
    Ok(())
}

/// The time of so many calls, after one that does not count.
macro_rules! timed {
    ($calls:expr, $call:expr) => {{
        $call;
        let started = Instant::now();
        for _ in 0..$calls {
            $call;
        }
        started.elapsed()
    }};
}

impl Native {
    pub async fn connect(
        services: &Services,
        servers: &Servers,
        url: String,
        payload: String,
        secret: &str,
    ) -> anyhow::Result<Self> {
        let hello = ClientId::default();
        // As the host does, without TLS: the library leaves it to the system to keep the final dot
        // back for 40 ms.
        let mail = tokio::net::TcpStream::connect(servers.mail).await?;
        mail.set_nodelay(true)?;
        let mail = AsyncSmtpConnection::connect_with_transport(Box::new(mail), &hello).await?;
        Ok(Self {
            url,
            payload,
            secret: secret.to_owned(),
            settings: [("greeting".to_owned(), json!("Good morning"))]
                .into_iter()
                .collect(),
            progress: Mutex::default(),
            log: log_into_a_pipe()?,
            http: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()?,
            redis: redis::Client::open(services.redis_url.as_str())?
                .get_connection_manager()
                .await?,
            queues: services.queues().await?,
            postgres: PgPoolOptions::new()
                .max_connections(2)
                .connect(&services.database_url)
                .await?,
            mail,
        })
    }

    pub async fn sample(&mut self, capability: &str, calls: u32) -> anyhow::Result<Duration> {
        let (payload, secret) = (&self.payload, self.secret.as_bytes());
        Ok(match capability {
            "log.write" => tracing::dispatcher::with_default(&self.log, || {
                timed!(
                    calls,
                    tracing::info!(
                        plugin = "native",
                        fields = "order=4711",
                        "sent to the customer"
                    )
                )
            }),
            "progress.report" => timed!(calls, {
                let value = std::hint::black_box("50").to_owned();
                ensure!(matches!(
                    serde_json::from_str(&value)?,
                    Value::Number(_) | Value::Object(_)
                ));
                *self.progress.lock().expect("nobody panics") = Some(value);
            }),
            "settings.get" => timed!(calls, {
                ensure!(
                    self.settings
                        .get(std::hint::black_box("greeting"))
                        .map(Value::to_string)
                        .is_some()
                );
            }),
            "secrets.sign-hmac" => {
                timed!(
                    calls,
                    ensure!(
                        mac(secret, payload.as_bytes())
                            .finalize()
                            .into_bytes()
                            .len()
                            == 32
                    )
                )
            }
            "secrets.verify-hmac" => {
                let expected = mac(secret, payload.as_bytes()).finalize().into_bytes();
                timed!(
                    calls,
                    mac(secret, payload.as_bytes()).verify_slice(&expected)?
                )
            }
            "secrets.matches" => timed!(calls, {
                let digest = |bytes: &[u8]| -> [u8; 32] { Sha256::digest(bytes).into() };
                ensure!(!bool::from(
                    digest(secret).ct_eq(&digest(payload.as_bytes()))
                ));
            }),
            "http.send" => timed!(calls, {
                let body = self.http.get(&self.url).send().await?.bytes().await?;
                ensure!(body.len() == payload.len());
            }),
            "kv.set" => timed!(
                calls,
                self.redis
                    .pset_ex::<_, _, ()>("native", payload, TTL_MS)
                    .await?
            ),
            "kv.get" => {
                self.redis
                    .pset_ex::<_, _, ()>("native", payload, TTL_MS)
                    .await?;
                timed!(
                    calls,
                    ensure!(self.redis.get::<_, Vec<u8>>("native").await? == payload.as_bytes())
                )
            }
            "queue.enqueue" => timed!(
                calls,
                ensure!(self.queues.add(vec![sink(payload)?]).await?.len() == 1)
            ),
            "flows.enqueue" => timed!(calls, {
                let child = Flow {
                    job: sink(payload)?,
                    on_failure: ChildFailure::default(),
                    children: Vec::new(),
                };
                let flow = Flow {
                    children: vec![child],
                    job: sink(payload)?,
                    on_failure: ChildFailure::default(),
                };
                ensure!(self.queues.add_flow(flow).await?.len() == 2);
            }),
            "sql.query" => timed!(calls, {
                let query =
                    sqlx::query_scalar::<_, String>("select name from bench.notes where id = $1")
                        .bind(1_i64);
                query.fetch_one(&self.postgres).await?;
            }),
            "sql.execute" => timed!(calls, {
                let update = sqlx::query("update bench.notes set name = $1 where id = $2")
                    .bind(payload)
                    .bind(2_i64);
                ensure!(update.execute(&self.postgres).await?.rows_affected() == 1);
            }),
            "sql.batch" => timed!(calls, {
                let mut transaction = self.postgres.begin().await?;
                for id in [3_i64, 4] {
                    let update = sqlx::query("update bench.notes set name = $1 where id = $2")
                        .bind(payload)
                        .bind(id);
                    ensure!(update.execute(&mut *transaction).await?.rows_affected() == 1);
                }
                transaction.commit().await?;
            }),
            "smtp.send" => {
                let envelope = Envelope::new(
                    Some("bench@example.org".parse()?),
                    vec!["ada@example.org".parse()?],
                )?;
                let mail = format!(
                    "From: bench@example.org\r\nTo: ada@example.org\r\nSubject: bench\r\n\r\n{payload}\r\n"
                );
                timed!(
                    calls,
                    ensure!(
                        self.mail
                            .send(&envelope, mail.as_bytes())
                            .await?
                            .is_positive()
                    )
                )
            }
            other => bail!("no native {other}"),
        })
    }
}

fn mac(key: &[u8], data: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac
}

fn sink(payload: &str) -> anyhow::Result<NewJob> {
    Ok(NewJob::new(
        "benchSink".parse()?,
        "nothing",
        json!({ "filler": payload }).to_string(),
    ))
}

/// As the host logs: JSON, one write per line, into a pipe that somebody reads.
fn log_into_a_pipe() -> anyhow::Result<Dispatch> {
    let (mut reader, writer): (_, PipeWriter) = std::io::pipe()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 8 << 10];
        while reader.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
    });
    let layer = fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_writer(Mutex::new(writer));
    Ok(Dispatch::new(tracing_subscriber::registry().with(layer)))
}
