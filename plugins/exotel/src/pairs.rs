//! The body of a callback as pairs of name and text, whatever its content type: `multipart/form-data`
//! (the vendor's default), `application/x-www-form-urlencoded` or JSON. Lists have the vendor's flat
//! names: `Legs[0][Status]`.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

const MAX_PAIRS: usize = 200;
const MAX_NAME_BYTES: usize = 200;
const MAX_VALUE_BYTES: usize = 8 << 10;

pub type Pairs = BTreeMap<String, String>;

/// The reason names no value: it is shown to operators.
pub fn read(content_type: &str, body: &[u8]) -> Result<Pairs, String> {
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let mut pairs = Collected::default();
    match essence.as_str() {
        "multipart/form-data" => multipart(content_type, body, &mut pairs)?,
        "application/x-www-form-urlencoded" => {
            let text = std::str::from_utf8(body).map_err(|_| "the body is not UTF-8")?;
            for (name, value) in form_urlencoded::parse(text.as_bytes()) {
                pairs.add(name.into_owned(), value.into_owned())?;
            }
        }
        "application/json" => {
            let node: Node = serde_json::from_slice(body)
                .map_err(|error| format!("the body is not JSON that can be read: {error}"))?;
            if !matches!(node, Node::Map(_)) {
                return Err("the body is not a JSON object".into());
            }
            flatten(node, String::new(), &mut pairs)?;
        }
        _ => {
            return Err(
                "the content type is none of multipart/form-data, application/x-www-form-urlencoded, application/json"
                    .into(),
            );
        }
    }
    Ok(pairs.0)
}

#[derive(Default)]
struct Collected(Pairs);

impl Collected {
    /// The same name with two values: nobody knows which one counts.
    fn add(&mut self, name: String, value: String) -> Result<(), String> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err("a field's name is empty, too long or has control characters".into());
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!(
                "the field {name:?} has more than {MAX_VALUE_BYTES} bytes"
            ));
        }
        if value
            .chars()
            .any(|c| c.is_control() && !"\t\r\n".contains(c))
        {
            return Err(format!("the field {name:?} has control characters"));
        }
        if self.0.len() >= MAX_PAIRS {
            return Err(format!("more than {MAX_PAIRS} fields"));
        }
        match self.0.get(&name) {
            Some(other) if *other != value => Err(format!(
                "the field {name:?} is there twice, with two values"
            )),
            _ => {
                self.0.insert(name, value);
                Ok(())
            }
        }
    }
}

fn multipart(content_type: &str, body: &[u8], pairs: &mut Collected) -> Result<(), String> {
    let wrong = |error: multer::Error| format!("the body is not multipart/form-data: {error}");
    let boundary = multer::parse_boundary(content_type).map_err(wrong)?;
    let limits = multer::SizeLimit::new().per_field(MAX_VALUE_BYTES as u64 + 1);
    let constraints = multer::Constraints::new().size_limit(limits);
    let whole = body.to_vec();
    let stream = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(whole)]);
    let mut form = multer::Multipart::with_constraints(stream, boundary, constraints);
    // Everything is there already, so nothing is waited for.
    pollster::block_on(async {
        while let Some(field) = form.next_field().await.map_err(wrong)? {
            let name = field.name().ok_or("a part has no name")?.to_owned();
            let bytes = field.bytes().await.map_err(wrong)?;
            let value = String::from_utf8(bytes.to_vec())
                .map_err(|_| format!("the field {name:?} is not UTF-8"))?;
            pairs.add(name, value)?;
        }
        Ok(())
    })
}

/// JSON in which a repeated name is seen.
enum Node {
    Text(Option<String>),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

fn flatten(node: Node, name: String, pairs: &mut Collected) -> Result<(), String> {
    match node {
        Node::Text(None) => pairs.add(name, String::new()),
        Node::Text(Some(text)) => pairs.add(name, text),
        Node::List(members) => {
            for (place, member) in members.into_iter().enumerate() {
                flatten(member, format!("{name}[{place}]"), pairs)?;
            }
            Ok(())
        }
        Node::Map(members) => {
            for (member, node) in members {
                let name = if name.is_empty() {
                    member
                } else {
                    format!("{name}[{member}]")
                };
                flatten(node, name, pairs)?;
            }
            Ok(())
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Text(None))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(member) = members.next_element()? {
            list.push(member);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(member) = members.next_entry()? {
            map.push(member);
        }
        Ok(Node::Map(map))
    }
}
