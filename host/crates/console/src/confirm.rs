//! The page on which somebody confirms what cannot be restored: what, how many, the name, and why.

use axum::response::Response;
use maud::{Markup, html};
use patchbay_api::operation::{Effect, Operation};

use crate::entry::Fields;
use crate::frame::{self, Head, Section};
use crate::session::Visit;
use crate::show;

/// What is to be confirmed.
pub(crate) struct Confirm<'a> {
    pub(crate) section: Section,
    /// As on the button: "Remove the waiting jobs".
    pub(crate) title: &'a str,
    /// The row of the operation, which says what is destroyed.
    pub(crate) operation: &'a Operation,
    /// What must be typed.
    pub(crate) name: &'a str,
    /// How many, and what else is known before.
    pub(crate) about: Markup,
    /// Further fields of the form, shown or hidden.
    pub(crate) fields: Markup,
    /// Where the form goes.
    pub(crate) action: &'a str,
    /// Where whoever changes their mind goes.
    pub(crate) back: &'a str,
    /// What was wrong with what was typed.
    pub(crate) refused: Option<&'a str>,
}

/// Whether the name was typed as it is.
pub(crate) fn is_typed(fields: &Fields, name: &str) -> bool {
    let typed = fields.raw("confirm");
    typed == name || typed.trim() == name
}

pub(crate) fn page(visit: &Visit, confirm: Confirm<'_>) -> Response {
    let clause = match confirm.operation.effect {
        Effect::Destroys(clause) | Effect::DestroysNamed(clause) => clause,
        Effect::Reads | Effect::Changes => "changes the state",
    };
    let content = html! {
        (confirm.fields)
        p {
            label for="confirm" { "Type " code { (show::text(confirm.name)) } " to confirm" }
            input id="confirm" name="confirm" type="text" required autocomplete="off" spellcheck="false";
        }
        p {
            label for="reason" { "Reason, for the record (no personal data)" }
            input id="reason" name="reason" type="text" maxlength="500" autocomplete="off";
        }
        div class="actions" {
            button type="submit" class="danger" { (confirm.title) }
            a class="button" href=(confirm.back) { "Cancel" }
        }
    };
    let main = html! {
        @if let Some(refused) = confirm.refused {
            div class="problem" role="alert" { p { (refused) } }
        }
        section class="card" aria-label="What will happen" {
            p { strong { "This " (clause) ". It cannot be undone." } }
            (confirm.about)
            (frame::form(visit, confirm.action, "stack", content))
        }
    };
    let back = [(confirm.back.to_owned(), "Back")];
    let head = Head::new(confirm.section, confirm.title).below(&back);
    frame::page(visit, &head, main)
}
