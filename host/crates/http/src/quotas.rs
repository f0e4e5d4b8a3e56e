//! Tells clients how much of a rate limit is left: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-11), one item per limit from which the request has taken.

use std::collections::BTreeSet;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use patchbay_app::quota::{Quota, Quotas, whole_seconds};

pub(super) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(super) const LEFT: HeaderName = HeaderName::from_static("ratelimit");

pub(super) async fn tell(request: Request, next: Next) -> Response {
    let quotas = Quotas::default();
    let mut response = quotas.noting(next.run(request)).await;
    write(response.headers_mut(), &quotas.seen());
    response
}

/// Adds what is not there yet: an error may have told the limit that it is about.
pub(super) fn write<'a>(headers: &mut HeaderMap, quotas: impl IntoIterator<Item = &'a Quota>) {
    let told: BTreeSet<&str> = headers
        .get_all(&POLICY)
        .iter()
        .filter_map(|value| value.to_str().ok()?.split('"').nth(1))
        .collect();
    let new: Vec<Quota> = quotas
        .into_iter()
        .filter(|quota| !told.contains(quota.name))
        .copied()
        .collect();
    for quota in new {
        let (policy, left) = (policy(&quota), left(&quota));
        // Names of limits are plain ASCII, so both are header values.
        if let (Ok(policy), Ok(left)) =
            (HeaderValue::from_str(&policy), HeaderValue::from_str(&left))
        {
            headers.append(POLICY, policy);
            headers.append(LEFT, left);
        }
    }
}

fn policy(quota: &Quota) -> String {
    let window = whole_seconds(quota.window);
    format!("\"{}\";q={};w={window}", quota.name, quota.limit)
}

fn left(quota: &Quota) -> String {
    let reset = whole_seconds(quota.reset);
    format!("\"{}\";r={};t={reset}", quota.name, quota.remaining)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_limit_is_told_once_in_the_form_of_the_draft() {
        let quota = |name, remaining| Quota {
            name,
            limit: 300,
            window: Duration::from_secs(60),
            remaining,
            reset: Duration::from_millis(11_200),
        };
        let mut headers = HeaderMap::new();
        write(&mut headers, &[quota("login", 41)]);
        write(&mut headers, &[quota("login", 40), quota("network", 7)]);
        let of = |name: &HeaderName| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values
                .map(|value| value.to_str().expect("ASCII").to_owned())
                .collect()
        };
        assert_eq!(
            of(&POLICY),
            [r#""login";q=300;w=60"#, r#""network";q=300;w=60"#]
        );
        assert_eq!(of(&LEFT), [r#""login";r=41;t=12"#, r#""network";r=7;t=12"#]);
    }
}
