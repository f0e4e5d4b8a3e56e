//! Path segments: this is the only module that writes them (for the command line) and reads them
//! (for the API).
//!
//! Percent-encoding covers almost every name, with these exceptions. A client drops the segments
//! `.` and `..`, and every URL library takes `%2e` for a dot, so a request for a queue named `.`
//! would reach another route. An empty segment is no segment. A queue named `pause` takes the place
//! of a route of the API. These names, and every name that looks like their escaped form, are
//! written with a `~` in front: `~.`, `~..`, `~`, `~pause`; `~~.` is the name `~.`.

use std::borrow::Borrow;

/// Segments that a client drops.
const LOST: [&str; 3] = ["", ".", ".."];
/// Routes of the API in the second segment, where other paths have a name.
const TAKEN: [&str; 3] = ["pause", "resume", "preview"];

/// The path of these segments, without a leading slash. Segments may contain anything.
pub fn api_path(segments: &[&str]) -> String {
    segments
        .iter()
        .enumerate()
        .map(|(place, text)| escaped(place, text))
        .collect::<Vec<_>>()
        .join("/")
}

fn escaped(place: usize, text: &str) -> String {
    let needs_escape =
        LOST.contains(&text) || (place == 1 && TAKEN.contains(&text)) || looks_escaped(text);
    format!("{}{}", if needs_escape { "~" } else { "" }, encoded(text))
}

fn encoded(text: &str) -> String {
    let bytes: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    bytes.replace('+', "%20")
}

/// Below it, paths are relative: names at some places would be routes.
const ADMIN: &str = "/api/admin/";

/// Fills the parameters of a path template with these names; with the leading slash.
pub fn filled(template: &str, names: &[String]) -> String {
    let mut names = names.iter();
    let (root, below) = match template.strip_prefix(ADMIN) {
        Some(below) => (ADMIN, below),
        None => ("/", template.trim_start_matches('/')),
    };
    let segments = below.split('/').enumerate().map(|(place, segment)| {
        if segment.starts_with("{*") {
            encoded(names.next().map_or("", String::as_str))
        } else if segment.starts_with('{') {
            escaped(place, names.next().map_or("", String::as_str))
        } else {
            segment.to_owned()
        }
    });
    format!("{root}{}", segments.collect::<Vec<_>>().join("/"))
}

/// The path with a query. Values may contain anything.
pub fn with_query<I, K, V>(path: &str, pairs: I) -> String
where
    I: IntoIterator<Item: Borrow<(K, V)>>,
    K: AsRef<str>,
    V: AsRef<str>,
{
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish();
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    }
}

fn looks_escaped(text: &str) -> bool {
    let name = text.trim_start_matches('~');
    name.len() < text.len() && (LOST.contains(&name) || TAKEN.contains(&name))
}

/// The name in a segment, after percent-decoding.
pub fn unescaped(segment: &str) -> &str {
    if looks_escaped(segment) {
        &segment[1..]
    } else {
        segment
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_back(text: &str) -> String {
        // The form in which a client sends it.
        let url = url::Url::parse(&format!(
            "http://host/api/{}",
            api_path(&["queues", text, "pause"])
        ))
        .expect("a URL");
        let segments: Vec<&str> = url.path_segments().expect("a path").collect();
        assert_eq!(
            (segments.len(), segments[1], segments[3]),
            (4, "queues", "pause"),
            "{url}"
        );
        let decoded = percent_encoding::percent_decode_str(segments[2])
            .decode_utf8()
            .expect("UTF-8");
        unescaped(&decoded).to_owned()
    }

    #[test]
    fn names_that_a_url_would_lose_come_back() {
        for name in [
            "", ".", "..", "pause", "~resume", "~", "~.", "~..", "~~", "~~.", "...", "~x",
            "a/../b", "/", "%2F", "%2e", "?", "#", "a b", "a+b", "\n", "😀", "\\",
        ] {
            assert_eq!(read_back(name), name);
        }
        assert_eq!(
            api_path(&["queues", "email queue/1", ".."]),
            "queues/email%20queue%2F1/~.."
        );
    }

    #[test]
    fn the_places_of_a_template_are_filled() {
        let names = ["pause".to_owned(), "a/b".to_owned()];
        assert_eq!(
            filled("/api/admin/queues/{queue}/jobs/{id}/retry", &names),
            "/api/admin/queues/~pause/jobs/a%2Fb/retry"
        );
        assert_eq!(
            filled("/api/admin/queues/pause", &[]),
            "/api/admin/queues/pause"
        );
        assert_eq!(
            filled("/api/redis/keys/{*key}", &["~kpi:a/b c".to_owned()]),
            "/api/redis/keys/%7Ekpi%3Aa%2Fb%20c"
        );
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in "\\PC*|[~.]{0,5}|~{0,3}(pause|preview)|[.%~/?#2eEfF \\\\-]{0,8}") {
            prop_assert_eq!(read_back(&name), name);
        }
    }
}
