//! `{{variable}}` in templates.

use patchbay_plugin::Failure;
use serde_json::{Map, Value};

/// Fills in every variable; one that is missing is an error. In HTML, values are escaped.
pub fn fill(template: &str, variables: &Map<String, Value>, html: bool) -> Result<String, Failure> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((name, behind)) = after.split_once("}}") else {
            return Err(Failure::invalid_input("template", "a {{ has no }}"));
        };
        let name = name.trim();
        let value = name
            .split('.')
            .try_fold(None::<&Value>, |value, part| match value {
                None => variables.get(part).map(Some),
                Some(value) => value.get(part).map(Some),
            });
        let text = match value.flatten() {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            Some(_) => {
                return Err(Failure::invalid_input(
                    &format!("variables.{name}"),
                    "is not a text or number",
                ));
            }
            None => {
                return Err(Failure::invalid_input(
                    &format!("variables.{name}"),
                    "is missing; the template needs it",
                ));
            }
        };
        if html {
            out.push_str(&escape(&text))
        } else {
            out.push_str(&text)
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Map<String, Value> {
        serde_json::json!({ "name": "A <b>", "order": { "id": 7 }, "list": [] })
            .as_object()
            .cloned()
            .expect("an object")
    }

    #[test]
    fn variables_are_filled_in_and_escaped_in_html_only() {
        assert_eq!(
            fill("Hi {{ name }}, {{order.id}}", &variables(), true).expect("filled"),
            "Hi A &lt;b&gt;, 7"
        );
        assert_eq!(
            fill("Hi {{name}}", &variables(), false).expect("filled"),
            "Hi A <b>"
        );
    }

    #[test]
    fn a_missing_variable_is_an_error_that_names_it() {
        assert_eq!(
            fill("{{order.total}}", &variables(), false)
                .expect_err("missing")
                .message,
            "variables.order.total: is missing; the template needs it"
        );
        assert!(fill("{{list}}", &variables(), false).is_err());
        assert!(fill("{{name", &variables(), false).is_err());
    }
}
