//! Why a guest crashed, from what its language's runtime printed last.
//!
//! WebAssembly has one instruction for every crash, `unreachable`; the panic, the exception or the
//! failed assertion is text that the guest printed before it. This module knows the formats of
//! Rust, CPython (componentize-py), StarlingMonkey (componentize-js), QuickJS (componentize-qjs),
//! Go and C. It adds the place in the guest's own code where the text has one, because the same
//! error in two places is two errors.

/// A line that begins with one of these is a complete failure message.
const FAILURES: [&str; 4] = [
    "panic: ",
    "fatal error: ",
    "Assertion failed",
    "terminate called",
];

/// The last line of a guest's standard error. Only for a guest that ended itself (an exit, an
/// abort): one that a fault has stopped may have printed anything before.
pub(crate) fn last_line(stderr: &str) -> Option<&str> {
    stderr.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// The failure in a guest's last output, on one line; `None` if no runtime writes such text.
pub(crate) fn failure(printed: &str) -> Option<String> {
    let lines: Vec<&str> = printed.lines().collect();
    // Interpreters first: the program that contains one panics because of the exception.
    let of_interpreters = python(&lines)
        .or_else(|| quickjs(&lines))
        .or_else(|| uncaught(&lines));
    of_interpreters
        .or_else(|| starling_monkey(&lines))
        .or_else(|| rust(&lines))
        .or_else(|| others(&lines))
}

/// Go prints its frames below the message, as `main.run(…)` and then `\t/src/main.go:12 +0x1d`.
fn others(lines: &[&str]) -> Option<String> {
    let is_failure = |line: &&str| FAILURES.iter().any(|start| line.starts_with(start));
    let at = lines.iter().rposition(is_failure)?;
    let frame = lines[at + 1..]
        .iter()
        .find_map(|line| line.strip_prefix('\t')?.split(' ').next())
        .filter(|place| place.contains(".go:"));
    Some(placed(lines[at].to_owned(), frame))
}

fn placed(message: String, place: Option<&str>) -> String {
    match place {
        Some(place) => format!("{message} at {place}"),
        None => message,
    }
}

/// Format: `thread '<unnamed>' (1) panicked at src/lib.rs:7:5:`, then the message, then a note.
fn rust(lines: &[&str]) -> Option<String> {
    let at = lines.iter().rposition(|line| is_panic(line))?;
    let (_, place) = lines[at].split_once(" panicked at ")?;
    let place = place.trim_end_matches(':');
    let message = one_line(lines[at + 1..].iter().take_while(|line| !is_note(line)));
    Some(if message.is_empty() {
        format!("panicked at {place}")
    } else {
        format!("panicked at {place}: {message}")
    })
}

fn is_panic(line: &str) -> bool {
    line.starts_with("thread '") && line.contains(" panicked at ")
}

fn is_note(line: &str) -> bool {
    line.starts_with("note: ") || line.starts_with("stack backtrace:")
}

/// Format: `Traceback (most recent call last):`, then indented frames, then the exception. If
/// several exceptions caused each other, the last one is the uncaught one.
fn python(lines: &[&str]) -> Option<String> {
    let at = lines
        .iter()
        .rposition(|line| line.starts_with("Traceback (most recent call last):"))?;
    let mut after = lines[at + 1..]
        .iter()
        .skip_while(|line| line.starts_with(' ') || line.is_empty())
        .peekable();
    after.peek()?;
    let message = one_line(after.take_while(|line| !is_panic(line)));
    let frames = lines[at + 1..]
        .iter()
        .take_while(|line| line.starts_with(' ') || line.is_empty());
    let place = frames.filter_map(|line| python_place(line)).last();
    Some(placed(message, place.as_deref()))
}

/// `  File "/0/app.py", line 12, in run` as `run (/0/app.py:12)`.
fn python_place(line: &str) -> Option<String> {
    let (file, rest) = line
        .trim()
        .strip_prefix("File \"")?
        .split_once("\", line ")?;
    let (number, function) = rest.split_once(", in ").unwrap_or((rest, "<module>"));
    Some(format!("{function} ({file}:{number})"))
}

/// Format: `Exception { message: Some("…"), stack: Some("    at run (/p.js:4:39)\n") })`, which is
/// Rust's debug format.
fn quickjs(lines: &[&str]) -> Option<String> {
    let line = lines
        .iter()
        .rfind(|line| line.contains("Exception { message: Some(\""))?;
    let (_, rest) = line.split_once("message: Some(\"")?;
    let (message, rest) = rest
        .split_once("\"), stack: ")
        .or_else(|| rest.split_once("\")"))?;
    let frames = rest.strip_prefix("Some(\"").unwrap_or_default();
    let place = frames.split("\\n").next().unwrap_or_default().trim();
    let message = message
        .replace("\\n", " ")
        .replace("\\\"", "\"")
        .replace("\\'", "'");
    Some(if place.starts_with("at ") {
        format!("{message} {place}")
    } else {
        message
    })
}

/// A JavaScript plugin prints this line (docs/plugins/languages.md) before its glue fails on an
/// exception that is no failure of the contract.
fn uncaught(lines: &[&str]) -> Option<String> {
    let at = lines
        .iter()
        .rposition(|line| line.starts_with("Uncaught "))?;
    let place = lines.get(at + 1).and_then(|line| spider_monkey_place(line));
    Some(placed(lines[at].to_owned(), place.as_deref()))
}

/// Format: the message, `Stack:`, then frames.
fn starling_monkey(lines: &[&str]) -> Option<String> {
    let at = lines.iter().rposition(|line| *line == "Stack:")?;
    let message = lines[..at].last().filter(|line| !line.is_empty())?;
    let place = lines.get(at + 1).and_then(|line| spider_monkey_place(line));
    Some(placed((*message).to_owned(), place.as_deref()))
}

/// A frame, `run@hello.js:18:37`, as `run (hello.js:18:37)`.
fn spider_monkey_place(line: &str) -> Option<String> {
    let (function, place) = line.trim().split_once('@')?;
    let is_place = place.ends_with(|c: char| c.is_ascii_digit()) && place.contains(':');
    is_place.then(|| format!("{function} ({place})"))
}

fn one_line<'a>(lines: impl Iterator<Item = &'a &'a str>) -> String {
    lines
        .map(|line| line.trim())
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(printed: &str) -> String {
        failure(printed).unwrap_or_else(|| panic!("no failure in {printed}"))
    }

    #[test]
    fn rust_panics() {
        let printed = "starting\n\nthread '<unnamed>' (1) panicked at hostile/src/lib.rs:18:5:\non request\n\
                       note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace";
        assert_eq!(
            said(printed),
            "panicked at hostile/src/lib.rs:18:5: on request"
        );
        let printed = "thread 'main' panicked at src/lib.rs:1:2:\nassertion `left == right` failed\n  left: 1\n right: 2";
        assert_eq!(
            said(printed),
            "panicked at src/lib.rs:1:2: assertion `left == right` failed left: 1 right: 2"
        );
        assert_eq!(
            said("thread 'main' panicked at src/lib.rs:1:2:"),
            "panicked at src/lib.rs:1:2"
        );
    }

    #[test]
    fn python_exceptions() {
        let printed = "hello err\nTraceback (most recent call last):\n  File \"/0/app.py\", line 12, in run\nKeyError: 'missing'\n\n\
                       The above exception was the direct cause of the following exception:\n\n\
                       Traceback (most recent call last):\n  File \"/0/app.py\", line 14, in run\nRuntimeError: wrapped:\nsecond line\n\n\
                       thread '<unnamed>' (1) panicked at runtime/src/lib.rs:1293:29:\n\
                       Python function threw an unexpected exception\nnote: run with `RUST_BACKTRACE=1`";
        assert_eq!(
            said(printed),
            "RuntimeError: wrapped: second line at run (/0/app.py:14)"
        );
    }

    #[test]
    fn javascript_exceptions() {
        let printed = "thread '<unnamed>' (1) panicked at crates/runtime/src/interpreter.rs:51:31:\n\
                       Failed to call 'run': Value(Exception(\n\
                       Exception { message: Some(\"cannot read property 'length' of undefined\"), \
                       stack: Some(\"    at deep (/p.js:2:63)\\n    at run (/p.js:5:42)\\n\") })\n)\nnote: run with";
        assert_eq!(
            said(printed),
            "cannot read property 'length' of undefined at deep (/p.js:2:63)"
        );
        let printed = "expected a string, received [undefined]\nStack:\n  run@/tmp/sources/initializer.js:25:11\n\n\
                       Redirecting call to abort() to mozalloc_abort";
        assert_eq!(
            said(printed),
            "expected a string, received [undefined] at run (/tmp/sources/initializer.js:25:11)"
        );
        let printed = format!("Uncaught Error: boom\njobs.run<@hello.js:18:37\n\n{printed}");
        assert_eq!(
            said(&printed),
            "Uncaught Error: boom at jobs.run< (hello.js:18:37)"
        );
    }

    #[test]
    fn others() {
        assert_eq!(
            said("a\npanic: boom\n\ngoroutine 1 [running]:"),
            "panic: boom"
        );
        assert_eq!(
            said(
                "panic: boom\n\ngoroutine 1 [running]:\nmain.run(...)\n\t/src/main.go:12 +0x1d\nexit status 2"
            ),
            "panic: boom at /src/main.go:12"
        );
        assert_eq!(
            said("Assertion failed: x > 0 (book.c: post: 41)"),
            "Assertion failed: x > 0 (book.c: post: 41)"
        );
    }

    #[test]
    fn a_text_of_unknown_form_is_its_last_line() {
        assert_eq!(
            last_line("starting\nlead has no phone \n\n"),
            Some("lead has no phone")
        );
        assert_eq!(last_line(" \n"), None);
    }

    #[test]
    fn what_is_no_failure_is_not_taken_for_one() {
        for printed in [
            "",
            "connected\n3 rows",
            "Traceback (most recent call last):",
            "Stack:\n  a@b:1:2",
        ] {
            assert_eq!(failure(printed), None, "{printed}");
        }
    }
}
