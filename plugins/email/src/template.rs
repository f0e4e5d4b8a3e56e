//! Templates: `{{ variable }}`, conditions and loops, in the syntax of Jinja.
//!
//! A variable that is missing is an error that names it. In HTML every value is escaped; there is no
//! way out of that. A budget bounds both the work and the memory of a rendering.

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use patchbay_plugin::Failure;
use serde_json::{Map, Value};

/// About so many instructions, or 64 bytes each: a mail of some megabytes.
const BUDGET: u64 = 200_000;
/// Of the text of one part.
pub const MAX_TEMPLATE_BYTES: usize = 200 * 1024;
/// They would put text into HTML as it is, print the whole data, or are of no use in a mail.
const WITHOUT_FILTERS: [&str; 2] = ["safe", "pprint"];
const WITHOUT_FUNCTIONS: [&str; 2] = ["debug", "namespace"];

fn engine<'source>(html: bool) -> Environment<'source> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(BUDGET));
    for filter in WITHOUT_FILTERS {
        engine.remove_filter(filter);
    }
    for function in WITHOUT_FUNCTIONS {
        engine.remove_global(function);
    }
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine.set_formatter(move |out, _, value| {
        let text = match value.kind() {
            // Of an `if` without `else`.
            ValueKind::Undefined => return Ok(()),
            ValueKind::String | ValueKind::Number | ValueKind::Bool => value.to_string(),
            _ => {
                let reason = "a value is not a text or number";
                return Err(Error::new(ErrorKind::NonPrimitive, reason));
            }
        };
        out.write_str(&if html { escape(&text) } else { text })?;
        Ok(())
    });
    engine
}

/// Fills in every variable. `field` is the part of the mail: `subject`, `html` or `text`.
pub fn fill(
    field: &str,
    template: &str,
    variables: &Map<String, Value>,
) -> Result<String, Failure> {
    let engine = engine(field == "html");
    let template = parsed(&engine, field, template)?;
    template
        .render(minijinja::value::Serde(variables))
        .map_err(|error| {
            let place = error.line().map_or(1, |line| line);
            match error.kind() {
                ErrorKind::UndefinedError => missing(&template, place, variables).map_or_else(
                    || {
                        Failure::invalid_input(
                            field,
                            &format!("line {place} uses a variable that is missing"),
                        )
                    },
                    |name| {
                        let field = format!("variables.{name}");
                        Failure::invalid_input(&field, "is missing; the template needs it")
                    },
                ),
                ErrorKind::NonPrimitive => Failure::invalid_input(
                    field,
                    &format!("line {place} shows a value that is not a text or number"),
                ),
                ErrorKind::OutOfFuel => {
                    Failure::invalid_input(field, "takes too long or becomes too large")
                }
                // Details may quote a value.
                kind => Failure::invalid_input(field, &format!("line {place}: {kind}")),
            }
        })
}

/// Refuses what is no template.
pub fn check(field: &str, template: &str) -> Result<(), Failure> {
    if template.len() > MAX_TEMPLATE_BYTES {
        let reason = format!("is larger than {MAX_TEMPLATE_BYTES} bytes");
        return Err(Failure::invalid_input(field, &reason));
    }
    parsed(&engine(false), field, template).map(drop)
}

fn parsed<'env, 'source>(
    engine: &'env Environment<'source>,
    field: &str,
    template: &'source str,
) -> Result<minijinja::Template<'env, 'source>, Failure> {
    engine.template_from_str(template).map_err(|error| {
        let line = error.line().unwrap_or(1);
        // Of the template's own text only.
        let detail = error.detail().unwrap_or("is no template");
        Failure::invalid_input(field, &format!("line {line}: {detail}"))
    })
}

/// The variable that the failing line names and the data lacks; else the first one that it lacks.
fn missing(
    template: &minijinja::Template<'_, '_>,
    line: usize,
    variables: &Map<String, Value>,
) -> Option<String> {
    let known = |name: &str| {
        let mut parts = name.split('.');
        let first = parts.next().and_then(|part| variables.get(part));
        parts
            .try_fold(first?, |value, part| value.get(part))
            .map(drop)
    };
    let mut absent: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    absent.retain(|name| known(name).is_none());
    absent.sort();
    let line = template
        .source()
        .lines()
        .nth(line.saturating_sub(1))
        .unwrap_or_default();
    let named = absent.iter().find(|name| line.contains(name.as_str()));
    named.or(absent.first()).cloned()
}

/// As HTML shows it, within elements and quoted attributes.
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
        let data = serde_json::json!({
            "name": "A <b>", "order": { "id": 7 }, "list": [], "paid": true,
            "items": [{ "title": "<one>", "price": 1.5 }, { "title": "two", "price": 20 }],
        });
        data.as_object().cloned().expect("an object")
    }

    fn refused(field: &str, template: &str) -> String {
        fill(field, template, &variables())
            .expect_err("refused")
            .message
    }

    #[test]
    fn variables_are_filled_in_and_escaped_in_html_only() {
        let filled = |field, template| fill(field, template, &variables()).expect("filled");
        assert_eq!(
            filled("html", "Hi {{ name }}, {{order.id}}"),
            "Hi A &lt;b&gt;, 7"
        );
        assert_eq!(filled("text", "Hi {{name}}"), "Hi A <b>");
        assert_eq!(
            filled("html", "<a title='{{ name }}\"'>"),
            "<a title='A &lt;b&gt;\"'>"
        );
    }

    #[test]
    fn conditions_and_loops_work() {
        let template = "{% if paid %}Paid{% else %}Open{% endif %}:{% for item in items %} {{ item.title }}={{ item.price }};{% endfor %}";
        assert_eq!(
            fill("html", template, &variables()).expect("filled"),
            "Paid: &lt;one&gt;=1.5; two=20;"
        );
        let guarded = "{% if coupon is defined %}{{ coupon }}{% else %}none{% endif %}";
        assert_eq!(fill("text", guarded, &variables()).expect("filled"), "none");
    }

    #[test]
    fn a_missing_variable_is_an_error_that_names_it() {
        assert_eq!(
            refused("text", "{{order.total}}"),
            "variables.order.total: is missing; the template needs it"
        );
        assert_eq!(
            refused(
                "html",
                "{% if z is defined %}{% endif %}\n{% if coupon %}x{% endif %}"
            ),
            "variables.coupon: is missing; the template needs it"
        );
        assert!(
            refused("text", "{% for one in items %}{{ one.colour }}{% endfor %}")
                .contains("missing")
        );
    }

    #[test]
    fn what_is_no_text_or_no_template_is_refused_without_a_value() {
        assert!(refused("text", "{{list}}").contains("not a text or number"));
        assert!(refused("subject", "a\n{{name").starts_with("subject: line 2"));
        assert!(refused("html", "{% include 'x' %}").starts_with("html:"));
        for way_out in ["{{ name|safe }}", "{{ debug() }}", "{{ items|pprint }}"] {
            let message = refused("html", way_out);
            assert!(
                !message.contains("<one>") && !message.contains("A <b>"),
                "{message}"
            );
        }
        assert!(check("html", "{% for x in %}").is_err());
        assert!(check("html", &"x".repeat(MAX_TEMPLATE_BYTES + 1)).is_err());
        assert!(check("html", "<p>{{ anything.at.all }}</p>").is_ok());
    }

    #[test]
    fn an_endless_or_huge_template_ends_at_its_budget() {
        for template in [
            "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
            "{{ name * 100000000 }}",
            "{% set a = name * 1000 %}{% set a = a * 1000 %}{% set a = a * 1000 %}{{ a }}",
        ] {
            assert!(
                refused("text", template).starts_with("text: "),
                "{template}"
            );
        }
    }
}
