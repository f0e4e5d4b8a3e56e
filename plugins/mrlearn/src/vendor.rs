//! What is asked of the vendor, and what its answers mean.
//!
//! The vendor publishes nothing; this is what independent clients agree on. A 200 may be an error.
//! Errors may be HTML. The host puts `mid` and `key` in, so no URL here has a secret.

use std::borrow::Cow;

use patchbay_plugin::http::{self, Error, Response};
use patchbay_plugin::{Failure, Retry, Value, json};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::learner::Brief;
use crate::settings::Settings;
use crate::time;

const FORM: &str = "application/x-www-form-urlencoded";
/// The course was assigned before.
const ALREADY_ASSIGNED: i64 = 19;
/// There is such a learner.
const ALREADY_THERE: i64 = 22;
/// Kept of the call's time, to write down what the vendor has answered.
const RESERVE_MS: u64 = 3_000;
const LEAST_MS: u64 = 100;

/// Why the vendor did not do what was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    /// `bad-credentials`, `rate-limited`, `unavailable`, `breaker-open`, `bad-settings` or
    /// `upstream`.
    pub code: &'static str,
    /// For operators: no credential, no address, no URL.
    pub message: String,
    pub again: Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    Never,
    Backoff,
    AfterMs(u64),
    DeferMs(u64),
}

impl Trouble {
    fn new(code: &'static str, message: impl Into<String>, again: Again) -> Self {
        Self {
            code,
            message: message.into(),
            again,
        }
    }

    pub fn is_bad_credentials(&self) -> bool {
        self.code == "bad-credentials"
    }

    pub fn failure(&self) -> Failure {
        let retry = match self.again {
            Again::Never => Retry::Never,
            Again::Backoff => Retry::Backoff,
            Again::AfterMs(ms) => Retry::AfterMs(ms),
            Again::DeferMs(ms) => Retry::DeferMs(ms),
        };
        Failure::new(self.code, self.message.clone(), retry)
    }
}

/// One page of learners.
#[derive(Debug, Default)]
pub struct Page {
    /// Of all learners, in the vendor's order.
    pub ids: Vec<String>,
    /// Entries, also those without an id.
    pub length: u64,
    /// Those with the course that was asked about, as the vendor gives them. Only these are read as
    /// a whole.
    pub learners: Vec<Value>,
    /// The ids of those without it.
    pub without: Vec<String>,
    /// Absent when the vendor does not say.
    pub total: Option<u64>,
}

/// The account of one config at the vendor.
pub struct Vendor<'a> {
    settings: &'a Settings,
    credential: String,
    /// When the host ends the plugin's call, in milliseconds since 1970.
    deadline: u64,
}

impl<'a> Vendor<'a> {
    pub fn new(settings: &'a Settings, config_id: i64, deadline: u64) -> Self {
        Self {
            settings,
            credential: credential(config_id),
            deadline,
        }
    }

    /// Whether the vendor takes the credentials.
    pub fn check(&self) -> Result<(), Trouble> {
        self.page(0, 1, "").map(drop)
    }

    /// Learners from number `skip` on; those with the course as a whole.
    pub fn page(&self, skip: u64, limit: u64, course_id: &str) -> Result<Page, Trouble> {
        let query = [
            ("limit", limit.to_string()),
            ("skip", skip.to_string()),
            ("courseInfo", "true".into()),
        ];
        let has_course = |learner: &Brief| learner.has_course(course_id);
        page_of(&self.got("learners", &query)?, has_course)
    }

    /// The learner with this address.
    pub fn find(&self, email: &str) -> Result<Option<Value>, Trouble> {
        let query = [
            ("limit", "5".to_owned()),
            ("skip", "0".into()),
            ("courseInfo", "true".into()),
            (
                "query",
                patchbay_plugin::json!({ "email": email }).to_string(),
            ),
        ];
        let page = page_of(&self.got("learners", &query)?, |_| true)?;
        let is_it = |learner: &Value| {
            let found = learner["email"].as_str().unwrap_or_default();
            found.eq_ignore_ascii_case(email)
        };
        Ok(page.learners.into_iter().find(is_it))
    }

    /// Seconds that a learner has spent in a course, over all time.
    pub fn time_spent(&self, learner_id: &str, course_id: &str) -> Result<Option<i64>, Trouble> {
        let id: String = form_urlencoded::byte_serialize(learner_id.as_bytes()).collect();
        let path = format!("learners/{id}/usage");
        let answer = self.get(&path, &[("productId", course_id.to_owned())])?;
        let field = "time spent in secs";
        let spent = [&answer[field], &answer["data"][field]];
        Ok(spent.into_iter().find_map(whole))
    }

    /// Makes a learner; one that is there is success. Whether it was new.
    pub fn create(&self, email: &str, name: &str, mobile: Option<&str>) -> Result<bool, Trouble> {
        let mut form = vec![
            ("email", email.to_owned()),
            ("name", name.to_owned()),
            ("sendEmail", "false".into()),
        ];
        form.extend(mobile.map(|mobile| ("mobile", mobile.to_owned())));
        self.post("learners", &form, ALREADY_THERE)
    }

    /// Assigns a course; one that was assigned is success. Whether it was new.
    pub fn assign(&self, email: &str, course_id: &str) -> Result<bool, Trouble> {
        let form = [
            ("email", email.to_owned()),
            ("productId", course_id.to_owned()),
        ];
        self.post("assign", &form, ALREADY_ASSIGNED)
    }

    fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Trouble> {
        let answer: Value = read(&self.got(path, query)?)?;
        match refusal(&answer) {
            Some((_, trouble)) => Err(trouble),
            None => Ok(answer),
        }
    }

    /// The answer to a GET, not yet read.
    fn got(&self, path: &str, query: &[(&str, String)]) -> Result<Response, Trouble> {
        let query = encoded(query);
        let url = format!("{}/public/v1/{path}?{query}", self.settings.api_url);
        self.send("GET", url, None)
    }

    /// False when the vendor answers with the code that says that it was done before.
    fn post(&self, path: &str, form: &[(&str, String)], done: i64) -> Result<bool, Trouble> {
        let url = format!("{}/public/v1/{path}", self.settings.api_url);
        let answer: Value = read(&self.send("POST", url, Some(encoded(form)))?)?;
        match refusal(&answer) {
            Some((Some(code), _)) if code == done => Ok(false),
            Some((_, trouble)) => Err(trouble),
            None => Ok(true),
        }
    }

    fn send(&self, method: &str, url: String, form: Option<String>) -> Result<Response, Trouble> {
        let left = self
            .deadline
            .saturating_sub(time::now())
            .saturating_sub(RESERVE_MS);
        if left < LEAST_MS {
            return Err(Trouble::new(
                "unavailable",
                "no time is left to ask the vendor",
                Again::Backoff,
            ));
        }
        let mut headers = vec![("accept".to_owned(), b"application/json".to_vec())];
        if form.is_some() {
            headers.push(("content-type".into(), FORM.into()));
        }
        let request = http::Request {
            method: method.to_owned(),
            url,
            headers,
            body: form.map(String::into_bytes),
            timeout_ms: Some(left),
        };
        http::send_with(&request, &self.credential).map_err(not_answered)
    }
}

/// Under which the host keeps the credentials of a config.
pub fn credential(config_id: i64) -> String {
    format!("graphy-{config_id}")
}

fn encoded(pairs: &[(&str, String)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

fn not_answered(error: Error) -> Trouble {
    let unavailable = |message: String| Trouble::new("unavailable", message, Again::Backoff);
    match error {
        Error::Timeout(_) => unavailable("the vendor did not answer in time".into()),
        Error::Dns(text) => unavailable(format!("the vendor's name was not found: {text}")),
        Error::Connect(text) => unavailable(format!("no connection to the vendor: {text}")),
        Error::Tls(text) => unavailable(format!("no secure connection to the vendor: {text}")),
        Error::Interrupted(_) => unavailable("the connection to the vendor broke".into()),
        Error::BreakerOpen(ms) => Trouble::new(
            "breaker-open",
            "calls to the vendor are stopped for a while, because many failed",
            Again::DeferMs(ms.max(1)),
        ),
        Error::Denied(text) | Error::Invalid(text) => Trouble::new(
            "bad-settings",
            format!("the host does not allow the request: {text}"),
            Again::Never,
        ),
        Error::TooLarge(_) => Trouble::new(
            "upstream",
            "the vendor's answer is too large: lower the setting pageSize",
            Again::Never,
        ),
        Error::Other(text) => Trouble::new(
            "upstream",
            format!("the vendor's answer is unusable: {text}"),
            Again::Backoff,
        ),
    }
}

/// The JSON of a success. What an error page says is left out: it may repeat what was sent.
fn read<T: DeserializeOwned>(response: &Response) -> Result<T, Trouble> {
    read_text(&success(response)?, response.status)
}

/// The text of a success.
fn success(response: &Response) -> Result<Cow<'_, str>, Trouble> {
    let status = response.status;
    match status {
        200..=299 => {}
        401 | 403 => {
            return Err(Trouble::new(
                "bad-credentials",
                format!(
                    "the vendor answers {status}: mid and key are not taken. Save the config with new ones"
                ),
                Again::Never,
            ));
        }
        429 => {
            let again = retry_after(response).map_or(Again::Backoff, Again::AfterMs);
            let told = "the vendor answers 429: too many requests of this account";
            return Err(Trouble::new("rate-limited", told, again));
        }
        408 | 500.. => {
            let told = format!("the vendor answers {status}: a fault of the vendor");
            return Err(Trouble::new("unavailable", told, Again::Backoff));
        }
        _ => {
            let told = format!("the vendor answers {status}: it refuses the request");
            return Err(Trouble::new("upstream", told, Again::Never));
        }
    }
    Ok(match String::from_utf8_lossy(&response.body) {
        Cow::Borrowed(text) => patchbay_plugin::whole_pairs(text),
        Cow::Owned(text) => patchbay_plugin::whole_pairs(&text).into_owned().into(),
    })
}

fn read_text<'a, T: Deserialize<'a>>(text: &'a str, status: u16) -> Result<T, Trouble> {
    serde_json::from_str(text).map_err(|_| {
        Trouble::new(
            "upstream",
            format!("the vendor answers {status} with what is not JSON"),
            Again::Backoff,
        )
    })
}

/// Milliseconds, at most an hour.
fn retry_after(response: &Response) -> Option<u64> {
    let (_, value) = response
        .headers
        .iter()
        .find(|(name, _)| name == "retry-after")?;
    let seconds: u64 = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
    Some(seconds.clamp(1, 3_600) * 1_000)
}

/// The error in an answer with status 200: its code, and what it means.
fn refusal(answer: &Value) -> Option<(Option<i64>, Trouble)> {
    let error = answer.get("error").filter(|error| !is_nothing(error))?;
    let code = whole(&error["code"]).or_else(|| whole(error));
    let trouble = match code {
        Some(401 | 403) => Trouble::new(
            "bad-credentials",
            "the vendor answers 200 with an error 401 or 403: mid and key are not taken. Save the config with new ones",
            Again::Never,
        ),
        Some(429) => Trouble::new(
            "rate-limited",
            "the vendor answers 200 with an error 429: too many requests of this account",
            Again::Backoff,
        ),
        Some(code) => Trouble::new(
            "upstream",
            format!("the vendor answers 200 with an error {code}"),
            Again::Backoff,
        ),
        None => Trouble::new(
            "upstream",
            "the vendor answers 200 with an error without a code",
            Again::Backoff,
        ),
    };
    Some((code, trouble))
}

fn is_nothing(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A whole number, also as text.
pub fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|number| number as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// An answer whose learners are not read yet: a page may be megabytes, of which few are wanted.
#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    total: Value,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// The page, with those learners as a whole that are `wanted`.
fn page_of(response: &Response, wanted: impl Fn(&Brief) -> bool) -> Result<Page, Trouble> {
    let text = success(response)?;
    let listed: Listed<'_> = read_text(&text, response.status)?;
    if let Some((_, trouble)) = refusal(&json!({ "error": listed.error })) {
        return Err(trouble);
    }
    let unusable = || {
        let told = "the vendor answers 200 without learners";
        Trouble::new("upstream", told, Again::Backoff)
    };
    let mut page = Page {
        total: whole(&listed.total).and_then(|total| u64::try_from(total).ok()),
        ..Page::default()
    };
    let Some(data) = listed.data else {
        // Nothing found is `total: 0`, with or without data.
        return match page.total {
            Some(0) => Ok(page),
            _ => Err(unusable()),
        };
    };
    let learners: Vec<&RawValue> = serde_json::from_str(data.get()).map_err(|_| unusable())?;
    for raw in learners {
        page.length += 1;
        // What is no learner, or one without an id, cannot be kept.
        let Ok(brief) = serde_json::from_str::<Brief>(raw.get()) else {
            continue;
        };
        let is_wanted = wanted(&brief);
        let Some(id) = brief.id else { continue };
        if is_wanted {
            page.learners
                .extend(serde_json::from_str::<Value>(raw.get()));
        } else {
            page.without.push(id.clone());
        }
        page.ids.push(id);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response {
            status,
            headers: vec![("retry-after".into(), b"7".to_vec())],
            body: body.into(),
        }
    }

    #[test]
    fn a_status_and_a_body_say_what_is_wrong_and_never_what_the_vendor_wrote() {
        let html = "<html>mid=SECRET is wrong</html>";
        for (status, code, again) in [
            (401, "bad-credentials", Again::Never),
            (403, "bad-credentials", Again::Never),
            (429, "rate-limited", Again::AfterMs(7_000)),
            (500, "unavailable", Again::Backoff),
            (408, "unavailable", Again::Backoff),
            (400, "upstream", Again::Never),
            (200, "upstream", Again::Backoff),
        ] {
            let trouble = read::<Value>(&response(status, html)).expect_err("refused");
            assert_eq!((trouble.code, trouble.again), (code, again), "{status}");
            assert!(!trouble.message.contains("SECRET"), "{}", trouble.message);
        }
        assert!(read::<Value>(&response(200, r#"{"status":"success"}"#)).is_ok());
    }

    #[test]
    fn a_success_with_an_error_is_an_error_with_its_code() {
        let told = |answer: Value| refusal(&answer).map(|(code, trouble)| (code, trouble.code));
        assert_eq!(
            told(json!({ "error": { "code": 22, "message": "there" } })),
            Some((Some(22), "upstream"))
        );
        assert_eq!(
            told(json!({ "error": { "code": "401" }, "data": [] })),
            Some((Some(401), "bad-credentials"))
        );
        assert_eq!(told(json!({ "error": "broken" })), Some((None, "upstream")));
        for fine in [json!({ "error": null }), json!({ "error": {} }), json!({})] {
            assert_eq!(told(fine), None);
        }
    }

    #[test]
    fn nothing_found_is_an_empty_page_and_a_page_without_learners_is_an_error() {
        let page = |body: &str| page_of(&response(200, body), |brief| brief.has_course("7"));
        let empty = page(r#"{"total":0}"#).expect("empty");
        assert_eq!((empty.learners.len(), empty.total), (0, Some(0)));
        let null = page(r#"{"data": null, "total": "0"}"#).expect("empty");
        assert_eq!((null.ids.len(), null.total), (0, Some(0)));
        let some = page(
            r#"{"data":[{"id":"a","courses":[{"ID":7,"Title":"x"},{"id":"8"}]},{"_id":"b","Courses":[]},
            {"id":3,"courses":"none"},{"name":"no id"},5],"total":"9"}"#,
        );
        let some = some.expect("a page");
        assert_eq!(
            (some.ids, some.length, some.total),
            (["a", "b", "3"].map(String::from).into(), 5, Some(9))
        );
        assert_eq!(
            (some.learners.len(), some.without),
            (1, ["b", "3"].map(String::from).into())
        );
        // A name that was cut in the middle of an emoji, and one that is not UTF-8.
        let cut = r#"{"data":[{"id":"a","name":"x\ud83d","courses":[{"id":"7"}]},{"id":"b","name":"?"}],"total":2}"#;
        let mut cut = response(200, cut);
        if let Some(byte) = cut.body.iter_mut().find(|byte| **byte == b'?') {
            *byte = 0xff;
        }
        let cut = page_of(&cut, |brief| brief.has_course("7")).expect("a page");
        assert_eq!((cut.learners.len(), cut.length), (1, 2));
        assert!(page(r#"{"status":"success"}"#).is_err());
        assert!(page(r#"{"data":{"a":1},"total":1}"#).is_err());
        let told = page(r#"{"data":[],"error":{"code":401}}"#).expect_err("refused");
        assert_eq!(told.code, "bad-credentials");
    }
}
