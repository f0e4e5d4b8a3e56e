//! HTTPS of the host itself: real clients, renewal without a restart, wrong files, and clients that
//! never finish their handshake.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Host, PASSWORD, USER, World, until};

/// The host reads the files every 10 s.
const SOON: Duration = Duration::from_secs(40);

/// An authority in the world's directory, and what it signs.
struct Authority {
    dir: PathBuf,
}

async fn run(program: &str, arguments: &[&str], dir: &Path) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .await?;
    let text =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    let text = text.concat();
    ensure!(output.status.success(), "{program} {arguments:?}: {text}");
    Ok(text)
}

impl Authority {
    async fn new(world: &World) -> anyhow::Result<Self> {
        let dir = world.dir.path().to_owned();
        let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=authority";
        run("openssl", &make.split(' ').collect::<Vec<_>>(), &dir).await?;
        Ok(Self { dir })
    }

    /// Writes `<name>.pem` and `<name>.key`, valid for so many days.
    async fn sign(&self, name: &str, days: &str) -> anyhow::Result<()> {
        let subject = format!("/CN={name}");
        let (key, request, certificate) = (
            format!("{name}.key"),
            format!("{name}.csr"),
            format!("{name}.pem"),
        );
        let make = [
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ];
        let into = ["-keyout", &key, "-out", &request, "-subj", &subject];
        run("openssl", &[&make[..], &into[..]].concat(), &self.dir).await?;
        std::fs::write(
            self.dir.join("names"),
            "subjectAltName=IP:127.0.0.1,DNS:patchbay.example\n",
        )?;
        let sign = [
            "x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key",
        ];
        let into = ["-days", days, "-extfile", "names", "-out", &certificate];
        run("openssl", &[&sign[..], &into[..]].concat(), &self.dir).await?;
        self.allow(&key, 0o600)
    }

    fn allow(&self, key: &str, mode: u32) -> anyhow::Result<()> {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        Ok(std::fs::set_permissions(self.dir.join(key), permissions)?)
    }

    /// What the host serves from now on.
    fn install(&self, certificate: &str, key: &str) -> anyhow::Result<()> {
        for (from, to) in [(key, "served.key"), (certificate, "served.pem")] {
            // Replaced in one step, as a tool that renews certificates does it.
            std::fs::copy(self.dir.join(from), self.dir.join("new"))?;
            std::fs::rename(self.dir.join("new"), self.dir.join(to))?;
        }
        Ok(())
    }

    fn env(&self) -> [(&'static str, String); 2] {
        let path = |name: &str| self.dir.join(name).display().to_string();
        [
            ("PATCHBAY_HTTP_TLS_CERT_FILE", path("served.pem")),
            ("PATCHBAY_HTTP_TLS_KEY_FILE", path("served.key")),
        ]
    }

    async fn host(&self, world: &World, env: &[(&str, &str)]) -> anyhow::Result<Host> {
        let files = self.env();
        let mut all: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        all.extend(env);
        let mut host = world.host(&all).await?;
        host.url = host.url.replace("http:", "https:");
        let authority = reqwest::Certificate::from_pem(&std::fs::read(self.dir.join("ca.pem"))?)?;
        host.http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([authority])
            .timeout(Duration::from_secs(60))
            .build()?;
        Ok(host)
    }

    /// A connection of our own, whose bytes the test decides.
    async fn connect(&self, host: &Host) -> anyhow::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.dir.join("ca.pem"))?)?;
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address(host)?).await?;
        let name = ServerName::try_from("patchbay.example")?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(tokio::time::timeout(SOON, connector.connect(name, stream)).await??)
    }

    /// The certificate that a new connection gets, by the name of its file.
    async fn served(&self, host: &Host, names: &[&str]) -> anyhow::Result<String> {
        let stream = self.connect(host).await?;
        let (_, session) = stream.get_ref();
        let served = session.peer_certificates().context("a certificate")?;
        let is = |name: &&&str| {
            CertificateDer::from_pem_file(self.dir.join(format!("{name}.pem")))
                .is_ok_and(|known| served.first() == Some(&known))
        };
        let name = names.iter().find(is).context("a known certificate")?;
        Ok((*name).to_owned())
    }
}

fn address(host: &Host) -> anyhow::Result<&str> {
    host.url.strip_prefix("https://").context("an address")
}

#[tokio::test]
async fn curl_openssl_and_node_use_https_from_tls_1_2_on_with_http_1_1() -> anyhow::Result<()> {
    let world = World::new().await?;
    let authority = Authority::new(&world).await?;
    authority.sign("first", "30").await?;
    authority.install("first.pem", "first.key")?;
    let host = authority.host(&world, &[]).await?;
    let url = format!("{}/livez", host.url);
    let curl = [
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--http2",
        "--cacert",
        "ca.pem",
    ];
    let format = ["--write-out", "%{http_code} %{http_version}", url.as_str()];
    let said = run("curl", &[&curl[..], &format[..]].concat(), &authority.dir).await?;
    ensure!(said.contains("200 1.1"), "{said}");
    let script = "require('https').get(process.argv[1], { ca: require('fs').readFileSync('ca.pem') }, (answer) => {
        console.log(answer.statusCode, answer.socket.getProtocol(), answer.socket.alpnProtocol);
        answer.resume();
    })";
    let said = run("node", &["-e", script, &url], &authority.dir).await?;
    ensure!(said.contains("200 TLSv1.3"), "{said}");
    let address = address(&host)?;
    for (version, works) in [("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
        let client = [
            "s_client", "-connect", address, "-CAfile", "ca.pem", version,
        ];
        let client = [
            &client[..],
            &["-alpn", "h2,http/1.1", "-cipher", "DEFAULT:@SECLEVEL=0"],
        ]
        .concat();
        let said = run("openssl", &client, &authority.dir).await;
        assert_eq!(said.is_ok(), works, "{version}: {said:?}");
        if let Ok(said) = said {
            ensure!(said.contains("ALPN protocol: http/1.1"), "{said}");
            ensure!(said.contains("Verify return code: 0"), "{said}");
        }
    }
    // Plain HTTP gets no answer of HTTP.
    let plain = host.http.get(url.replace("https:", "http:")).send().await;
    ensure!(plain.is_err(), "{plain:?}");
    let (status, _) = host.get("/api/admin/queues").await?;
    assert_eq!(status, 200);
    let page = host.metrics().await?;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("patchbay_tls_not_after_seconds "))
        .context("the metric")?;
    let days = (line.parse::<f64>()? - chrono::Utc::now().timestamp() as f64) / 86_400.0;
    ensure!((29.0..=30.0).contains(&days), "{days}");
    let files = authority.env();
    let env = files
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let (_, said) = world.output(&["doctor"], &env).await?;
    ensure!(
        said.contains("certificate for 127.0.0.1, patchbay.example, valid until"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_restart_and_requests_in_flight_go_on()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let authority = Authority::new(&world).await?;
    authority.sign("first", "30").await?;
    authority.sign("second", "30").await?;
    authority.install("first.pem", "first.key")?;
    let host = authority.host(&world, &[]).await?;
    let names = ["first", "second"];
    assert_eq!(authority.served(&host, &names).await?, "first");
    // A request of which the host has the head, and not all of the body.
    let mut open = authority.connect(&host).await?;
    let login = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        format!("{USER}:{PASSWORD}"),
    );
    let body = r#"{"name":"n","newQueue":true,"data":{}}"#;
    let head = format!(
        "POST /api/admin/queues/q/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    open.write_all(head.as_bytes()).await?;
    open.write_all(&body.as_bytes()[..5]).await?;
    open.flush().await?;
    // Other requests go on all the time; none of them fails.
    authority.install("second.pem", "second.key")?;
    until(SOON, "the new certificate", async || {
        let (status, _) = host.get("/api/admin/queues").await?;
        assert_eq!(status, 200);
        Ok((authority.served(&host, &names).await? == "second").then_some(()))
    })
    .await?;
    open.write_all(&body.as_bytes()[5..]).await?;
    open.flush().await?;
    let mut answer = String::new();
    tokio::time::timeout(SOON, open.read_to_string(&mut answer)).await??;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}

#[tokio::test]
async fn wrong_files_leave_the_certificate_before_in_place_and_an_alert_says_so()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let authority = Authority::new(&world).await?;
    authority.sign("first", "30").await?;
    authority.sign("second", "30").await?;
    authority.sign("ending", "20").await?;
    authority.install("first.pem", "first.key")?;
    let host = authority
        .host(&world, &[("PATCHBAY_ALERTS_EVERY_MS", "100")])
        .await?;
    let (status, answer) = host
        .put(
            "/api/admin/alerts/rules/tls-certificate",
            json!({ "holdS": 0 }),
        )
        .await?;
    assert_eq!(status, 200, "{answer}");
    let names = ["first", "second", "ending"];
    let fires = async || {
        let (_, answer) = host.get("/api/admin/alerts").await?;
        let alerts = answer["data"]["alerts"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let alert = alerts
            .into_iter()
            .find(|alert| alert["rule"] == "tls-certificate" && alert["state"] == "firing");
        anyhow::Ok(alert.map(|alert| alert.to_string()))
    };
    // The new certificate with the key of the old one.
    authority.install("second.pem", "first.key")?;
    let alert = until(SOON, "an alert", fires).await?;
    ensure!(alert.contains("does not belong to"), "{alert}");
    assert_eq!(authority.served(&host, &names).await?, "first");
    authority.install("second.pem", "second.key")?;
    until(SOON, "the new certificate", async || {
        Ok((authority.served(&host, &names).await? == "second").then_some(()))
    })
    .await?;
    until(SOON, "no alert", async || {
        Ok(fires().await?.is_none().then_some(()))
    })
    .await?;
    // One that ends within three weeks is served, and told.
    authority.install("ending.pem", "ending.key")?;
    let alert = until(SOON, "an alert", fires).await?;
    ensure!(alert.contains("ends in 19 days"), "{alert}");
    assert_eq!(authority.served(&host, &names).await?, "ending");
    Ok(())
}

#[tokio::test]
async fn a_host_does_not_start_with_files_that_cannot_be_used() -> anyhow::Result<()> {
    let world = World::new().await?;
    let authority = Authority::new(&world).await?;
    authority.sign("first", "30").await?;
    authority.sign("second", "30").await?;
    let files = authority.env();
    let env = files
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let refused = async |env: &[(&str, &str)], said: &str| {
        let (code, text) = world.output(&["serve"], env).await?;
        assert_ne!(code, Some(0));
        ensure!(text.contains(said), "{said}: {text}");
        anyhow::Ok(())
    };
    refused(&env, "No such file").await?;
    authority.install("first.pem", "second.key")?;
    refused(&env, "does not belong to the first certificate").await?;
    authority.install("first.pem", "first.key")?;
    authority.allow("served.key", 0o644)?;
    refused(&env, "chmod 600").await?;
    authority.allow("served.key", 0o600)?;
    refused(&env[..1], "belong together: set both or none").await?;
    Ok(())
}

#[tokio::test]
async fn a_thousand_clients_that_never_finish_their_handshake_keep_nobody_out_for_long()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let authority = Authority::new(&world).await?;
    authority.sign("first", "30").await?;
    authority.install("first.pem", "first.key")?;
    // All from one network, whose share is tested elsewhere.
    let share = ("PATCHBAY_HTTP_MAX_CONNECTIONS_PER_NETWORK", "2000");
    let host = authority.host(&world, &[share]).await?;
    let mut silent = Vec::new();
    for n in 0..1_000 {
        let mut stream = TcpStream::connect(address(&host)?).await?;
        if n % 2 == 0 {
            // The first bytes of a ClientHello.
            stream.write_all(&[0x16, 0x03, 0x01]).await?;
        }
        silent.push(stream);
    }
    let (status, _) = host.get("/api/admin/queues").await?;
    assert_eq!(status, 200, "a client that came after them");
    let mut rest = Vec::new();
    let first = silent.first_mut().context("a client")?;
    let ended = tokio::time::timeout(SOON, first.read_to_end(&mut rest)).await?;
    ensure!(
        ended.is_err() || rest.len() < 100,
        "it was cut off, perhaps with an alert of TLS"
    );
    Ok(())
}
