//! Reads replies about streams, whatever another program has written into them.

use redis::{FromRedisValue, RedisResult, Value};

/// Reads a reply in which field names may be no UTF-8. The library would reject the whole reply
/// because of one such name.
pub(crate) fn read<T: FromRedisValue>(reply: Value) -> RedisResult<T> {
    Ok(T::from_redis_value(with_readable_names(reply))?)
}

/// An entry is its id and a flat list of names and values. The levels around it look alike, with
/// lists in place of names.
fn with_readable_names(reply: Value) -> Value {
    match reply {
        Value::Array(parts) => match <[Value; 2]>::try_from(parts) {
            Ok([id @ Value::BulkString(_), Value::Array(fields)]) => {
                let fields = fields
                    .into_iter()
                    .enumerate()
                    .map(|(place, field)| match field {
                        Value::BulkString(name) if place.is_multiple_of(2) => Value::BulkString(
                            String::from_utf8_lossy(&name).into_owned().into_bytes(),
                        ),
                        field => with_readable_names(field),
                    });
                Value::Array(vec![id, Value::Array(fields.collect())])
            }
            Ok(parts) => Value::Array(parts.map(with_readable_names).into()),
            Err(parts) => Value::Array(parts.into_iter().map(with_readable_names).collect()),
        },
        reply => reply,
    }
}

#[cfg(test)]
mod tests {
    use redis::streams::{StreamRangeReply, StreamReadReply};

    use super::*;

    #[test]
    fn a_name_that_is_no_text_spoils_no_reply() {
        let text = |text: &[u8]| Value::BulkString(text.to_vec());
        let entry = |name: &[u8]| {
            Value::Array(vec![
                text(b"1-0"),
                Value::Array(vec![text(name), text(b"\xff")]),
            ])
        };
        let entries = Value::Array(vec![entry(b"\xff\xfe"), entry(b"r")]);
        let range: StreamRangeReply = read(entries.clone()).expect("a range");
        assert_eq!(range.ids.len(), 2);
        assert_eq!(
            range.ids[1].map["r"],
            text(b"\xff"),
            "values stay as they are"
        );
        let found: StreamReadReply = read(Value::Array(vec![Value::Array(vec![
            text(b"key"),
            entries,
        ])]))
        .expect("a reply");
        assert_eq!(found.keys[0].ids.len(), 2);
    }
}
