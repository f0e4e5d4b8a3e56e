//! Converts a guest's parameters to the types that the statement needs.
//!
//! The types that most plugins use are encoded here. Text for any other type is sent to Postgres,
//! in the same transaction, which reads it as that type and returns its binary form; so everything
//! that Postgres can read works, with Postgres's own error messages.

use patchbay_model::sql::{SqlError, SqlValue};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo, PgTypeKind};
use sqlx::{Arguments, AssertSqlSafe, Encode, PgConnection, Postgres, Row, Type, TypeInfo};

use super::error;
use super::oid;

/// Bytes in the wire form of their type.
struct Raw {
    bytes: Option<Vec<u8>>,
    info: PgTypeInfo,
}

impl Type<Postgres> for Raw {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(oid::UNKNOWN))
    }
}

impl Encode<'_, Postgres> for Raw {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.bytes {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }
    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.info.clone())
    }
}

enum Encoded {
    Null,
    Binary(Vec<u8>),
    /// Text that Postgres has to read.
    Text(String),
}

/// `types` are those that the statement was prepared with.
pub(super) async fn convert(
    connection: &mut PgConnection,
    values: Vec<SqlValue>,
    types: &[PgTypeInfo],
) -> Result<PgArguments, SqlError> {
    if values.len() != types.len() {
        let message = format!(
            "the statement has {} parameters, and {} values were given",
            types.len(),
            values.len()
        );
        return Err(SqlError::new("invalid", message));
    }
    let encoded = values
        .into_iter()
        .zip(types)
        .enumerate()
        .map(|(place, (value, info))| {
            encode(value, info).map_err(|reason| {
                SqlError::new("invalid", format!("parameter ${}: {reason}", place + 1))
            })
        });
    let mut encoded = encoded.collect::<Result<Vec<_>, _>>()?;
    read_by_postgres(connection, &mut encoded, types).await?;
    let mut arguments = PgArguments::default();
    for (value, info) in encoded.into_iter().zip(types) {
        let bytes = match value {
            Encoded::Null => None,
            Encoded::Binary(bytes) => Some(bytes),
            Encoded::Text(_) => {
                return Err(SqlError::new(
                    "invalid",
                    "a parameter could not be converted",
                ));
            }
        };
        arguments
            .add(Raw {
                bytes,
                info: info.clone(),
            })
            .map_err(|error| SqlError::new("invalid", error.to_string()))?;
    }
    Ok(arguments)
}

fn encode(value: SqlValue, info: &PgTypeInfo) -> Result<Encoded, String> {
    let oid = info.oid().map_or(0, |oid| oid.0);
    let is_text = matches!(oid, oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::UNKNOWN);
    let out_of_range = |_| {
        format!(
            "the number does not fit into {}",
            info.name().to_ascii_lowercase()
        )
    };
    Ok(match value {
        SqlValue::Null => Encoded::Null,
        SqlValue::Boolean(value) if oid == oid::BOOL => Encoded::Binary(vec![value.into()]),
        SqlValue::Boolean(value) => Encoded::Text(value.to_string()),
        SqlValue::Int(value) => match oid {
            oid::INT8 => Encoded::Binary(value.to_be_bytes().into()),
            oid::INT4 => Encoded::Binary(
                i32::try_from(value)
                    .map_err(out_of_range)?
                    .to_be_bytes()
                    .into(),
            ),
            oid::INT2 => Encoded::Binary(
                i16::try_from(value)
                    .map_err(out_of_range)?
                    .to_be_bytes()
                    .into(),
            ),
            _ => Encoded::Text(value.to_string()),
        },
        SqlValue::Float(value) if oid == oid::FLOAT8 => Encoded::Binary(value.to_be_bytes().into()),
        // Postgres spells infinity as Rust does, except for upper and lower case.
        SqlValue::Float(value) => Encoded::Text(value.to_string()),
        SqlValue::Text(text) | SqlValue::Json(text) if is_text || oid == oid::JSON => {
            Encoded::Binary(text.into_bytes())
        }
        SqlValue::Json(text) if matches!(info.kind(), PgTypeKind::Array(_)) => {
            Encoded::Text(array_literal(&text)?)
        }
        SqlValue::Json(text) | SqlValue::Text(text) => Encoded::Text(text),
        SqlValue::Bytes(bytes) if oid == oid::BYTEA => Encoded::Binary(bytes),
        SqlValue::Bytes(_) => {
            return Err(format!(
                "bytes can be given for bytea only, not for {}",
                info.name().to_ascii_lowercase()
            ));
        }
    })
}

/// A JSON array in Postgres's array syntax.
fn array_literal(json: &str) -> Result<String, String> {
    fn element(value: &serde_json::Value, out: &mut String) {
        let mut quote = |text: &str| {
            out.push('"');
            for c in text.chars() {
                if matches!(c, '"' | '\\') {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push('"');
        };
        match value {
            serde_json::Value::Null => out.push_str("NULL"),
            serde_json::Value::String(text) => quote(text),
            serde_json::Value::Array(list) => array(list, out),
            other => quote(&other.to_string()),
        }
    }
    fn array(list: &[serde_json::Value], out: &mut String) {
        out.push('{');
        for (place, value) in list.iter().enumerate() {
            if place > 0 {
                out.push(',');
            }
            element(value, out);
        }
        out.push('}');
    }
    let list: Vec<serde_json::Value> = serde_json::from_str(json)
        .map_err(|error| format!("an array must be given as a JSON array: {error}"))?;
    let mut out = String::with_capacity(json.len());
    array(&list, &mut out);
    Ok(out)
}

async fn read_by_postgres(
    connection: &mut PgConnection,
    encoded: &mut [Encoded],
    types: &[PgTypeInfo],
) -> Result<(), SqlError> {
    let places: Vec<usize> = (0..encoded.len())
        .filter(|&place| matches!(encoded[place], Encoded::Text(_)))
        .collect();
    if places.is_empty() {
        return Ok(());
    }
    let failed = |failed: sqlx::Error| error::guest(&failed);
    let oids: Vec<i64> = places
        .iter()
        .map(|&place| types[place].oid().map_or(0, |oid| oid.0.into()))
        .collect();
    // From the catalogue, because a cast does not accept all the type names that messages use.
    let names: Vec<String> = sqlx::query_scalar(
        "select pg_catalog.format('%I.%I', n.nspname, t.typname) from pg_catalog.unnest($1::pg_catalog.int8[]) with ordinality as wanted (oid, place) \
         join pg_catalog.pg_type t on t.oid operator(pg_catalog.=) wanted.oid::pg_catalog.oid \
         join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) t.typnamespace order by place",
    )
    .bind(oids)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    if names.len() != places.len() {
        return Err(SqlError::new(
            "invalid",
            "the type of a parameter no longer exists",
        ));
    }
    let casts: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(n, name)| format!("${}::pg_catalog.text::{name}", n + 1))
        .collect();
    let casts = casts.join(", ");
    let text = format!("select {casts}");
    let mut query = sqlx::query(AssertSqlSafe(text)).persistent(false);
    for &place in &places {
        let text = match &mut encoded[place] {
            Encoded::Text(text) => std::mem::take(text),
            _ => continue,
        };
        query = query.bind(text);
    }
    let row = query.fetch_one(connection).await.map_err(failed)?;
    for (column, &place) in places.iter().enumerate() {
        use sqlx::ValueRef;
        let raw = row.try_get_raw(column).map_err(failed)?;
        encoded[place] = if raw.is_null() {
            Encoded::Null
        } else {
            let bytes = raw
                .as_bytes()
                .map_err(|error| SqlError::new("invalid", error.to_string()))?;
            Encoded::Binary(bytes.to_vec())
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::array_literal;

    #[test]
    fn json_arrays_become_postgres_arrays_with_everything_quoted_that_could_be_misread() {
        let literal = |json: &str| array_literal(json).expect("an array");
        assert_eq!(literal("[1, null, true]"), r#"{"1",NULL,"true"}"#);
        assert_eq!(
            literal(r#"["a,b", "NULL", "q\"\\", ""]"#),
            r#"{"a,b","NULL","q\"\\",""}"#
        );
        assert_eq!(literal("[[1],[2]]"), r#"{{"1"},{"2"}}"#);
        assert_eq!(literal("[]"), "{}");
        assert_eq!(literal(r#"[{"a":"}"}]"#), r#"{"{\"a\":\"}\"}"}"#);
        assert!(array_literal("{}").is_err());
    }
}
