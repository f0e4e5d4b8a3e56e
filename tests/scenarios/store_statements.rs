//! Prepares every statement in the source of the store against a migrated database, even statements
//! that no test runs. So syntax, tables, columns and parameter types are right, and each statement
//! gets as many values as it has parameters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use sqlx::{AssertSqlSafe, Connection, Either, Executor, PgConnection, SqlSafeStr, Statement};

use crate::harness::*;

/// Statements that can be prepared. Utility statements (`set`, `grant`, `create role` …) cannot.
const VERBS: [&str; 5] = ["select", "insert", "update", "delete", "with"];

/// What the store inserts for `{name}` in a statement: file, name, an example.
const FILLED: [(&str, &str, &str); 23] = [
    ("audit/import.rs", "table", "dead_letters"),
    ("audit/import.rs", "id", "queue"),
    ("audit/import.rs", "id_type", "text"),
    ("audit/import.rs", "actor", "t.assignee::text"),
    ("audit/import.rs", "action", "null::text"),
    ("audit/import.rs", "column", "note"),
    ("audit/projection.rs", "table", "bulks"),
    ("audit/projection.rs", "names", "reason"),
    ("bulk.rs", "set", "state = 'running'"),
    ("bulk.rs", "condition", "state = 'paused'"),
    ("bulk.rs", "state", "done"),
    ("dead_letters.rs", "columns", "a.queue"),
    ("dead_letters.rs", "column", "note"),
    ("history/erasure/texts.rs", "table", "bulks"),
    ("history/erasure/texts.rs", "column", "filter"),
    ("history/erasure/texts.rs", "as_text", "::text"),
    ("history/erasure/texts.rs", "back", "::jsonb"),
    (
        "history/erasure/texts.rs",
        "condition",
        "where filter::text ~* $1",
    ),
    (
        "history/pruning.rs",
        "which",
        "dead_letters where queue = $1 and last_seen < $2",
    ),
    ("history/pruning.rs", "partition", "attempts_other"),
    ("inbox/reading.rs", "of_terms", "terms @> $13::bytea[]"),
    // One cast per parameter of a guest's statement; their number is known when it runs.
    ("plugin_sql/parameters.rs", "casts", "'1'::text::integer"),
    (
        "history/pruning.rs",
        "old",
        "patchbay.attempts_other where queue = $1 and finished_at < $2 and outcome = any($3)",
    ),
];

/// Constants of another file: file, name, whose.
const IMPORTED: [(&str, &str, &str); 8] = [
    ("runtime_schedules.rs", "COLUMNS", "schedules.rs"),
    ("operators/links.rs", "COLUMNS", "operators/rows.rs"),
    ("operators/sessions.rs", "COLUMNS", "operators/rows.rs"),
    ("operators/sign_ins.rs", "COLUMNS", "operators/rows.rs"),
    ("operators/tokens.rs", "COLUMNS", "operators/rows.rs"),
    ("timeline.rs", "COLUMNS", "attempts.rs"),
    ("dead_letter_jobs.rs", "OF_A_GROUP", "dead_letters.rs"),
    ("statistics.rs", "OF_A_GROUP", "dead_letters.rs"),
];

/// Statements that are assembled when they run.
const IN_PARTS: [(&str, &str); 3] = [
    ("recording.rs", "{ROWS} select count(*) from added"),
    (
        "recording.rs",
        "{ROWS}{DEAD_LETTERS}{ENDED}{GAPS}{TERMS} select count(*) from added",
    ),
    (
        "recording.rs",
        "{ROWS}{NO_DEAD_LETTERS}{ENDED} select count(*) from added",
    ),
];

/// Functions that bind values in another function, or the same values to one of several statements.
const BOUND_ELSEWHERE: [(&str, &str); 12] = [
    ("alerts.rs", "prune_alerts"),
    ("history/erasure/texts.rs", "forget_texts"),
    ("history/erasure/mod.rs", "erasable"),
    ("history/erasure/mod.rs", "erase"),
    ("history/pruning.rs", "prune"),
    ("operators/rows.rs", "set_operator_enabled"),
    ("plugin_sql/parameters.rs", "read_by_postgres"),
    ("revision_pruning.rs", "prune_revisions"),
    ("runtime_schedules.rs", "put_runtime_schedule"),
    ("schedules.rs", "change_schedule"),
    ("schedules.rs", "sync_schedules"),
    ("schedules.rs", "insert"),
];

#[derive(Debug)]
struct Found {
    file: String,
    /// `None`: a constant.
    function: Option<String>,
    text: String,
    bound: usize,
}

struct Source<'a> {
    file: String,
    constants: &'a BTreeMap<(String, String), String>,
    function: Option<String>,
    found: Vec<Found>,
    /// Whether the last statement belongs to the current function.
    is_open: bool,
}

impl Source<'_> {
    fn read(&mut self, tokens: TokenStream) -> anyhow::Result<()> {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (i, token) in tokens.iter().enumerate() {
            let before = |n: usize| {
                i.checked_sub(n)
                    .map(|at| tokens[at].to_string())
                    .unwrap_or_default()
            };
            match token {
                TokenTree::Ident(name) if before(1) == "fn" => {
                    (self.function, self.is_open) = (Some(name.to_string()), false)
                }
                TokenTree::Group(group) => {
                    if group.delimiter() == Delimiter::Parenthesis
                        && before(1) == "bind"
                        && before(2) == "."
                        && self.is_open
                    {
                        self.found.last_mut().context("a statement")?.bound += 1;
                    }
                    if before(1) == "!" && before(2) == "format" {
                        self.formatted(group.stream())?;
                    } else {
                        self.read(group.stream())?;
                    }
                }
                TokenTree::Literal(literal) => self.literal(literal, false)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn formatted(&mut self, tokens: TokenStream) -> anyhow::Result<()> {
        let mut tokens = tokens.into_iter();
        if let Some(TokenTree::Literal(literal)) = tokens.next() {
            self.literal(&literal, true)?;
        }
        self.read(tokens.collect())
    }

    fn literal(&mut self, literal: &proc_macro2::Literal, is_format: bool) -> anyhow::Result<()> {
        let syn::Lit::Str(text) = syn::Lit::new(literal.clone()) else {
            return Ok(());
        };
        let text = if is_format {
            filled(&self.file, &text.value(), self.constants)
        } else {
            text.value()
        };
        // Those of accounts are made from what the catalogue says of their table; the scenarios of
        // accounts run each, on the old backend's table and on the host's own.
        if self.file.starts_with("people/") && text.contains('{') {
            self.is_open = false;
            return Ok(());
        }
        // Text that ends with a space is a part: the search assembles those, and its tests run
        // them.
        if VERBS.iter().any(|verb| {
            text.strip_prefix(verb)
                .is_some_and(|rest| rest.starts_with(' '))
        }) && !text.ends_with(' ')
        {
            self.found.push(Found {
                file: self.file.clone(),
                function: self.function.clone(),
                text,
                bound: 0,
            });
            self.is_open = true;
        }
        Ok(())
    }
}

fn filled(file: &str, text: &str, constants: &BTreeMap<(String, String), String>) -> String {
    let mut text = text.to_owned();
    for ((of, name), value) in constants {
        if of == file {
            text = text.replace(&format!("{{{name}}}"), value);
        }
    }
    for (_, name, value) in FILLED.iter().filter(|(of, _, _)| *of == file) {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    text
}

fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => all.extend(files(&path)?),
            false => all.push(path),
        }
    }
    Ok(all)
}

fn statements() -> anyhow::Result<Vec<Found>> {
    let root = repository().join("host/crates/store/src");
    let mut parsed = Vec::new();
    for path in files(&root)? {
        let file = path.strip_prefix(&root)?.display().to_string();
        let source =
            syn::parse_file(&std::fs::read_to_string(&path)?).with_context(|| file.clone())?;
        parsed.push((file, source.items));
    }
    let mut constants = BTreeMap::new();
    for (file, items) in &parsed {
        for item in items {
            if let syn::Item::Const(item) = item
                && let syn::Expr::Lit(syn::ExprLit {
                    lit: syn::Lit::Str(text),
                    ..
                }) = &*item.expr
            {
                constants.insert((file.clone(), item.ident.to_string()), text.value());
            }
        }
    }
    for (file, name, of) in IMPORTED {
        let text = constants
            .get(&(of.to_owned(), name.to_owned()))
            .with_context(|| format!("{name} in {of}"))?
            .clone();
        constants.insert((file.to_owned(), name.to_owned()), text);
    }
    let mut all: Vec<Found> = Vec::new();
    for (file, text) in IN_PARTS {
        let text = filled(file, text, &constants);
        all.push(Found {
            file: file.into(),
            function: None,
            text,
            bound: 0,
        });
    }
    for (file, items) in parsed {
        let mut source = Source {
            file,
            constants: &constants,
            function: None,
            found: Vec::new(),
            is_open: false,
        };
        for item in items {
            let is_test = matches!(&item, syn::Item::Mod(module) if module.ident == "tests");
            if !is_test && !matches!(&item, syn::Item::Const(item) if item.ident == "ROWS") {
                source.function = None;
                source.read(item.to_token_stream())?;
            }
        }
        all.extend(source.found);
    }
    Ok(all)
}

#[tokio::test]
async fn every_statement_fits_the_tables() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (code, said) = world.output(&["migrate"], &[]).await?;
    assert_eq!(code, Some(0), "{said}");
    let mut connection = PgConnection::connect(&world.database_url).await?;
    connection
        .execute("set search_path = patchbay, public")
        .await?;
    let statements = statements()?;
    let mut wrong = Vec::new();
    for Found {
        file,
        function,
        text,
        bound,
    } in &statements
    {
        let place = format!(
            "{file}, {}: {text}",
            function.as_deref().unwrap_or("a constant")
        );
        match (&mut connection)
            .prepare(AssertSqlSafe(text.clone()).into_sql_str())
            .await
        {
            Err(error) => wrong.push(format!("{place}\n    {error}")),
            Ok(prepared) => {
                let parameters = match prepared.parameters() {
                    Some(Either::Left(types)) => types.len(),
                    Some(Either::Right(count)) => count,
                    None => 0,
                };
                let is_counted = function
                    .as_deref()
                    .is_some_and(|name| !BOUND_ELSEWHERE.contains(&(file.as_str(), name)));
                if is_counted && parameters != *bound {
                    wrong.push(format!(
                        "{place}\n    {parameters} parameters, and {bound} values are bound"
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        statements.len(),
        wrong.join("\n")
    );
    assert!(
        statements.len() > 200,
        "only {} statements are found in the source",
        statements.len()
    );
    Ok(())
}
