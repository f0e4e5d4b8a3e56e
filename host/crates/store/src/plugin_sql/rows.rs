//! Columns: converts Postgres's binary forms to values of the contract. The forms are those of
//! `*send` in src/backend/utils/adt.

use std::net::{Ipv4Addr, Ipv6Addr};

use chrono::{DateTime, Duration, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat};
use patchbay_model::sql::SqlValue;
use serde_json::{Value, json};
use sqlx::TypeInfo;
use sqlx::ValueRef;
use sqlx::postgres::{PgTypeInfo, PgTypeKind, PgValueRef};

use super::oid;

/// Limit for arrays within arrays. Postgres itself has at most 6 dimensions.
const MAX_DIMENSIONS: usize = 6;

/// Returns the value and its size in bytes.
pub(super) fn value(raw: &PgValueRef<'_>) -> Result<(SqlValue, usize), String> {
    if raw.is_null() {
        return Ok((SqlValue::Null, 1));
    }
    let info = raw.type_info();
    let bytes = raw.as_bytes().map_err(|error| error.to_string())?;
    let value = match info.kind() {
        PgTypeKind::Array(element) => SqlValue::Json(array(bytes, element)?.to_string()),
        _ => scalar(bytes, &info)?,
    };
    Ok((value, bytes.len() + 1))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
    bytes
        .try_into()
        .map_err(|_| format!("expected {N} bytes, got {}", bytes.len()))
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "not UTF-8".into())
}

fn scalar(bytes: &[u8], info: &PgTypeInfo) -> Result<SqlValue, String> {
    Ok(match info.oid().map_or(0, |oid| oid.0) {
        oid::BOOL => SqlValue::Boolean(fixed::<1>(bytes)? != [0]),
        oid::INT2 => SqlValue::Int(i16::from_be_bytes(fixed(bytes)?).into()),
        oid::INT4 => SqlValue::Int(i32::from_be_bytes(fixed(bytes)?).into()),
        oid::INT8 => SqlValue::Int(i64::from_be_bytes(fixed(bytes)?)),
        oid::OID => SqlValue::Int(u32::from_be_bytes(fixed(bytes)?).into()),
        oid::FLOAT4 => SqlValue::Float(f32::from_be_bytes(fixed(bytes)?).into()),
        oid::FLOAT8 => SqlValue::Float(f64::from_be_bytes(fixed(bytes)?)),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::UNKNOWN | oid::CHAR => {
            SqlValue::Text(text(bytes)?)
        }
        oid::BYTEA => SqlValue::Bytes(bytes.to_vec()),
        oid::JSON => SqlValue::Json(text(bytes)?),
        oid::JSONB => match bytes.split_first() {
            Some((1, json)) => SqlValue::Json(text(json)?),
            _ => return Err("an unknown version of jsonb".into()),
        },
        oid::UUID => SqlValue::Text(sqlx::types::Uuid::from_bytes(fixed(bytes)?).to_string()),
        oid::NUMERIC => SqlValue::Text(numeric(bytes)?),
        oid::DATE => SqlValue::Text(date(i32::from_be_bytes(fixed(bytes)?))?),
        oid::TIME => SqlValue::Text(time(i64::from_be_bytes(fixed(bytes)?))?),
        oid::TIMESTAMP => SqlValue::Text(timestamp(i64::from_be_bytes(fixed(bytes)?), false)?),
        oid::TIMESTAMPTZ => SqlValue::Text(timestamp(i64::from_be_bytes(fixed(bytes)?), true)?),
        oid::INTERVAL => SqlValue::Text(interval(bytes)?),
        oid::INET => SqlValue::Text(address(bytes, false)?),
        oid::CIDR => SqlValue::Text(address(bytes, true)?),
        oid::VOID => SqlValue::Null,
        _ if matches!(info.kind(), PgTypeKind::Enum(_))
            || info.name().eq_ignore_ascii_case("citext") =>
        {
            SqlValue::Text(text(bytes)?)
        }
        _ => {
            return Err(format!(
                "the host does not read {}: cast it to text",
                info.name().to_ascii_lowercase()
            ));
        }
    })
}

fn json(value: SqlValue) -> Result<Value, String> {
    Ok(match value {
        SqlValue::Null => Value::Null,
        SqlValue::Boolean(value) => json!(value),
        SqlValue::Int(value) => json!(value),
        SqlValue::Float(value) if value.is_finite() => json!(value),
        SqlValue::Float(value) => json!(value.to_string()),
        SqlValue::Text(text) => json!(text),
        SqlValue::Json(text) => serde_json::from_str(&text).map_err(|error| error.to_string())?,
        SqlValue::Bytes(_) => return Err("the host does not read arrays of bytea".into()),
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("the value is cut off")?;
        self.0 = rest;
        Ok(head)
    }
    fn int(&mut self) -> Result<i32, String> {
        Ok(i32::from_be_bytes(fixed(self.take(4)?)?))
    }
    fn short(&mut self) -> Result<i16, String> {
        Ok(i16::from_be_bytes(fixed(self.take(2)?)?))
    }
}

fn array(bytes: &[u8], element: &PgTypeInfo) -> Result<Value, String> {
    let mut reader = Reader(bytes);
    let dimensions = usize::try_from(reader.int()?).map_err(|error| error.to_string())?;
    if dimensions > MAX_DIMENSIONS {
        return Err("too many dimensions".into());
    }
    let (_has_null, _oid) = (reader.int()?, reader.int()?);
    let mut lengths = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        lengths.push(usize::try_from(reader.int()?).map_err(|error| error.to_string())?);
        reader.int()?;
    }
    if lengths.is_empty() {
        return Ok(json!([]));
    }
    level(&mut reader, &lengths, element)
}

fn level(
    reader: &mut Reader<'_>,
    lengths: &[usize],
    element: &PgTypeInfo,
) -> Result<Value, String> {
    let Some((&length, inner)) = lengths.split_first() else {
        let Ok(size) = usize::try_from(reader.int()?) else {
            return Ok(Value::Null);
        };
        return json(scalar(reader.take(size)?, element)?);
    };
    (0..length).map(|_| level(reader, inner, element)).collect()
}

fn numeric(bytes: &[u8]) -> Result<String, String> {
    let mut reader = Reader(bytes);
    let digits = reader.short()?;
    let weight = i32::from(reader.short()?);
    let sign = reader.short()? as u16;
    let scale = usize::try_from(reader.short()?).map_err(|error| error.to_string())?;
    match sign {
        0xC000 => return Ok("NaN".into()),
        0xD000 => return Ok("Infinity".into()),
        0xF000 => return Ok("-Infinity".into()),
        _ => {}
    }
    let digits = (0..digits)
        .map(|_| reader.short())
        .collect::<Result<Vec<i16>, _>>()?;
    // Groups of four decimal digits; `weight` is the position of the first group.
    let group = |place: i32| {
        let index = usize::try_from(weight - place).ok();
        index
            .and_then(|index| digits.get(index).copied())
            .unwrap_or(0)
    };
    let mut out = String::new();
    if sign == 0x4000 {
        out.push('-');
    }
    let whole: String = (0..=weight.max(0))
        .rev()
        .map(|place| format!("{:04}", group(place)))
        .collect();
    let whole = whole.trim_start_matches('0');
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        let groups = i32::try_from(scale.div_ceil(4)).map_err(|error| error.to_string())?;
        let fraction: String = (1..=groups)
            .map(|place| format!("{:04}", group(-place)))
            .collect();
        out.push('.');
        out.push_str(&fraction[..scale]);
    }
    Ok(out)
}

fn epoch() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2000, 1, 1)
        .unwrap_or_default()
        .and_time(NaiveTime::MIN)
}

const OUT_OF_RANGE: &str = "the time is out of the host's range: cast it to text";

fn date(days: i32) -> Result<String, String> {
    Ok(match days {
        i32::MAX => "infinity".into(),
        i32::MIN => "-infinity".into(),
        _ => {
            let date = epoch()
                .date()
                .checked_add_signed(Duration::days(days.into()))
                .ok_or(OUT_OF_RANGE)?;
            date.format("%Y-%m-%d").to_string()
        }
    })
}

fn time(micros: i64) -> Result<String, String> {
    // Postgres allows 24:00:00.
    if micros == 24 * 3_600 * 1_000_000 {
        return Ok("24:00:00".into());
    }
    let (time, days) = NaiveTime::MIN.overflowing_add_signed(Duration::microseconds(micros));
    if days != 0 {
        Err(OUT_OF_RANGE.into())
    } else {
        Ok(time.format("%H:%M:%S%.f").to_string())
    }
}

fn timestamp(micros: i64, has_zone: bool) -> Result<String, String> {
    Ok(match micros {
        i64::MAX => "infinity".into(),
        i64::MIN => "-infinity".into(),
        _ => {
            let time = epoch()
                .checked_add_signed(Duration::microseconds(micros))
                .ok_or(OUT_OF_RANGE)?;
            if has_zone {
                let time: DateTime<chrono::Utc> = time.and_utc();
                time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
            } else {
                time.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
            }
        }
    })
}

/// As Postgres writes it with `intervalstyle = iso_8601`.
fn interval(bytes: &[u8]) -> Result<String, String> {
    let mut reader = Reader(bytes);
    let micros = i64::from_be_bytes(fixed(reader.take(8)?)?);
    let (days, months) = (reader.int()?, reader.int()?);
    let mut out = String::from("P");
    for (n, unit) in [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')] {
        if n != 0 {
            out += &format!("{n}{unit}");
        }
    }
    if micros != 0 {
        out.push('T');
        let (minutes, rest) = (micros / 60_000_000, micros % 60_000_000);
        for (n, unit) in [(minutes / 60, 'H'), (minutes % 60, 'M')] {
            if n != 0 {
                out += &format!("{n}{unit}");
            }
        }
        if rest != 0 {
            let (sign, rest) = (if rest < 0 { "-" } else { "" }, rest.unsigned_abs());
            let fraction = format!("{:06}", rest % 1_000_000);
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            out += &format!("{sign}{}{point}{fraction}S", rest / 1_000_000);
        }
    }
    if out == "P" {
        out.push_str("T0S");
    }
    Ok(out)
}

fn address(bytes: &[u8], is_network: bool) -> Result<String, String> {
    let [_family, bits, _is_cidr, _length, rest @ ..] = bytes else {
        return Err("the value is cut off".into());
    };
    let (address, full) = match rest.len() {
        4 => (Ipv4Addr::from(fixed::<4>(rest)?).to_string(), 32),
        _ => (Ipv6Addr::from(fixed::<16>(rest)?).to_string(), 128),
    };
    Ok(if is_network || *bits != full {
        format!("{address}/{bits}")
    } else {
        address
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shorts(numbers: &[i32]) -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|&n| (n as u16).to_be_bytes())
            .collect()
    }

    #[test]
    fn numbers_of_any_size_keep_every_digit() {
        let numeric = |numbers: &[i32]| numeric(&shorts(numbers)).expect("a number");
        assert_eq!(numeric(&[0, 0, 0, 0]), "0");
        assert_eq!(numeric(&[2, 0, 0, 2, 12, 3400]), "12.34");
        assert_eq!(numeric(&[1, -1, 0x4000, 4, 50]), "-0.0050");
        assert_eq!(numeric(&[1, 2, 0, 0, 5]), "500000000");
        assert_eq!(numeric(&[1, -2, 0, 6, 1200]), "0.000012");
        assert_eq!(numeric(&[0, 0, 0xC000, 0]), "NaN");
    }

    #[test]
    fn intervals_are_iso_8601_with_a_sign_per_part() {
        let interval = |micros: i64, days: i32, months: i32| {
            let bytes = [
                &micros.to_be_bytes()[..],
                &days.to_be_bytes(),
                &months.to_be_bytes(),
            ]
            .concat();
            interval(&bytes).expect("an interval")
        };
        assert_eq!(interval(0, 0, 0), "PT0S");
        assert_eq!(interval(3_723_500_000, 3, 14), "P1Y2M3DT1H2M3.5S");
        assert_eq!(interval(-500_000, 0, 0), "PT-0.5S");
    }

    #[test]
    fn times_are_rfc_3339_and_infinity_has_its_name() {
        assert_eq!(timestamp(0, true).expect("a time"), "2000-01-01T00:00:00Z");
        assert_eq!(
            timestamp(1_500_000, false).expect("a time"),
            "2000-01-01T00:00:01.500"
        );
        assert_eq!(timestamp(i64::MAX, true).expect("a time"), "infinity");
        assert_eq!(date(-1).expect("a date"), "1999-12-31");
        assert_eq!(
            address(&[2, 8, 0, 4, 10, 0, 0, 0], false).expect("an address"),
            "10.0.0.0/8"
        );
        assert_eq!(
            address(&[2, 32, 0, 4, 10, 0, 0, 1], false).expect("an address"),
            "10.0.0.1"
        );
    }
}
