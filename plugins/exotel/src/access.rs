//! Whose leads somebody may call: salespeople their own, sales heads those of their pool,
//! administrators all.

use patchbay_plugin::operations::Caller;
use patchbay_plugin::sql::{self, Value as Sql};
use patchbay_plugin::{Failure, Retry};

use crate::phone;
use crate::settings::{SalesHeadScope, Settings};
use crate::store;

/// Somebody with an account.
pub struct Person<'a> {
    pub id: &'a str,
    pub role: &'a str,
}

pub struct Lead {
    pub id: String,
    pub phone: Option<String>,
}

/// Who asks. Operators and programs have no leads.
pub fn person(caller: &Caller) -> Result<Person<'_>, Failure> {
    match (&caller.user_id, &caller.role) {
        (Some(id), Some(role)) => Ok(Person { id, role }),
        _ => Err(Failure::new(
            "forbidden",
            "only accounts with a sales role have leads",
            Retry::Never,
        )),
    }
}

/// A lead that this person may see. One that is there, but somebody else's, is not found either:
/// otherwise anyone could find out which leads there are.
pub fn lead(person: &Person<'_>, lead_id: &str, settings: &Settings) -> Result<Lead, Failure> {
    let role = person.role.to_ascii_lowercase();
    let condition = match role.as_str() {
        "admin" => "",
        "sales_head" if settings.sales_head_scope == SalesHeadScope::All => "",
        "sales_head" => " and owning_sales_head_id::text = $2",
        "sales" => " and (assigned_to::text = $2 or assigned_counsellor::text = $2)",
        _ => {
            return Err(Failure::new(
                "forbidden",
                "only accounts with a sales role have leads",
                Retry::Never,
            ));
        }
    };
    let mut values = vec![store::text(lead_id)];
    if !condition.is_empty() {
        values.push(store::text(person.id));
    }
    let text = format!("select id::text, phone from mas_crm.raw_leads where id = $1{condition}");
    let rows = sql::query(&text, &values).map_err(store::failed)?;
    let mut cells = rows
        .rows
        .into_iter()
        .next()
        .ok_or_else(|| Failure::new("not-found", "there is no such lead", Retry::Never))?
        .into_iter();
    let mut cell = || match cells.next() {
        Some(Sql::Text(text)) => Some(text),
        _ => None,
    };
    Ok(Lead {
        id: cell().unwrap_or_else(|| lead_id.to_owned()),
        phone: cell(),
    })
}

impl Lead {
    pub fn number(&self, settings: &Settings) -> Result<String, Failure> {
        number(self.phone.as_deref(), settings)
            .ok_or_else(|| conflict("the lead has no telephone number that can be called"))
    }
}

/// The person's own telephone.
pub fn own_number(person: &Person<'_>, settings: &Settings) -> Result<String, Failure> {
    let rows = sql::query(
        "select phone from public.users where id = $1",
        &[store::text(person.id)],
    )
    .map_err(store::failed)?;
    let phone = match rows.rows.first().and_then(|row| row.first()) {
        Some(Sql::Text(text)) => Some(text.clone()),
        _ => None,
    };
    number(phone.as_deref(), settings).ok_or_else(|| {
        conflict("your profile has no telephone number that can be called; complete it first")
    })
}

fn number(text: Option<&str>, settings: &Settings) -> Option<String> {
    phone::e164(text?, &settings.country_code)
}

pub fn conflict(message: &str) -> Failure {
    Failure::new("conflict", message, Retry::Never)
}
