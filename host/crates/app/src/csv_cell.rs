//! One text of a CSV file, safe to open: an apostrophe precedes what a spreadsheet would take for a
//! formula, and control characters, which a terminal would obey, become replacement characters.

pub(crate) fn cell(out: &mut String, text: &str) {
    // Full-width signs count, too: spreadsheets with an Asian locale take them for the plain ones.
    let signs = [
        '=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\t', '\r', '\n',
    ];
    let is_formula = text.starts_with(signs);
    out.push('"');
    if is_formula {
        out.push('\'');
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\"\""),
            '\t' | '\r' | '\n' => out.push(c),
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_begins_like_a_formula_gets_an_apostrophe_also_with_full_width_signs() {
        let written = |text: &str| {
            let mut out = String::new();
            cell(&mut out, text);
            out
        };
        for sign in ["=", "+", "-", "@", "＝", "＋", "－", "＠", "\t"] {
            assert_eq!(written(&format!("{sign}1")), format!("\"'{sign}1\""));
        }
        assert_eq!(written("a=1"), "\"a=1\"");
    }
}
