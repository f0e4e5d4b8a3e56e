//! Plugins are published to and pulled from an OCI registry: Debian's docker-registry, local HTTP.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context;
use patchbay_model::RevisionDigest;
use patchbay_model::signature::PrivateKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, binary, email_plugin, mail_job, until, variant};

const USER: &str = "publisher";
const PASSWORD: &str = "a-registry-password";
/// bcrypt of [`PASSWORD`].
const HTPASSWD: &str = "publisher:$2b$05$0svDRf1i4go6f5VuaDpotepo57Tm7zhJulLRDVVGIfd/dEMNiUy3i\n";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";

struct Registry {
    _child: Child,
    address: String,
    dir: tempfile::TempDir,
    http: reqwest::Client,
}

impl Registry {
    async fn start(auth: bool) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let address = format!("127.0.0.1:{port}");
        let root = dir.path().display();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: {address}\n"
        );
        if auth {
            std::fs::write(dir.path().join("htpasswd"), HTPASSWD)?;
            config.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: tests\n    path: {root}/htpasswd\n"
            ));
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config)?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let child = command
            .spawn()
            .context("no docker-registry: run `make test`")?;
        // The first test of this process installs it; later ones get an error.
        let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build()?;
        let registry = Self {
            _child: child,
            address,
            dir,
            http,
        };
        until(Duration::from_secs(30), "the registry", async || {
            Ok(registry
                .http
                .get(registry.url(""))
                .send()
                .await
                .ok()
                .map(drop))
        })
        .await?;
        Ok(registry)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// `oci://…`
    fn named(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }

    /// The file of a blob.
    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.dir.path().join(format!(
            "data/docker/registry/v2/blobs/sha256/{}/{hex}/data",
            &hex[..2]
        ))
    }

    /// Over plain HTTP, as a client with another layout does it; returns the descriptor.
    async fn put_blob(
        &self,
        repository: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> anyhow::Result<Value> {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        let begun = self
            .http
            .post(self.url(&format!("{repository}/blobs/uploads/")))
            .send()
            .await?;
        let mut place: reqwest::Url = begun.headers()["location"].to_str()?.parse()?;
        place.query_pairs_mut().append_pair("digest", &digest);
        let put = self.http.put(place).body(bytes.to_vec()).send().await?;
        anyhow::ensure!(put.status() == 201, "{}", put.status());
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }

    async fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        config: &Value,
        layers: &[Value],
    ) -> anyhow::Result<()> {
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers });
        let put = self
            .http
            .put(self.url(&format!("{repository}/manifests/{tag}")));
        let put = put
            .header("content-type", MANIFEST_TYPE)
            .body(manifest.to_string())
            .send()
            .await?;
        anyhow::ensure!(put.status() == 201, "{}", put.text().await?);
        Ok(())
    }

    async fn manifest(&self, repository: &str, tag: &str) -> anyhow::Result<Value> {
        let got = self
            .http
            .get(self.url(&format!("{repository}/manifests/{tag}")))
            .header("accept", MANIFEST_TYPE);
        Ok(got.send().await?.error_for_status()?.json().await?)
    }
}

fn written(dir: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<String> {
    let path = dir.join(name);
    std::fs::write(&path, bytes)?;
    Ok(path.to_str().context("a path")?.to_owned())
}

async fn refused(host: &Host, from: &str, code: i32) -> anyhow::Result<String> {
    let output = patchbay(host, &["plugin", "push", from]).await?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{from}: {text}");
    Ok(text)
}

#[tokio::test]
async fn a_published_plugin_is_pushed_by_tag_and_by_digest_and_runs() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let registry = Registry::start(false).await?;
    let component = email_plugin()?;
    let file = written(world.dir.path(), "email.wasm", &component)?;
    let key = PrivateKey::generate();
    let signature = key.sign(&RevisionDigest::of(&component)).to_string();
    written(
        world.dir.path(),
        "email.wasm.sig",
        format!("{signature}\n").as_bytes(),
    )?;

    let tag = registry.named("plugins/email:0.1.0");
    let published = json_of(&host, &["--json", "plugin", "publish", &file, &tag]).await?;
    let by_digest = published["published"]
        .as_str()
        .context("a name")?
        .to_owned();
    assert!(
        by_digest.starts_with(&format!("{tag}@sha256:")),
        "{by_digest}"
    );
    let again = json_of(&host, &["--json", "plugin", "publish", &file, &tag]).await?;
    assert_eq!(
        again["published"], by_digest,
        "the same file gives the same manifest"
    );

    // What other clients that know the layout find.
    let manifest = registry.manifest("plugins/email", "0.1.0").await?;
    assert_eq!(manifest["config"]["mediaType"], CONFIG_TYPE);
    let layer = json!({
        "mediaType": "application/wasm", "digest": format!("sha256:{}", RevisionDigest::of(&component)), "size": component.len(),
    });
    assert_eq!(manifest["layers"], json!([layer]));
    assert_eq!(
        manifest["annotations"]["org.opencontainers.image.title"],
        "email"
    );
    let config = manifest["config"]["digest"].as_str().context("a digest")?;
    let config: Value = registry
        .http
        .get(registry.url(&format!("plugins/email/blobs/{config}")))
        .send()
        .await?
        .json()
        .await?;
    assert_eq!(
        (&config["architecture"], &config["os"]),
        (&json!("wasm"), &json!("wasip2"))
    );
    assert_eq!(config["layerDigests"], json!([layer["digest"]]));
    let exports = config["component"]["exports"]
        .as_array()
        .context("exports")?;
    assert!(
        exports
            .iter()
            .any(|export| export.as_str().is_some_and(|name| name.contains("jobs"))),
        "{config}"
    );

    let staged = json_of(&host, &["--json", "plugin", "push", &tag]).await?;
    assert_eq!(
        staged["digest"], published["digest"],
        "the revision is the layer"
    );
    assert_eq!(staged["source"], by_digest);
    assert_eq!(
        staged["signatures"][0]["keyId"],
        key.public().id().to_string(),
        "signatures travel along"
    );
    // By the name that `publish` prints.
    let activated = json_of(
        &host,
        &[
            "--json",
            "plugin",
            "push",
            &by_digest,
            "--activate",
            "--grant",
        ],
    )
    .await?;
    assert_eq!(activated["digest"], published["digest"]);

    let id = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(1) }))
        .await?;
    host.job_in("emailQueue", &id, "completed").await?;
    assert_eq!(world.mail.count(), 1);
    let sources: Vec<Option<String>> = sqlx::query_scalar(
        "select details->>'source' from patchbay.operator_actions where action = 'plugin.push' order by id",
    )
    .fetch_all(&mut world.database().await?)
    .await?;
    assert_eq!(
        sources,
        [Some(by_digest.clone()), Some(by_digest)],
        "the record says where each came from"
    );
    let endless = host
        .http
        .post(format!("{}/api/admin/plugins", host.url))
        .header("x-patchbay-source", "x".repeat(2_000));
    let (status, answer) = host.request(endless.body(component)).await?;
    assert_eq!(
        (
            status,
            answer["message"]
                .as_str()
                .is_some_and(|text| text.contains("x-patchbay-source"))
        ),
        (400, true)
    );
    Ok(())
}

#[tokio::test]
async fn what_a_registry_does_not_have_or_is_no_plugin_is_refused_and_says_why()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let registry = Registry::start(false).await?;
    let component = email_plugin()?;
    let file = written(world.dir.path(), "email.wasm", &component)?;
    json_of(
        &host,
        &[
            "--json",
            "plugin",
            "publish",
            &file,
            &registry.named("plugins/email:1"),
        ],
    )
    .await?;

    let text = refused(&host, &registry.named("plugins/email:2"), 3).await?;
    assert!(
        text.contains("plugins/email:2 does not exist in the registry"),
        "{text}"
    );
    let text = refused(&host, &registry.named("plugins/nothing:1"), 3).await?;
    assert!(text.contains("plugins/nothing:1"), "{text}");
    let unknown = format!("plugins/email@sha256:{}", "0".repeat(64));
    refused(&host, &registry.named(&unknown), 3).await?;

    let image_config = registry
        .put_blob(
            "images/web",
            "application/vnd.oci.image.config.v1+json",
            b"{}",
        )
        .await?;
    let tar = registry
        .put_blob(
            "images/web",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            b"a layer",
        )
        .await?;
    registry
        .put_manifest("images/web", "1", &image_config, &[tar])
        .await?;
    let text = refused(&host, &registry.named("images/web:1"), 4).await?;
    assert!(
        text.contains("is not a plugin but") && text.contains("image.config.v1"),
        "{text}"
    );

    let config = registry.put_blob("odd", CONFIG_TYPE, b"{}").await?;
    let text_layer = registry.put_blob("odd", "text/plain", b"text").await?;
    let wasm = registry
        .put_blob("odd", "application/wasm", &component)
        .await?;
    registry
        .put_manifest("odd", "text", &config, &[text_layer])
        .await?;
    assert!(
        refused(&host, &registry.named("odd:text"), 4)
            .await?
            .contains("text/plain")
    );
    registry
        .put_manifest("odd", "two", &config, &[wasm.clone(), wasm.clone()])
        .await?;
    assert!(
        refused(&host, &registry.named("odd:two"), 4)
            .await?
            .contains("2 layers")
    );
    registry.put_manifest("odd", "none", &config, &[]).await?;
    assert!(
        refused(&host, &registry.named("odd:none"), 4)
            .await?
            .contains("0 layers")
    );

    // Refused by the size in the manifest; no blob of that size exists.
    let mut large = wasm.clone();
    large["size"] = json!((64_u64 << 20) + 1);
    registry
        .put_manifest("odd", "large", &config, &[large])
        .await?;
    let text = refused(&host, &registry.named("odd:large"), 4).await?;
    assert!(
        text.contains("67108865 bytes, more than 67108864"),
        "{text}"
    );
    // And refused by the actual size, whatever the manifest says.
    let mut bomb = registry
        .put_blob("odd", "application/wasm", &vec![0; (64 << 20) + 1])
        .await?;
    bomb["size"] = json!(1_000);
    registry
        .put_manifest("odd", "bomb", &config, &[bomb])
        .await?;
    let text = refused(&host, &registry.named("odd:bomb"), 4).await?;
    assert!(text.contains("more than"), "{text}");

    // The host refuses a bad component as if it came from a file.
    let junk = registry
        .put_blob("odd", "application/wasm", b"no component")
        .await?;
    registry
        .put_manifest("odd", "junk", &config, &[junk])
        .await?;
    assert!(
        refused(&host, &registry.named("odd:junk"), 4)
            .await?
            .contains("not a WebAssembly component")
    );
    let (_, plugins) = host.get("/api/admin/plugins").await?;
    assert_eq!(plugins["data"], json!([]), "nothing of all this is kept");
    Ok(())
}

#[tokio::test]
async fn what_was_changed_on_the_registrys_disk_is_not_taken() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let registry = Registry::start(false).await?;
    let file = written(world.dir.path(), "email.wasm", &email_plugin()?)?;
    let tag = registry.named("plugins/email:1");
    let published = json_of(&host, &["--json", "plugin", "publish", &file, &tag]).await?;
    let layer = registry.blob(published["digest"].as_str().context("a digest")?);
    // Still a component of the same size, but not the published one.
    let mut changed = std::fs::read(&layer)?;
    let at = changed
        .windows(5)
        .position(|bytes| bytes == b"email")
        .context("the name is in it")?;
    changed[at] = b'E';
    std::fs::write(&layer, changed)?;
    let text = refused(&host, &tag, 4).await?;
    assert!(
        text.contains("sent other content than requested: expected sha256:"),
        "{text}"
    );
    // A changed manifest is refused too, if its digest was asked for.
    let name = published["published"].as_str().context("a name")?;
    let digest = name.split_once('@').context("a digest")?.1;
    let manifest = registry.blob(digest);
    let text = std::fs::read_to_string(&manifest)?.replace("\"email\"", "\"ernail\"");
    std::fs::write(&manifest, text)?;
    let exact = registry.named(&format!("plugins/email@{digest}"));
    let text = refused(&host, &exact, 4).await?;
    assert!(
        text.contains("sent other content than requested: expected sha256:"),
        "{text}"
    );
    let (_, plugins) = host.get("/api/admin/plugins").await?;
    assert_eq!(plugins["data"], json!([]));
    Ok(())
}

#[tokio::test]
async fn what_a_manifest_says_elsewhere_is_not_fetched() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let registry = Registry::start(false).await?;
    let component = email_plugin()?;
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let config = registry.put_blob("odd", CONFIG_TYPE, b"{}").await?;
    let mut layer = registry
        .put_blob("odd", "application/wasm", &component)
        .await?;
    let digest = layer["digest"].as_str().context("a digest")?.to_owned();
    layer["urls"] = json!([format!("http://{}/component.wasm", elsewhere.local_addr()?)]);
    registry
        .put_manifest("odd", "away", &config, &[layer])
        .await?;
    std::fs::remove_file(registry.blob(&digest))?;
    let from = registry.named("odd:away");
    tokio::select! {
        refused = refused(&host, &from, 3) => assert!(refused?.contains("does not exist in the registry"), "its registry has lost it"),
        _ = elsewhere.accept() => panic!("it was asked for elsewhere"),
    }
    Ok(())
}

#[tokio::test]
async fn a_registry_that_is_away_or_names_nothing_is_reported_as_such() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let text = refused(&host, &format!("oci://{closed}/plugins/email:1"), 5).await?;
    assert!(
        text.contains(&format!("cannot reach {closed}")) && text.contains("refused"),
        "{text}"
    );
    let text = refused(&host, "oci://elsewhere.invalid/plugins/email:1", 5).await?;
    assert!(text.contains("cannot reach elsewhere.invalid: "), "{text}");
    for unnamed in [
        "oci://",
        "oci://email:1",
        "oci://acme/email:1",
        "oci://elsewhere.invalid/Upper:1",
    ] {
        assert!(
            refused(&host, unnamed, 4)
                .await?
                .contains("oci://HOST/REPOSITORY:TAG")
        );
    }
    let file = written(world.dir.path(), "email.wasm", &email_plugin()?)?;
    for untagged in [
        "oci://elsewhere.invalid/a",
        &format!("oci://elsewhere.invalid/a@sha256:{}", "0".repeat(64)),
    ] {
        let output = patchbay(&host, &["plugin", "publish", &file, untagged]).await?;
        assert_eq!(output.status.code(), Some(4));
        assert!(String::from_utf8_lossy(&output.stderr).contains("under a tag"));
    }
    Ok(())
}

#[tokio::test]
async fn other_machines_are_spoken_to_over_tls_unless_told_otherwise() -> anyhow::Result<()> {
    // A proxy sees the requests to a machine that does not exist. Each command has its own proxy,
    // as it may call more than once before it is killed.
    let asked = async |plain: &[&str]| -> anyhow::Result<(String, u8)> {
        let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", proxy.local_addr()?);
        let mut command = Command::new(binary());
        command
            .args(["plugin", "push", "oci://elsewhere.invalid/plugins/email:1"])
            .args(plain)
            .env_clear();
        command
            .env("HTTPS_PROXY", &address)
            .env("HTTP_PROXY", &address)
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let _command = command.spawn()?;
        let mut client = BufReader::new(proxy.accept().await?.0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            anyhow::ensure!(
                client.read_line(&mut head).await? > 0,
                "it ended after {head}"
            );
        }
        let line = head.lines().next().unwrap_or_default().to_owned();
        if line.starts_with("GET") {
            return Ok((line, 0));
        }
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        Ok((line, client.read_u8().await?))
    };
    let handshake = 22;
    assert_eq!(
        asked(&[]).await?,
        (
            "CONNECT elsewhere.invalid:443 HTTP/1.1".to_owned(),
            handshake
        )
    );
    let (line, _) = asked(&["--plain-http"]).await?;
    assert!(
        line.starts_with("GET http://elsewhere.invalid/v2/"),
        "{line}"
    );
    Ok(())
}

/// Gets only this environment, and nothing of the machine that the test runs on.
async fn publish(dir: &Path, file: &str, to: &str, env: &[(&str, &str)]) -> anyhow::Result<Output> {
    let mut command = Command::new(std::path::absolute(binary())?);
    command
        .args(["plugin", "publish", file, to])
        .env_clear()
        .envs(env.iter().copied())
        .env("HOME", dir);
    Ok(command.current_dir(dir).output().await?)
}

#[tokio::test]
async fn credentials_come_from_the_environment_or_from_docker_and_are_never_shown()
-> anyhow::Result<()> {
    let registry = Registry::start(true).await?;
    let home = tempfile::tempdir()?;
    let dir = home.path();
    let file = written(dir, "email.wasm", &variant(&email_plugin()?, "registry"))?;
    let to = registry.named("plugins/email:1");
    let said = |output: &Output| {
        let all = [output.stdout.clone(), output.stderr.clone()].concat();
        String::from_utf8_lossy(&all).into_owned()
    };
    let refused = |output: &Output| {
        let text = said(output);
        assert_eq!(output.status.code(), Some(4), "{text}");
        assert!(text.contains("does not accept the credentials"), "{text}");
        assert!(
            !text.contains(PASSWORD) && !text.contains("wrong-password"),
            "{text}"
        );
    };
    refused(&publish(dir, &file, &to, &[]).await?);
    let wrong = [
        ("PATCHBAY_REGISTRY_USER", USER),
        ("PATCHBAY_REGISTRY_PASSWORD", "wrong-password"),
    ];
    refused(&publish(dir, &file, &to, &wrong).await?);
    let right = [
        ("PATCHBAY_REGISTRY_USER", USER),
        ("PATCHBAY_REGISTRY_PASSWORD", PASSWORD),
    ];
    let published = publish(dir, &file, &to, &right).await?;
    assert!(published.status.success(), "{}", said(&published));

    let auth = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        format!("{USER}:{PASSWORD}"),
    );
    std::fs::create_dir(dir.join(".docker"))?;
    let config = json!({ "auths": { &registry.address: { "auth": auth } } });
    std::fs::write(dir.join(".docker/config.json"), config.to_string())?;
    let published = publish(dir, &file, &to, &[]).await?;
    assert!(published.status.success(), "{}", said(&published));
    let elsewhere = dir.join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    refused(
        &publish(
            dir,
            &file,
            &to,
            &[("DOCKER_CONFIG", elsewhere.to_str().context("a path")?)],
        )
        .await?,
    );
    std::fs::write(elsewhere.join("config.json"), "{ broken")?;
    let broken = publish(
        dir,
        &file,
        &to,
        &[("DOCKER_CONFIG", elsewhere.to_str().context("a path")?)],
    )
    .await?;
    assert_eq!(broken.status.code(), Some(4));
    assert!(
        said(&broken).contains("Docker's config.json"),
        "{}",
        said(&broken)
    );
    assert!(
        said(&broken).contains("elsewhere/config.json): key must be a string"),
        "{}",
        said(&broken)
    );
    for (config, words) in [
        (
            json!({ "auths": { &registry.address: { "auth": "!" } } }),
            "are not USER:PASSWORD in base64",
        ),
        (
            json!({ "credHelpers": { &registry.address: "nobody-has-it" } }),
            "it names a credential helper",
        ),
    ] {
        std::fs::write(elsewhere.join("config.json"), config.to_string())?;
        let broken = publish(
            dir,
            &file,
            &to,
            &[("DOCKER_CONFIG", elsewhere.to_str().context("a path")?)],
        )
        .await?;
        assert!(
            said(&broken).contains(words) && !said(&broken).contains(PASSWORD),
            "{}",
            said(&broken)
        );
    }
    let nameless = publish(dir, &file, to.trim_start_matches("oci://"), &[]).await?;
    assert_eq!(nameless.status.code(), Some(4), "{}", said(&nameless));
    Ok(())
}
