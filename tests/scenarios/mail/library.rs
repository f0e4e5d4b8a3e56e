//! Templates in the database: from the request that makes one to the mail, and what is written down
//! of it.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sqlx::Row;

use crate::commands::json_of;
use crate::harness::{Host, World, email_plugin, repository, until};
use crate::people::{PEOPLE, verified};

const TEMPLATES: &str = "/api/sales/email-templates";
const QUEUE: &str = "emailQueue";

/// A host with the plugin, its trail, and accounts.
pub(super) struct Office {
    pub(super) world: World,
    pub(super) host: Host,
}

impl Office {
    pub(super) async fn new(env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let world = World::new().await?;
        let env: Vec<(&str, &str)> = PEOPLE.iter().copied().chain(env.iter().copied()).collect();
        let host = world.host(&env).await?;
        let pack = repository().join("deploy/trails/lead_email_log.json");
        let pack = pack.to_str().context("a path")?;
        json_of(&host, &["--json", "audit", "trail", "install", pack]).await?;
        Ok(Self { world, host })
    }

    /// The plugin begins to send: after the accounts were made, since their codes are read from jobs
    /// that wait.
    pub(super) async fn open(&self) -> anyhow::Result<()> {
        self.open_with(email_plugin()?).await
    }

    /// As [`open`](Self::open), with the plugin in another form.
    pub(super) async fn open_with(&self, plugin: Vec<u8>) -> anyhow::Result<()> {
        self.host.deploy("email", plugin).await?;
        until(Duration::from_secs(20), "an idle queue", async || {
            let (_, queue) = self.host.get(&format!("/api/admin/queues/{QUEUE}")).await?;
            let counts = &queue["data"]["counts"];
            let open = ["waiting", "active", "prioritized"]
                .iter()
                .map(|name| counts[name].as_u64());
            Ok((open.flatten().sum::<u64>() == 0 && counts.is_object()).then_some(()))
        })
        .await
    }

    /// The token of an account with this role.
    pub(super) async fn account(&self, name: &str, role: &str) -> anyhow::Result<String> {
        let body = verified(&self.world, &self.host, &format!("{name}@example.com")).await?;
        let id = body["user"]["id"].as_str().context("an id")?;
        let path = format!("/api/admin/people/{id}/role");
        let (status, answer) = self.host.put(&path, json!({ "role": role })).await?;
        ensure!(status == 200, "{answer}");
        Ok(body["token"].as_str().context("a token")?.to_owned())
    }

    pub(super) async fn ask(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(u16, Value)> {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let mut request = self
            .host
            .http
            .request(method, self.host.url.clone() + path)
            .bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        println!(
            "{path}: {status} {}",
            text.chars().take(300).collect::<String>()
        );
        Ok((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    pub(super) async fn added(&self, name: &str, data: Value) -> anyhow::Result<String> {
        let backoff = json!({ "type": "fixed", "delayMs": 10 });
        let job = json!({ "name": name, "data": data, "attempts": 5, "backoff": backoff });
        self.host.add(QUEUE, job).await
    }

    /// Why the job has failed for good.
    pub(super) async fn reason(&self, id: &str) -> anyhow::Result<String> {
        let story = self.host.job_in(QUEUE, id, "failed").await?;
        let reason = story["job"]["failedReason"].as_str();
        Ok(reason.context("a reason")?.to_owned())
    }

    /// Status and reply code of a row of `emails_sent`, once it is there in that status.
    pub(super) async fn row(
        &self,
        to: &str,
        status: &str,
    ) -> anyhow::Result<(String, Option<i32>, String)> {
        let mut database = self.world.database().await?;
        until(Duration::from_secs(20), &format!("{to} as {status}"), async || {
            let row = sqlx::query(
                "select message_id, reply_code, reply from public.emails_sent where to_address = $1 and status = $2 \
                 order by tried_at desc limit 1",
            )
            .bind(to)
            .bind(status)
            .fetch_optional(&mut database)
            .await?;
            Ok(row.map(|row| (row.get(0), row.get(1), row.get::<Option<String>, _>(2).unwrap_or_default())))
        })
        .await
    }
}

#[tokio::test]
async fn a_template_is_made_tried_changed_used_restored_and_removed() -> anyhow::Result<()> {
    let office = Office::new(&[]).await?;
    let sales = office.account("sales", "sales").await?;
    let user = office.account("user", "user").await?;
    office.open().await?;
    for (token, expected) in [(user.as_str(), 403), ("nobody", 401)] {
        let (status, _) = office.ask(token, "GET", TEMPLATES, None).await?;
        assert_eq!(status, expected);
    }

    // What could not be sent is refused when it is saved.
    let draft = |html: &str| json!({ "name": "offer", "subject": "For {{ name }}", "html": html, "sample": { "name": "Asha", "courses": ["SQL"] } });
    for (html, field) in [
        ("<p>{% if %}", "html: line 1"),
        ("<p>{{ phone }}</p>", "variables.phone: is missing"),
        ("{{ name|safe }}", "html: line 1"),
    ] {
        let (status, refused) = office
            .ask(&sales, "POST", TEMPLATES, Some(draft(html)))
            .await?;
        let message = refused["message"].as_str().unwrap_or_default();
        assert!(
            status == 400 && message.contains(field),
            "{html}: {refused}"
        );
    }
    let html = "<p>{{ name }}</p>{% for one in courses %}<i>{{ one }}</i>{% endfor %}";
    let (status, made) = office
        .ask(&sales, "POST", TEMPLATES, Some(draft(html)))
        .await?;
    assert_eq!(
        (status, &made["data"]["version"]),
        (201, &json!(1)),
        "{made}"
    );
    let (status, again) = office
        .ask(&sales, "POST", TEMPLATES, Some(draft(html)))
        .await?;
    assert_eq!(
        (status, &again["code"]),
        (409, &json!("conflict")),
        "{again}"
    );
    let one = format!(
        "{TEMPLATES}/{}",
        made["data"]["id"].as_str().context("an id")?
    );

    // A change is a new version; of two at once, one is told.
    let change = json!({ "subject": "Only for {{ name }}", "version": 1 });
    let (status, changed) = office
        .ask(&sales, "PUT", &one, Some(change.clone()))
        .await?;
    assert_eq!(
        (status, &changed["data"]["version"]),
        (200, &json!(2)),
        "{changed}"
    );
    let (status, _) = office.ask(&sales, "PUT", &one, Some(change)).await?;
    assert_eq!(status, 409);
    let (_, listed) = office.ask(&sales, "GET", TEMPLATES, None).await?;
    assert_eq!(
        listed["data"]["templates"][0]["subject"],
        "Only for {{ name }}"
    );

    let evil = json!({ "variables": { "name": "<b>", "courses": ["a&b", "c"] } });
    let (_, seen) = office
        .ask(&sales, "POST", &format!("{one}/preview"), Some(evil))
        .await?;
    assert_eq!(
        seen["data"]["html"],
        "<p>&lt;b&gt;</p><i>a&amp;b</i><i>c</i>"
    );
    let unsaved = json!({ "subject": "{{ a }}", "text": "t", "variables": { "a": "x" } });
    let (_, seen) = office
        .ask(
            &sales,
            "POST",
            &format!("{TEMPLATES}/preview"),
            Some(unsaved),
        )
        .await?;
    assert_eq!(seen["data"]["subject"], "x");

    // A job names it, or one of its versions.
    let job = |to: &str, extra: Value| {
        let mut data = json!({ "to": to, "template": "offer", "variables": { "name": "Ravi", "courses": [] } });
        data.as_object_mut()
            .expect("an object")
            .extend(extra.as_object().cloned().expect("an object"));
        data
    };
    let lead = json!({ "leadId": "lead-7", "recipientId": "lead-7", "sentBy": "u-1" });
    let newest = office
        .added("template", job("new@example.com", lead))
        .await?;
    let pinned = office
        .added(
            "template",
            job("old@example.com", json!({ "templateVersion": 1 })),
        )
        .await?;
    for id in [&newest, &pinned] {
        office.host.job_in(QUEUE, id, "completed").await?;
    }
    let subject = |to: &str| {
        let mails = office.world.mail.list();
        let mail = mails
            .iter()
            .rev()
            .find(|mail| mail.to.iter().any(|one| one.contains(to)));
        mail.map(|mail| mail.subject.clone())
    };
    assert_eq!(subject("new@").as_deref(), Some("Only for Ravi"));
    assert_eq!(subject("old@").as_deref(), Some("For Ravi"));
    let missing =
        json!({ "to": "a@example.com", "template": "offer", "variables": { "courses": [] } });
    let missing = office.added("template", missing).await?;
    assert_eq!(
        office.reason(&missing).await?,
        "invalid-input: variables.name: is missing; the template needs it"
    );

    // What became of it is written down, and the lead's trail has it without an address.
    let (message_id, code, _) = office.row("new@example.com", "sent").await?;
    assert!(
        message_id.starts_with('<') && code == Some(250),
        "{message_id} {code:?}"
    );
    let entries = until(Duration::from_secs(20), "an entry", async || {
        let entries = json_of(
            &office.host,
            &["--json", "audit", "list", "--trail", "lead_email_log"],
        )
        .await?;
        Ok(entries.to_string().contains("lead-7").then_some(entries))
    })
    .await?
    .to_string();
    assert!(
        entries.contains(&message_id) && entries.contains("\"sent\""),
        "{entries}"
    );
    assert!(!entries.contains("new@example.com"), "{entries}");

    // A test goes to whoever asks.
    let (status, test) = office
        .ask(&sales, "POST", &format!("{one}/test"), Some(json!({})))
        .await?;
    assert_eq!(status, 202, "{test}");
    let id = test["data"]["jobId"].as_str().context("a job")?;
    office.host.job_in(QUEUE, id, "completed").await?;
    assert_eq!(subject("sales@").as_deref(), Some("Only for Asha"));

    let (status, restored) = office
        .ask(
            &sales,
            "POST",
            &format!("{one}/restore"),
            Some(json!({ "version": 1 })),
        )
        .await?;
    assert_eq!(
        (status, &restored["data"]["version"]),
        (200, &json!(3)),
        "{restored}"
    );
    assert_eq!(restored["data"]["subject"], "For {{ name }}");
    let (_, versions) = office
        .ask(&sales, "GET", &format!("{one}/versions"), None)
        .await?;
    assert_eq!(
        versions["data"]["versions"].as_array().map(Vec::len),
        Some(3),
        "{versions}"
    );
    let (status, _) = office.ask(&sales, "DELETE", &one, None).await?;
    assert_eq!(status, 204);
    let gone = office
        .added("template", job("new@example.com", json!({})))
        .await?;
    assert!(
        office
            .reason(&gone)
            .await?
            .starts_with("invalid-input: template:")
    );
    let (status, _) = office
        .ask(&sales, "POST", &format!("{one}/restore"), Some(json!({})))
        .await?;
    assert_eq!(status, 200);
    let back = office
        .added("template", job("back@example.com", json!({})))
        .await?;
    office.host.job_in(QUEUE, &back, "completed").await?;
    Ok(())
}
