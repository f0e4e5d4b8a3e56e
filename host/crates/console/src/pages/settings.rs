//! The settings of a plugin, as a form made from the JSON Schema of its manifest.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::{AnyDocument, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;
use patchbay_api::plugins::{PluginsSetSettings, PluginsSettings, PluginsSettingsSchema};
use patchbay_api::reveal::Reveal;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::parts::{refused, reveal_reason};
use super::plugin::{page_of, parts, path_of};
use crate::entry::{Fields, Posted};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(
            &below_root("plugin/{name}/settings"),
            get(settings).post(save),
        )
        .route(&below_root("plugin/{name}/settings/reveal"), post(reveal))
}

/// How a setting is typed.
#[derive(Debug, PartialEq)]
enum Input {
    Text,
    Whole,
    Number,
    Flag,
    Choice(Vec<String>),
    /// A JSON document.
    Json,
}

/// One setting of the schema.
struct Setting<'a> {
    name: &'a str,
    about: Option<&'a str>,
    default: Option<&'a Value>,
    is_required: bool,
    input: Input,
}

impl Setting<'_> {
    /// Of the field in a form.
    fn field(&self) -> String {
        format!("setting.{}", self.name)
    }

    /// Of the element: letters, digits and hyphens only.
    fn id(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = self.name.chars().map(plain).collect();
        format!("setting-{name}")
    }
}

/// The settings that a schema names, if it is one of an object; else none.
fn named<'s>(schema: &'s Value) -> Vec<Setting<'s>> {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let of = |(name, schema): (&'s String, &'s Value)| Setting {
        name,
        about: schema["description"].as_str(),
        default: schema.get("default"),
        is_required: required.contains(&name.as_str()),
        input: input(schema),
    };
    let properties = schema["properties"].as_object();
    properties.into_iter().flatten().map(of).collect()
}

fn input(schema: &Value) -> Input {
    if let Some(words) = schema["enum"].as_array() {
        let texts: Option<Vec<String>> = words
            .iter()
            .map(|word| word.as_str().map(str::to_owned))
            .collect();
        return texts.map_or(Input::Json, Input::Choice);
    }
    match schema["type"].as_str() {
        Some("string") => Input::Text,
        Some("integer") => Input::Whole,
        Some("number") => Input::Number,
        Some("boolean") => Input::Flag,
        _ => Input::Json,
    }
}

async fn settings(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    shown(&visit, unescaped(&name), Reveal::default()).await
}

/// Shows hidden settings once: the answer to a form, so that no address and no refresh repeats it.
async fn reveal(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let reason = reveal_reason(&visit, &fields);
    let reveal = Reveal {
        reveal: true,
        reason: Some(reason.map_err(|problem| problem.back(place(&name)))?),
    };
    shown(&visit, &name, reveal).await
}

fn place(name: &str) -> String {
    address(&["plugin", name, "settings"])
}

async fn shown(visit: &Visit, name: &str, asked: Reveal) -> Result<Response, Problem> {
    let is_revealed = asked.reveal;
    let (stored, schema) = tokio::join!(
        visit.ask::<PluginsSettings>(path_of(name), asked, NoBody),
        visit.ask::<PluginsSettingsSchema>(path_of(name), NoQuery {}, NoBody),
    );
    let back = |problem: Problem| problem.back(page_of(name));
    let (stored, schema) = (stored.map_err(back)?, schema.map_err(back)?);
    let reveal = html! {
        label for="reveal-reason" { "Reason" }
        input id="reveal-reason" name="reason" type="text" required maxlength="500" autocomplete="off";
        button type="submit" { "Show hidden values (recorded)" }
    };
    let main = html! {
        (parts(name, "settings"))
        @if schema.is_null() {
            (frame::empty("It has no settings.", html! { "Its manifest names no schema for any." }))
        } @else {
            p { "Settings hold from the next call on. What is left empty is not stored, and the plugin's default holds." }
            @if visit.may::<PluginsSetSettings>() { (editor(visit, name, &schema, &stored)) }
            @else { (show::json(&stored.to_string())) }
            @if visit.may_see_data() && !is_revealed {
                details {
                    summary { "Hidden values" }
                    p { "Values of settings with names of secrets are hidden. As they are hidden, they cannot be saved: show them first." }
                    (frame::form(visit, &address(&["plugin", name, "settings", "reveal"]), "bar", reveal))
                }
            }
            details { summary { "JSON Schema" } (show::json(&schema.to_string())) }
        }
    };
    let path = [(address(&["plugins"]), "Plugins"), (page_of(name), name)];
    let title = format!("Settings of {name}");
    let head = Head::new(Section::Plugins, &title).below(&path);
    Ok(frame::page(visit, &head, main))
}

fn editor(visit: &Visit, name: &str, schema: &Value, stored: &Value) -> Markup {
    let known = named(schema);
    let nothing = Map::new();
    let values = stored.as_object().unwrap_or(&nothing);
    // What the schema does not name stays with the rest, as one document.
    let others: Map<String, Value> = values
        .iter()
        .filter(|(name, _)| !known.iter().any(|setting| setting.name == *name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let content = html! {
        @for setting in &known { (field(setting, values.get(setting.name))) }
        @if known.is_empty() || !others.is_empty() {
            p {
                label for="others" { @if known.is_empty() { "Settings, a JSON document" } @else { "Other settings, a JSON document" } }
                textarea id="others" name="others" rows="8" spellcheck="false" { "\n" (show::editable(&if known.is_empty() { stored.to_string() } else { Value::Object(others).to_string() })) }
            }
        }
        p {
            label for="reason" { "Reason, for the record" }
            input id="reason" name="reason" type="text" maxlength="500" autocomplete="off";
        }
        div class="actions" { button type="submit" class="primary" { "Save the settings" } }
    };
    frame::form(visit, &place(name), "stack", content)
}

fn field(setting: &Setting<'_>, stored: Option<&Value>) -> Markup {
    let (id, name) = (setting.id(), setting.field());
    let about = format!("{id}-about");
    let default = setting.default.map(Value::to_string);
    let text = match stored {
        Some(Value::String(text)) if setting.input != Input::Json => text.clone(),
        Some(value) if setting.input == Input::Json => show::editable(&value.to_string()),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let is_described = setting.about.is_some() || default.is_some();
    let described = is_described.then_some(&about);
    html! {
        p {
            label for=(id) { code { (show::text(setting.name)) } @if setting.is_required { " (required)" } @if setting.input == Input::Json { ", a JSON document" } }
            @match &setting.input {
                Input::Text => { input id=(id) name=(name) type="text" value=(text) autocomplete="off" spellcheck="false" aria-describedby=[described]; }
                Input::Whole => { input id=(id) name=(name) type="number" step="1" value=(text) aria-describedby=[described]; }
                Input::Number => { input id=(id) name=(name) type="number" step="any" value=(text) aria-describedby=[described]; }
                Input::Flag => {
                    select id=(id) name=(name) aria-describedby=[described] {
                        option value="" selected[text.is_empty()] { "not set" }
                        option value="true" selected[text == "true"] { "yes" }
                        option value="false" selected[text == "false"] { "no" }
                    }
                }
                Input::Choice(words) => {
                    select id=(id) name=(name) aria-describedby=[described] {
                        option value="" selected[text.is_empty()] { "not set" }
                        @for word in words { option value=(word) selected[*word == text] { (show::plain(word)) } }
                    }
                }
                Input::Json => { textarea id=(id) name=(name) rows="6" spellcheck="false" aria-describedby=[described] { "\n" (text) } }
            }
            @if is_described {
                br;
                span class="dim" id=(about) {
                    @if let Some(text) = setting.about { (show::text(text)) }
                    @if let Some(default) = &default { @if setting.about.is_some() { ". " } "Default: " code { (show::short(default, 80)) } }
                }
            }
        }
    }
}

/// The document that a form means.
fn typed(schema: &Value, fields: &Fields) -> Result<Value, String> {
    let known = named(schema);
    let mut settings = match fields.text("others") {
        None => Map::new(),
        Some(text) => {
            let wrong = |error| format!("Nothing was saved: the document is no JSON ({error})");
            match serde_json::from_str::<Value>(text).map_err(wrong)? {
                Value::Object(others) => others,
                other if known.is_empty() => return Ok(other),
                _ => return Err("Nothing was saved: other settings are an object, { … }".into()),
            }
        }
    };
    for setting in &known {
        let Some(text) = fields.text(&setting.field()) else {
            continue;
        };
        let wrong = |what: &str| format!("Nothing was saved: {}: {what}", setting.name);
        let value = match &setting.input {
            Input::Text | Input::Choice(_) => Value::String(text.to_owned()),
            Input::Flag => Value::Bool(text == "true"),
            Input::Whole | Input::Number => {
                let number: Number =
                    serde_json::from_str(text).map_err(|_| wrong("must be a number"))?;
                Value::Number(number)
            }
            Input::Json => serde_json::from_str(text)
                .map_err(|error| wrong(&format!("must be a JSON document ({error})")))?,
        };
        settings.insert(setting.name.to_owned(), value);
    }
    Ok(Value::Object(settings))
}

async fn save(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(place(&name));
    let schema = visit.ask::<PluginsSettingsSchema>(path_of(&name), NoQuery {}, NoBody);
    let schema = schema.await.map_err(back)?;
    let settings = typed(&schema, &fields).map_err(|message| back(refused(&visit, message)))?;
    let document = RawValue::from_string(settings.to_string()).map_err(|_| {
        back(refused(
            &visit,
            "Nothing was saved: the document is no JSON",
        ))
    })?;
    let body = AnyDocument(document);
    let done =
        visit.change::<PluginsSetSettings>(path_of(&name), NoQuery {}, body, fields.reason());
    done.await.map_err(back)?;
    let notice = Notice::new(format!(
        "Saved. The settings of {name} hold from the next call on."
    ));
    Ok(visit.done(&place(&name), &notice))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form(pairs: &[(&str, &str)]) -> Fields {
        Fields::of(pairs)
    }

    #[test]
    fn a_form_of_a_schema_means_the_document_that_was_typed() {
        let schema = json!({
            "type": "object",
            "required": ["from"],
            "properties": {
                "from": { "type": "string" },
                "port": { "type": "integer" },
                "share": { "type": "number" },
                "strict": { "type": "boolean" },
                "level": { "enum": ["low", "high"] },
                "brands": { "type": "object" },
            },
        });
        let typed_as = |pairs: &[(&str, &str)]| typed(&schema, &form(pairs));
        assert_eq!(
            typed_as(&[
                ("setting.from", "a@example.org"),
                ("setting.port", "587"),
                ("setting.share", "0.5"),
                ("setting.strict", "false"),
                ("setting.level", "high"),
                ("setting.brands", "{\"x\": []}"),
                ("others", "{\"old\": 1}"),
            ]),
            Ok(json!({
                "from": "a@example.org", "port": 587, "share": 0.5, "strict": false, "level": "high",
                "brands": { "x": [] }, "old": 1,
            }))
        );
        assert_eq!(
            typed_as(&[("setting.from", " "), ("setting.strict", "")]),
            Ok(json!({})),
            "empty: not stored"
        );
        for wrong in [
            ("setting.port", "many"),
            ("setting.brands", "{ oops"),
            ("others", "[1]"),
        ] {
            assert!(typed_as(&[wrong]).is_err_and(|error| error.starts_with("Nothing was saved")));
        }
    }

    #[test]
    fn a_schema_without_names_is_typed_as_one_document() {
        let schema = json!({ "type": "array" });
        assert_eq!(typed(&schema, &form(&[("others", "[1]")])), Ok(json!([1])));
    }
}
