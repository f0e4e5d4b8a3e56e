//! Text that somebody else wrote: characters that steer a terminal or turn the direction of writing
//! are shown as what they are, and long text is cut.

use maud::{Markup, PreEscaped, Render, html};

/// Longest text that is shown at once, in characters.
const MOST: usize = 20_000;
/// What of a long text is shown before somebody asks for all of it.
const FIRST: usize = 2_000;
/// Most that a page carries of one text, in characters.
const ALL: usize = 1_500_000;

/// Whether a character would do something instead of being seen.
pub(super) fn steers(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        c if c.is_control() => true,
        // Turns of the direction of writing, joiners, marks without a width, and tags.
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

fn name(c: char) -> String {
    match c {
        '\u{1b}' => "ESC".to_owned(),
        '\r' => "CR".to_owned(),
        '\0' => "NUL".to_owned(),
        c => format!("U+{:04X}", u32::from(c)),
    }
}

/// The text as it is, in HTML.
pub(crate) fn text(text: &str) -> Markup {
    if !text.contains(steers) {
        return html! { (text) };
    }
    let mut shown = String::with_capacity(text.len() * 2);
    let mut plain = String::new();
    for c in text.chars() {
        if !steers(c) {
            plain.push(c);
            continue;
        }
        plain.as_str().render_to(&mut shown);
        plain.clear();
        shown.push_str("<span class=\"ctl\">");
        shown.push_str(&name(c));
        shown.push_str("</span>");
    }
    plain.as_str().render_to(&mut shown);
    PreEscaped(shown)
}

/// For a place that takes no elements, such as a title.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| if steers(c) { '\u{fffd}' } else { c };
    text.chars().take(200).map(shown).collect()
}

/// The beginning of a text in one line, for tables; all of it is in the title.
pub(crate) fn short(whole: &str, most: usize) -> Markup {
    let line = whole.lines().next().unwrap_or_default();
    let is_cut = line.len() < whole.len() || line.chars().count() > most;
    if !is_cut {
        return text(whole);
    }
    let cut: String = line.chars().take(most).chain(['…']).collect();
    html! { span title=(plain(whole)) { (text(&cut)) } }
}

/// A text of several lines, as it is. Of a long one the first part, and all of it when somebody asks.
pub(crate) fn block(whole: &str) -> Markup {
    let count = whole.chars().take(ALL + 1).count();
    if count <= MOST {
        return html! { pre tabindex="0" { (text(whole)) } };
    }
    let first: String = whole.chars().take(FIRST).collect();
    let all: String = whole.chars().take(ALL).collect();
    html! {
        pre tabindex="0" { (text(&first)) "…" }
        details {
            summary { "Show all (" (super::number(whole.len() as u64)) " bytes)" }
            pre tabindex="0" { (text(&all)) @if count > ALL { "… (the rest is left out here: the API has it)" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_only_text() {
        let shown = text("<script>alert(1)</script>\u{202e}\u{1b}[31m\"'&\n").into_string();
        assert!(!shown.contains("<script>") && !shown.contains('\u{202e}'));
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(shown.contains("&lt;script&gt;"), "{shown}");
        assert!(shown.contains("<span class=\"ctl\">U+202E</span>"));
        assert!(shown.contains("<span class=\"ctl\">ESC</span>[31m"));
        assert_eq!(plain("a\u{202e}b"), "a\u{fffd}b");
    }

    #[test]
    fn long_text_is_cut_and_all_of_it_is_one_step_away() {
        let long = "é".repeat(MOST + 1);
        let shown = block(&long).into_string();
        assert!(shown.contains("<details>") && shown.contains("40\u{202f}002 bytes"));
        assert!(!block("short").into_string().contains("<details>"));
        let cut = short(&"x".repeat(100), 10).into_string();
        assert!(cut.contains(&format!(">{}…<", "x".repeat(10))), "{cut}");
        assert!(short("one\ntwo", 10).into_string().contains("one…"));
        assert_eq!(short("one", 10).into_string(), "one");
    }
}
