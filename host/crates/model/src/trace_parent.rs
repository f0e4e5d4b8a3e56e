//! The position of a piece of work in a distributed trace, in the format of W3C's `traceparent`
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! Of later versions, only the fields of version 00 are read. `tracestate` is not passed on, since
//! others may put anything into it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Id of the whole trace; never zero.
    pub trace_id: u128,
    /// Id of the span; never zero.
    pub span_id: u64,
    /// Whether the system that began the trace wants it kept.
    pub sampled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct InvalidTraceParent;

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut field = |digits: usize| {
            let part = parts.next().ok_or(InvalidTraceParent)?;
            let valid = part.len() == digits
                && part
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if valid {
                u128::from_str_radix(part, 16).map_err(|_| InvalidTraceParent)
            } else {
                Err(InvalidTraceParent)
            }
        };
        let (version, trace_id, span_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let more = parts.next().is_some();
        if version == 0xff || (version == 0 && more) || trace_id == 0 || span_id == 0 {
            return Err(InvalidTraceParent);
        }
        Ok(Self {
            trace_id,
            span_id: u64::try_from(span_id).map_err(|_| InvalidTraceParent)?,
            sampled: flags & 1 == 1,
        })
    }
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// For a field that anybody may have written: an invalid value counts as absent.
pub(crate) fn lenient<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<TraceParent>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_wrong_is_not() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent: TraceParent = text.parse().expect("a traceparent");
        assert_eq!((parent.to_string().as_str(), parent.sampled), (text, true));
        let later =
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02-more".parse::<TraceParent>();
        assert_eq!(
            later,
            Ok(TraceParent {
                sampled: false,
                ..parent
            })
        );
        for wrong in [
            "",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            assert_eq!(
                wrong.parse::<TraceParent>(),
                Err(InvalidTraceParent),
                "{wrong}"
            );
        }
    }
}
