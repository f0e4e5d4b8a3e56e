//! `patchbay job add` and `patchbay job flow`: what they take, and the body that they send.

use anyhow::Context;
use clap::{Args, ValueEnum};
use patchbay_api::path::api_path;
use patchbay_model::shell::{arguments, word};
use reqwest::Method;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::Output;
use super::client::Client;
use super::input::given_json;
use super::view::{items, text};

#[derive(Args)]
pub struct AddArgs {
    /// The queue, for example emailQueue
    queue: String,
    /// The job's name, for example send
    name: String,
    /// Its data: JSON, @FILE, or - for standard input
    #[arg(default_value = "{}")]
    data: String,
    /// Its id: a second job with it is not added while the first is known
    #[arg(long)]
    id: Option<String>,
    /// Start no earlier than so many milliseconds from now
    #[arg(long, value_name = "MS")]
    delay_ms: Option<u64>,
    /// 1 (first) to 2097152; jobs without one come first; 0 overrides the manifest's
    #[arg(long)]
    priority: Option<u32>,
    /// Before everything that waits without priority
    #[arg(long)]
    lifo: bool,
    /// How often it may run in all
    #[arg(long)]
    attempts: Option<u32>,
    /// How delays between attempts grow
    #[arg(long, value_enum, requires = "backoff_ms")]
    backoff: Option<BackoffKind>,
    /// The first delay between attempts, milliseconds; fixed unless --backoff says otherwise
    #[arg(long, value_name = "MS")]
    backoff_ms: Option<u64>,
    /// No delay between attempts is longer
    #[arg(long, value_name = "MS", requires = "backoff_ms")]
    backoff_max_ms: Option<u64>,
    /// 0.0 to 1.0: share of the delay that is random
    #[arg(long, value_name = "SHARE", requires = "backoff_ms")]
    backoff_jitter: Option<f64>,
    /// Only one job per this id, while it is unfinished
    #[arg(long, value_name = "ID")]
    deduplicate: Option<String>,
    /// …or for so long
    #[arg(long, value_name = "MS", requires = "deduplicate")]
    deduplicate_ttl_ms: Option<u64>,
    /// Each repeat starts that time anew
    #[arg(long, requires = "deduplicate_ttl_ms")]
    deduplicate_extend: bool,
    /// While the first is still delayed, this one takes its place
    #[arg(long, requires = "deduplicate")]
    deduplicate_replace: bool,
    /// A repeat that comes while the first one runs is kept, and runs after it
    #[arg(long, requires = "deduplicate")]
    deduplicate_keep_last: bool,
    /// Do not run after this, Unix milliseconds
    #[arg(long, value_name = "UNIX_MS")]
    expires_at_ms: Option<u64>,
    /// Once completed: true removes it, false keeps it, or a number of jobs to keep, or {"age": seconds, "count": jobs}
    #[arg(long, value_name = "JSON")]
    remove_on_complete: Option<String>,
    /// Likewise once it has failed for good
    #[arg(long, value_name = "JSON")]
    remove_on_fail: Option<String>,
    /// Make the queue if nobody knows it yet
    #[arg(long)]
    new_queue: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackoffKind {
    Fixed,
    Exponential,
}

impl AddArgs {
    fn body(self) -> anyhow::Result<AddBody> {
        let data = given_json(self.data, "the data")?;
        let backoff = self.backoff_ms.map(|delay_ms| {
            let kind = match self.backoff {
                Some(BackoffKind::Exponential) => "exponential",
                Some(BackoffKind::Fixed) | None => "fixed",
            };
            json!({ "type": kind, "delayMs": delay_ms, "maxMs": self.backoff_max_ms, "jitter": self.backoff_jitter })
        });
        let deduplication = self.deduplicate.map(|id| {
            json!({
                "id": id, "ttlMs": self.deduplicate_ttl_ms, "extend": self.deduplicate_extend,
                "replace": self.deduplicate_replace, "keepLastIfActive": self.deduplicate_keep_last,
            })
        });
        let removal = |flag: &str, wish: Option<String>| {
            wish.map(|wish| serde_json::from_str::<Value>(&wish))
                .transpose()
                .with_context(|| format!("{flag} is not JSON"))
        };
        let options = [
            ("name", Some(self.name.into())),
            ("id", self.id.map(Value::from)),
            ("delayMs", self.delay_ms.map(Value::from)),
            ("priority", self.priority.map(Value::from)),
            ("lifo", self.lifo.then_some(true.into())),
            ("attempts", self.attempts.map(Value::from)),
            ("backoff", backoff),
            ("deduplication", deduplication),
            ("expiresAtMs", self.expires_at_ms.map(Value::from)),
            ("removeOnComplete", removal("--remove-on-complete", self.remove_on_complete)?),
            ("removeOnFail", removal("--remove-on-fail", self.remove_on_fail)?),
            ("newQueue", self.new_queue.then_some(true.into())),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Ok(AddBody { data, options: given.collect() })
    }
}

#[derive(serde::Serialize)]
struct AddBody {
    data: Box<RawValue>,
    #[serde(flatten)]
    options: Map<String, Value>,
}

pub(super) async fn add(args: AddArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let queue = args.queue.clone();
    let path = api_path(&["queues", &queue, "jobs"]);
    let added = client.send_body(Method::POST, &path, &args.body()?).await?;
    let id = text(&added, "id");
    let job = [word(&queue), word(&id)].join(" ");
    output.value(&format!("added: {job}\nlook at it with: patchbay job show {}", arguments(&[&queue, &id])), &added);
    Ok(())
}

pub(super) async fn flow(tree: String, client: &Client, output: Output) -> anyhow::Result<()> {
    let tree = given_json(tree, "the flow")?;
    let added = client.send_body(Method::POST, "flows", &tree).await?;
    let rows = items(&added["jobs"]).map(|job| vec![text(job, "queue"), text(job, "id")]).collect();
    output.table(&["QUEUE", "ID"], rows, &added);
    Ok(())
}
