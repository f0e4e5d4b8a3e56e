//! Answers in JSON or XML.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Xml,
}

pub(super) fn answer(format: Format, status: u16, value: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (kind, text) = match format {
        Format::Json => ("application/json", value.to_string()),
        Format::Xml => {
            let mut text =
                String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<TwilioResponse>");
            write_xml(value, &mut text);
            text.push_str("</TwilioResponse>");
            ("application/xml", text)
        }
    };
    (status, [(header::CONTENT_TYPE, kind)], text).into_response()
}

pub(super) fn refused(format: Format, status: u16, message: &str) -> Response {
    let error = json!({ "RestException": { "Status": status, "Message": message } });
    answer(format, status, &error)
}

fn write_xml(value: &Value, text: &mut String) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (name, member) in members {
                // A list is the same element again.
                let members = match member {
                    Value::Array(list) => list.as_slice(),
                    other => std::slice::from_ref(other),
                };
                for member in members {
                    text.push_str(&format!("<{name}>"));
                    write_xml(member, text);
                    text.push_str(&format!("</{name}>"));
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|member| write_xml(member, text)),
        Value::String(plain) => text.push_str(
            &plain
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;"),
        ),
        other => text.push_str(&other.to_string()),
    }
}
