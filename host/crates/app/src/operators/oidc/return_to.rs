//! Where a browser goes after a login: only to this host.

use url::Url;

const LONGEST: usize = 512;
const HOME: &str = "/";
/// Stands for this host, whose name does not matter here.
const HERE: &str = "https://here.invalid/";

/// The path that was asked for, if it leads to this host however a browser reads it; else `/`.
pub(super) fn on_this_host(asked: Option<&str>) -> String {
    asked.and_then(read).unwrap_or_else(|| HOME.to_owned())
}

fn read(asked: &str) -> Option<String> {
    let mut chars = asked.chars();
    // Browsers take `//` and `/\` for the beginning of another host, and skip control characters.
    let is_path = chars.next() == Some('/') && !matches!(chars.next(), Some('/' | '\\'));
    if !is_path || asked.len() > LONGEST || asked.chars().any(char::is_control) {
        return None;
    }
    let here = Url::parse(HERE).ok()?;
    let there = here.join(asked).ok()?;
    if there.origin() != here.origin() {
        return None;
    }
    let path = there.as_str().strip_prefix(HERE)?;
    // `/.//other` is `//other` once the dot is resolved.
    let is_other = path.starts_with(['/', '\\']);
    (!is_other).then(|| format!("/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_host_are_returned_to() {
        for (asked, expected) in [
            ("/", "/"),
            (
                "/queues/emailQueue?state=failed#newest",
                "/queues/emailQueue?state=failed#newest",
            ),
            ("/a/../b", "/b"),
            ("/größe", "/gr%C3%B6%C3%9Fe"),
            ("/?next=//evil.example", "/?next=//evil.example"),
        ] {
            assert_eq!(on_this_host(Some(asked)), expected, "{asked}");
        }
        let long = format!("/{}", "a".repeat(LONGEST));
        for asked in [
            "",
            "queues",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "///evil.example",
            "%2f%2fevil.example",
            "https://evil.example/",
            "https:/evil.example",
            "javascript:alert(1)",
            "/\t/evil.example",
            "/\n/evil.example",
            "/\r\nSet-Cookie: a=b",
            "/.//evil.example",
            "/a/..//evil.example",
            " //evil.example",
            &long,
        ] {
            assert_eq!(on_this_host(Some(asked)), "/", "{asked}");
        }
        assert_eq!(on_this_host(None), "/");
    }
}
