//! Names that people can read and paste into a shell. Producers choose the names of queues and
//! jobs, and such a name may hold anything.

use std::borrow::Cow;
use std::fmt::Write;

/// One word of a POSIX shell: unchanged where that is safe, else in quotes. Control characters, and
/// those that change the direction of text, become escapes of `$'…'`, which bash, zsh, ksh and
/// POSIX 2024 read: none of them reaches a terminal.
pub fn word(text: &str) -> Cow<'_, str> {
    let is_safe = |c: char| c.is_alphanumeric() || "_-./@%+=,:".contains(c);
    if !text.is_empty() && text.chars().all(is_safe) {
        return text.into();
    }
    if !text.chars().any(steers) {
        return format!("'{}'", text.replace('\'', r"'\''")).into();
    }
    let mut quoted = String::from("$'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str(r"\n"),
            // As bytes: not every shell that knows `\x` knows `\u`. Octal needs no terminator.
            c if steers(c) => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    // Writing to a string cannot fail.
                    let _ = write!(quoted, r"\{byte:03o}");
                }
            }
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted.into()
}

/// Arguments of one of our commands that must not be read as options, whatever they begin with. They
/// are the end of the command: see [`arguments_with`] for options.
pub fn arguments(names: &[&str]) -> String {
    let words: Vec<Cow<'_, str>> = names.iter().map(|name| word(name)).collect();
    let separator = if names.iter().any(|name| name.starts_with('-')) {
        "-- "
    } else {
        ""
    };
    format!("{separator}{}", words.join(" "))
}

/// As [`arguments`], with options of the command; those stand in front where nothing behind the
/// names would be read as one.
pub fn arguments_with(names: &[&str], options: &str) -> String {
    let names = arguments(names);
    match names.starts_with("-- ") {
        true => format!("{options} {names}"),
        false => format!("{names} {options}"),
    }
}

/// An option of one of our commands with its value, whatever that begins with: `--queue emailQueue`.
pub fn option(name: &str, value: &str) -> String {
    let between = if value.starts_with('-') { "=" } else { " " };
    format!("{name}{between}{}", word(value))
}

/// A job as texts name it, and as commands take it: `emailQueue 7`.
pub fn job(queue: &str, id: &str) -> String {
    format!("{} {}", word(queue), word(id))
}

/// Whether a terminal would obey the character, or show the text beside it in another order.
pub fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_stay_and_others_are_quoted() {
        for (name, quoted) in [
            ("emailQueue", "emailQueue"),
            ("отчёты", "отчёты"),
            ("repeat:a:1", "repeat:a:1"),
            ("", "''"),
            ("my queue", "'my queue'"),
            ("a'b", r"'a'\''b'"),
            ("$(x)", "'$(x)'"),
            ("😀", "'😀'"),
            ("a\nb", r"$'a\nb'"),
            ("it's\t1\\", r"$'it\'s\0111\\'"),
            ("\u{1b}[2J", r"$'\033[2J'"),
            ("\u{202e}", r"$'\342\200\256'"),
        ] {
            assert_eq!(word(name), quoted);
        }
        assert_eq!(arguments(&["my queue", "7"]), "'my queue' 7");
        assert_eq!(arguments(&["q", "-x"]), "-- q -x");
        assert_eq!(arguments_with(&["q", "7"], "--none"), "q 7 --none");
        assert_eq!(arguments_with(&["-q"], "--none"), "--none -- -q");
        assert_eq!(option("--queue", "my queue"), "--queue 'my queue'");
        assert_eq!(option("--queue", "-q"), "--queue=-q");
        assert_eq!(job("-q", "7"), "-q 7");
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for name in [
            "a b",
            "it's",
            "a\nb",
            "\u{1b}[2J\u{9b}1",
            "\\",
            "$HOME `x` \"y\" !",
            "-n",
            "\t1",
            "\u{202e}7",
            "отчёты😀",
        ] {
            let script = format!("printf %s {}", word(name));
            // Dash, which is often /bin/sh, does not know `$'…'`.
            let output = std::process::Command::new("bash")
                .args(["-c", &script])
                .output()
                .expect("bash");
            assert_eq!(String::from_utf8_lossy(&output.stdout), name, "{script}");
        }
    }
}
