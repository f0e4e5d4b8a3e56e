//! Graphy: learners, their courses, and how far they have come.
//!
//! The vendor publishes nothing; this is what independent clients agree on. `mid` and `key` are in
//! the query of a GET and in the form of a POST. An error may come with status 200. Names of fields
//! have spaces and mixed case, and times no zone.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::form_urlencoded;

use crate::breakable::{Breakable, Breaker};

/// Most learners per page, whatever is asked for.
const MAX_PAGE: usize = 500;

#[derive(Debug, Clone)]
pub struct Account {
    pub mid: String,
    pub key: String,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            mid: "stand-in-mid".into(),
            key: "stand-in-key".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Learner {
    pub id: String,
    pub email: String,
    pub name: String,
    pub mobile: String,
    /// Progress in percent, by the id of the course.
    pub courses: BTreeMap<String, u32>,
}

/// A small school for demonstrations: forty learners of `rust`, ten of them also of `go`.
pub fn small_school() -> Vec<Learner> {
    let mut all: Vec<Learner> = (0..40).map(|n| Learner::new(n, "rust")).collect();
    for learner in all.iter_mut().take(10) {
        learner.courses.insert("go".into(), 20);
    }
    all
}

impl Learner {
    /// Number `n`, in one course.
    pub fn new(n: usize, course: &str) -> Self {
        Self {
            id: format!("learner{n:06}"),
            email: format!("learner{n}@example.com"),
            name: format!("Learner {n}"),
            mobile: format!("+91900{n:07}"),
            courses: BTreeMap::from([(course.to_owned(), (n % 100) as u32)]),
        }
    }

    fn written(&self) -> Value {
        let course = |(id, progress): (&String, &u32)| {
            json!({
                "id": id, "Title": format!("Course {id}"), "Assigned Date": "2026-03-01 10:00:00", "last access date": "2026-03-02 11:30:00",
                "progress": progress, "totalTime": progress * 60, "completed": *progress >= 100, "assessments score": format!("{progress}"),
                "course items": [{ "title": "Welcome", "type": "video", "totalTime": 60, "completed": *progress > 0 }],
            })
        };
        json!({
            "id": self.id, "email": self.email, "name": self.name, "mobile": self.mobile, "active": true, "state": "",
            "created date": "2026-01-05 09:15:00", "last login": "2026-03-02 11:00:00", "token": { "ANDROID": "device" }, "loginDevices": [],
            "courses": self.courses.iter().map(course).collect::<Value>(),
        })
    }
}

/// What the next requests get instead of their answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Misdeed {
    /// The answer comes so many milliseconds later.
    Slow(u64),
    /// The connection ends without an answer.
    Reset,
    /// Status and a text.
    Status(u16),
    /// A page of HTML with this status, as gateways answer.
    Html(u16),
    /// Status 200 with an error of this code.
    Error(i64),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub misdeed: Misdeed,
    pub times: u32,
    /// So many requests are answered as usual before.
    #[serde(default)]
    pub after: u32,
}

impl Fault {
    pub fn new(misdeed: Misdeed, times: u32) -> Self {
        Self {
            misdeed,
            times,
            after: 0,
        }
    }

    pub fn after(self, after: u32) -> Self {
        Self { after, ..self }
    }
}

/// How the server behaves until it is told otherwise.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Status of wrong credentials; 0 means 401.
    pub wrong_credentials: u16,
    /// Before each page of learners, so many are removed from the front of the list.
    pub removes_per_page: usize,
    /// Before each page of learners, so many are added at the front, in the course `NEW`.
    pub adds_per_page: usize,
    /// Those changes happen so often.
    pub changes: usize,
    /// How long each answer takes, in milliseconds.
    pub delay_ms: u64,
}

/// A learner as the vendor answers, written once for as long as the learner stays the same.
struct Written {
    of: Learner,
    text: String,
}

struct Inside {
    account: Account,
    behaviour: Behaviour,
    faults: Vec<Fault>,
    learners: Vec<Learner>,
    /// By id.
    written: HashMap<String, Written>,
    added: usize,
    /// `GET learners` and the like, with how often, refused ones included.
    asked: BTreeMap<String, usize>,
    refused: usize,
    /// Whatever arrived in the places of credentials elsewhere than where they belong.
    misplaced: usize,
}

struct Shared(Mutex<Inside>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server; dropping it ends it.
pub struct Graphy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Graphy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Serves one school. Port 0 takes a free one.
pub async fn start(address: SocketAddr, account: Account) -> anyhow::Result<Graphy> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let shared = Arc::new(Shared(Mutex::new(Inside {
        account,
        behaviour: Behaviour::default(),
        faults: Vec::new(),
        learners: Vec::new(),
        written: HashMap::new(),
        added: 0,
        asked: BTreeMap::new(),
        refused: 0,
        misplaced: 0,
    })));
    let app = Router::new()
        .route("/_control/state", get(state))
        .route("/_control/behaviour", put(behave))
        .route("/_control/faults", post(add_fault).delete(remove_faults))
        .route("/_control/learners", put(set_learners))
        .route("/_control/progress", put(set_progress))
        .route("/_control/key", put(set_key))
        .fallback(any(vendor))
        .with_state(Arc::clone(&shared));
    let service = app.into_make_service_with_connect_info::<Breaker>();
    let server = tokio::spawn(async move {
        // It ends only with the task.
        axum::serve(Breakable(listener), service).await.ok();
    });
    Ok(Graphy {
        address,
        shared,
        server,
    })
}

impl Graphy {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Other credentials, as after a rotation at the vendor.
    pub fn set_key(&self, key: &str) {
        self.shared.lock().account.key = key.to_owned();
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.lock().behaviour);
    }

    pub fn fault(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    pub fn remove_faults(&self) {
        self.shared.lock().faults.clear();
    }

    pub fn change_learners(&self, change: impl FnOnce(&mut Vec<Learner>)) {
        change(&mut self.shared.lock().learners);
    }

    pub fn learners(&self) -> Vec<Learner> {
        self.shared.lock().learners.clone()
    }

    /// How often something was asked for: `GET learners`, `POST assign`, `GET usage`.
    pub fn asked(&self, what: &str) -> usize {
        self.shared.lock().asked.get(what).copied().unwrap_or(0)
    }

    /// Requests of any kind.
    pub fn requests(&self) -> usize {
        self.shared.lock().asked.values().sum()
    }

    /// Requests with wrong credentials.
    pub fn refused(&self) -> usize {
        self.shared.lock().refused
    }

    /// Requests with credentials where none belong: in the query of a POST.
    pub fn misplaced(&self) -> usize {
        self.shared.lock().misplaced
    }
}

async fn state(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let inside = shared.lock();
    Json(json!({
        "mid": inside.account.mid, "behaviour": inside.behaviour, "faults": inside.faults, "learners": inside.learners.len(),
        "asked": inside.asked, "refused": inside.refused,
    }))
}

/// Only the fields that are named change.
async fn behave(
    State(shared): State<Arc<Shared>>,
    Json(change): Json<Value>,
) -> Result<Json<Behaviour>, (StatusCode, String)> {
    let wrong = |error: serde_json::Error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
    let mut inside = shared.lock();
    let mut all = serde_json::to_value(&inside.behaviour).map_err(wrong)?;
    for (name, value) in change.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    inside.behaviour = serde_json::from_value(all).map_err(wrong)?;
    Ok(Json(inside.behaviour.clone()))
}

async fn add_fault(State(shared): State<Arc<Shared>>, Json(fault): Json<Fault>) {
    shared.lock().faults.push(fault);
}

async fn remove_faults(State(shared): State<Arc<Shared>>) {
    shared.lock().faults.clear();
}

/// As after a rotation at the vendor.
async fn set_key(State(shared): State<Arc<Shared>>, Json(key): Json<String>) {
    shared.lock().account.key = key;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    email: String,
    course: String,
    progress: u32,
}

/// A learner comes further.
async fn set_progress(
    State(shared): State<Arc<Shared>>,
    Json(Progress {
        email,
        course,
        progress,
    }): Json<Progress>,
) -> StatusCode {
    let mut inside = shared.lock();
    let found = inside
        .learners
        .iter_mut()
        .find(|learner| learner.email == email);
    match found {
        Some(learner) => {
            learner.courses.insert(course, progress.min(100));
            StatusCode::OK
        }
        None => StatusCode::NOT_FOUND,
    }
}

async fn set_learners(State(shared): State<Arc<Shared>>, Json(learners): Json<Vec<Learner>>) {
    shared.lock().learners = learners;
}

type Pairs = BTreeMap<String, String>;

fn pairs(text: &[u8]) -> Pairs {
    form_urlencoded::parse(text).into_owned().collect()
}

async fn vendor(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(breaker): ConnectInfo<Breaker>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let (fault, delay_ms) = {
        let mut inside = shared.lock();
        let what = kind(uri.path());
        *inside.asked.entry(format!("{method} {what}")).or_default() += 1;
        (next_fault(&mut inside), inside.behaviour.delay_ms)
    };
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    match fault {
        None => {}
        Some(Misdeed::Slow(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Some(Misdeed::Reset) => {
            breaker.break_off();
            return StatusCode::OK.into_response();
        }
        Some(Misdeed::Status(status)) => return plain(status, "text/plain", "Something broke"),
        Some(Misdeed::Html(status)) => {
            let page = format!("<html><body>{} went wrong</body></html>", uri.path());
            return plain(status, "text/html", &page);
        }
        Some(Misdeed::Error(code)) => return error(code, "Something is wrong"),
    }
    let query = pairs(uri.query().unwrap_or_default().as_bytes());
    let mut inside = shared.lock();
    let given = match method {
        Method::POST => {
            inside.misplaced += usize::from(query.contains_key("key"));
            pairs(&body)
        }
        _ => query,
    };
    let account = &inside.account;
    if given.get("mid") != Some(&account.mid) || given.get("key") != Some(&account.key) {
        inside.refused += 1;
        let status = match inside.behaviour.wrong_credentials {
            0 => 401,
            200 => return error(401, "Invalid merchant"),
            other => other,
        };
        let page = format!("<html>Not authorised: {:?}</html>", given.get("mid"));
        return plain(status, "text/html", &page);
    }
    answered(&mut inside, &method, uri.path(), &given)
}

fn kind(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn next_fault(inside: &mut Inside) -> Option<Misdeed> {
    let fault = inside.faults.first_mut()?;
    if fault.after > 0 {
        fault.after -= 1;
        return None;
    }
    let misdeed = fault.misdeed.clone();
    fault.times = fault.times.saturating_sub(1);
    if fault.times == 0 {
        inside.faults.remove(0);
    }
    Some(misdeed)
}

fn plain(status: u16, content_type: &str, text: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = [(header::CONTENT_TYPE, content_type.to_owned())];
    (status, headers, text.to_owned()).into_response()
}

/// Status 200, as the vendor answers.
fn error(code: i64, message: &str) -> Response {
    Json(json!({ "error": { "code": code, "message": message } })).into_response()
}

fn answered(inside: &mut Inside, method: &Method, path: &str, given: &Pairs) -> Response {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let ["public", "v1", rest @ ..] = segments.as_slice() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match (method.as_str(), rest) {
        ("GET", ["learners"]) => learners(inside, given),
        ("GET", ["learners", id, "usage"]) => {
            let spent = inside.learners.iter().find(|learner| learner.id == *id);
            let course = given.get("productId").map(String::as_str).unwrap_or("");
            match spent.and_then(|learner| learner.courses.get(course)) {
                Some(progress) => {
                    Json(json!({ "data": { "time spent in secs": progress * 61 } })).into_response()
                }
                None => error(4, "No such learner"),
            }
        }
        ("POST", ["learners"]) => create(inside, given),
        ("POST", ["assign"]) => assign(inside, given),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn learners(inside: &mut Inside, given: &Pairs) -> Response {
    let number = |name: &str| given.get(name).and_then(|text| text.parse::<usize>().ok());
    let (skip, limit) = (
        number("skip").unwrap_or(0),
        number("limit").unwrap_or(100).min(MAX_PAGE),
    );
    if let Some(query) = given.get("query") {
        let query: Value = serde_json::from_str(query).unwrap_or_default();
        let found: Vec<Value> = inside
            .learners
            .iter()
            .filter(|learner| Some(learner.email.as_str()) == query["email"].as_str())
            .map(Learner::written)
            .collect();
        let total = found.len();
        return Json(json!({ "data": found, "total": total, "limit": limit, "skip": skip }))
            .into_response();
    }
    change(inside);
    let total = inside.learners.len();
    let mut page = String::from("{\"data\":[");
    for (n, learner) in inside.learners.iter().skip(skip).take(limit).enumerate() {
        if n > 0 {
            page.push(',');
        }
        match inside.written.get(&learner.id) {
            Some(written) if written.of == *learner => page.push_str(&written.text),
            _ => {
                let text = learner.written().to_string();
                page.push_str(&text);
                let of = learner.clone();
                inside
                    .written
                    .insert(learner.id.clone(), Written { of, text });
            }
        }
    }
    page.push_str(&format!(
        "],\"total\":{total},\"limit\":{limit},\"skip\":{skip}}}"
    ));
    ([(header::CONTENT_TYPE, "application/json")], page).into_response()
}

/// The list changes under its readers.
fn change(inside: &mut Inside) {
    if inside.behaviour.changes == 0 {
        return;
    }
    inside.behaviour.changes -= 1;
    let gone = inside.behaviour.removes_per_page.min(inside.learners.len());
    inside.learners.drain(..gone);
    for _ in 0..inside.behaviour.adds_per_page {
        inside.added += 1;
        let new = Learner::new(900_000 + inside.added, "NEW");
        inside.learners.insert(0, new);
    }
}

fn create(inside: &mut Inside, given: &Pairs) -> Response {
    let text = |name: &str| given.get(name).cloned().unwrap_or_default();
    if inside
        .learners
        .iter()
        .any(|learner| learner.email == text("email"))
    {
        return error(22, "User already exists");
    }
    inside.added += 1;
    let id = format!("made{:06}", inside.added);
    inside.learners.insert(
        0,
        Learner {
            id,
            email: text("email"),
            name: text("name"),
            mobile: text("mobile"),
            courses: BTreeMap::new(),
        },
    );
    Json(json!({ "status": "success" })).into_response()
}

fn assign(inside: &mut Inside, given: &Pairs) -> Response {
    let text = |name: &str| given.get(name).cloned().unwrap_or_default();
    let course = text("productId");
    let found = inside
        .learners
        .iter_mut()
        .find(|learner| learner.email == text("email"));
    let Some(learner) = found else {
        return error(4, "No such learner");
    };
    if learner.courses.contains_key(&course) {
        return error(19, "Course already assigned");
    }
    learner.courses.insert(course, 0);
    Json(json!({ "status": "success" })).into_response()
}
