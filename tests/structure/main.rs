//! The shape of the source: in every crate of the host, modules with the same parent form no cycle.
//!
//! `use` of a re-export counts for the module that defines the item. A parent and its child may use
//! each other, and tests may use everything.

mod errors;
mod layers;
mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;

/// From the root of the crate; the root itself is empty.
type ModulePath = Vec<String>;

#[derive(Default)]
struct Module {
    /// Items that are defined here, child modules included.
    items: BTreeSet<String>,
    /// Name in this module → where it is imported from.
    imports: BTreeMap<String, ModulePath>,
    /// Modules of which everything is imported.
    globs: Vec<ModulePath>,
    /// All paths that are used here, as written.
    named: BTreeSet<ModulePath>,
}

/// Child → siblings that it uses → where.
type Arrows = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

struct Crate(BTreeMap<ModulePath, Module>);

impl Crate {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let mut modules = BTreeMap::new();
        let file = syn::parse_file(&std::fs::read_to_string(root)?)?;
        read_items(
            &mut modules,
            Vec::new(),
            (root, root.parent().context("a folder")?),
            file.items,
        )?;
        Ok(Self(modules))
    }

    /// The module that defines `path` as seen in `module`; `None` for another crate, or generated.
    fn resolve(&self, module: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        let (first, rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module.split_last()?.1.to_vec(),
            _ => {
                let own = self.0.get(module)?;
                if own.items.contains(first) {
                    return self.descend(module.clone(), path, depth);
                }
                let import = own.imports.get(first).filter(|_| depth < 10)?;
                let whole: ModulePath = import.iter().chain(rest).cloned().collect();
                return self.resolve(module, &whole, depth + 1);
            }
        };
        let mut rest = rest;
        while rest.first().is_some_and(|part| part == "super") {
            at.pop();
            rest = &rest[1..];
        }
        self.descend(at, rest, depth)
    }

    fn descend(&self, mut at: ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        for (index, part) in path.iter().enumerate() {
            let child: ModulePath = at.iter().chain([part]).cloned().collect();
            if self.0.contains_key(&child) {
                at = child;
                continue;
            }
            let module = self.0.get(&at)?;
            if module.items.contains(part) || depth >= 10 {
                return Some(at);
            }
            if let Some(import) = module.imports.get(part) {
                let whole: ModulePath = import.iter().chain(&path[index + 1..]).cloned().collect();
                // The item is from another crate: follow the re-export.
                return self.resolve(&at, &whole, depth + 1).or(Some(at));
            }
            let of_globs = module
                .globs
                .iter()
                .filter_map(|glob| self.resolve(&at, glob, depth + 1));
            for from in of_globs {
                if from != at
                    && self
                        .0
                        .get(&from)
                        .is_some_and(|module| module.items.contains(part))
                {
                    return Some(from);
                }
            }
            return Some(at);
        }
        Some(at)
    }

    /// Siblings that use each other, with the arrows between them.
    fn cycles(&self) -> Vec<Cycle> {
        let mut levels: BTreeMap<ModulePath, Arrows> = BTreeMap::new();
        for (path, module) in &self.0 {
            for named in &module.named {
                let Some(target) = self.resolve(path, named, 0) else {
                    continue;
                };
                let common = path.iter().zip(&target).take_while(|(a, b)| a == b).count();
                if common == path.len() || common == target.len() {
                    continue;
                }
                let arrows = levels.entry(path[..common].to_vec()).or_default();
                let from = arrows.entry(path[common].clone()).or_default();
                let place = format!("{} names {}", path.join("::"), named.join("::"));
                from.entry(target[common].clone())
                    .or_default()
                    .insert(place);
            }
        }
        let mut cycles = Vec::new();
        for (parent, arrows) in levels {
            let reached: BTreeMap<&String, BTreeSet<&String>> = arrows
                .keys()
                .map(|from| (from, reached_from(from, &arrows)))
                .collect();
            let mut done: BTreeSet<&String> = BTreeSet::new();
            for (from, to) in &reached {
                if !to.contains(from) || done.contains(from) {
                    continue;
                }
                let members: BTreeSet<&String> = to
                    .iter()
                    .copied()
                    .filter(|other| reached.get(other).is_some_and(|back| back.contains(from)))
                    .collect();
                let inner = arrows
                    .iter()
                    .filter(|(from, _)| members.contains(from))
                    .flat_map(|(_, to)| to);
                let places = inner
                    .filter(|(to, _)| members.contains(to))
                    .flat_map(|(_, places)| places.clone());
                let places = places.collect();
                cycles.push(Cycle {
                    parent: parent.clone(),
                    members: members.iter().map(|name| (*name).clone()).collect(),
                    places,
                });
                done.extend(members);
            }
        }
        cycles
    }
}

fn reached_from<'a>(from: &'a String, arrows: &'a Arrows) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(next) = todo.pop() {
        todo.extend(
            arrows
                .get(next)
                .into_iter()
                .flat_map(BTreeMap::keys)
                .filter(|to| seen.insert(*to)),
        );
    }
    seen
}

struct Cycle {
    parent: ModulePath,
    members: Vec<String>,
    places: Vec<String>,
}

fn of_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute.meta.to_token_stream().to_string();
        text.starts_with("cfg") && text.contains("test") && !text.contains("not")
    })
}

fn attributes_of(item: &syn::Item) -> &[syn::Attribute] {
    use syn::Item;
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn read_items(
    modules: &mut BTreeMap<ModulePath, Module>,
    path: ModulePath,
    (file, dir): (&Path, &Path),
    items: Vec<syn::Item>,
) -> anyhow::Result<()> {
    let mut module = Module::default();
    for item in items {
        if of_tests(attributes_of(&item)) {
            continue;
        }
        match item {
            syn::Item::Mod(child) => {
                let name = child.ident.to_string();
                module.items.insert(name.clone());
                let child_path: ModulePath = path.iter().chain([&name]).cloned().collect();
                if let Some((_, items)) = child.content {
                    read_items(modules, child_path, (file, &dir.join(&name)), items)?;
                    continue;
                }
                let elsewhere = child
                    .attrs
                    .iter()
                    .find_map(|attribute| match &attribute.meta {
                        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => {
                            Some(pair.value.to_token_stream().to_string())
                        }
                        _ => None,
                    });
                let beside = file.parent().context("a folder")?;
                let candidates: Vec<(PathBuf, PathBuf)> =
                    match elsewhere.map(|name| beside.join(name.trim_matches('"'))) {
                        Some(file) => {
                            vec![(file.clone(), file.parent().context("a folder")?.to_owned())]
                        }
                        None => vec![
                            (dir.join(format!("{name}.rs")), dir.join(&name)),
                            (dir.join(&name).join("mod.rs"), dir.join(&name)),
                        ],
                    };
                let found = candidates.into_iter().find(|(file, _)| file.exists());
                let (file, dir) =
                    found.with_context(|| format!("{}: no file for {name}", dir.display()))?;
                let source = syn::parse_file(&std::fs::read_to_string(&file)?)
                    .with_context(|| file.display().to_string())?;
                read_items(modules, child_path, (&file, &dir), source.items)?;
            }
            syn::Item::Use(item) => read_use(&mut module, Vec::new(), &item.tree),
            item => {
                module.items.extend(name_of(&item));
                read_tokens(&mut module, item.to_token_stream());
            }
        }
    }
    modules.insert(path, module);
    Ok(())
}

fn name_of(item: &syn::Item) -> Option<String> {
    use syn::Item;
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(name.to_string())
}

fn read_use(module: &mut Module, mut prefix: ModulePath, tree: &syn::UseTree) {
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            read_use(module, prefix, &path.tree);
        }
        syn::UseTree::Name(name) => {
            let name = name.ident.to_string();
            let own = if name == "self" {
                prefix.last().cloned().unwrap_or_default()
            } else {
                name.clone()
            };
            if name != "self" {
                prefix.push(name);
            }
            import(module, own, prefix);
        }
        syn::UseTree::Rename(rename) => {
            prefix.push(rename.ident.to_string());
            import(module, rename.rename.to_string(), prefix);
        }
        syn::UseTree::Glob(_) => {
            module.named.insert(prefix.clone());
            module.globs.push(prefix);
        }
        syn::UseTree::Group(group) => group
            .items
            .iter()
            .for_each(|tree| read_use(module, prefix.clone(), tree)),
    }
}

fn import(module: &mut Module, own: String, path: ModulePath) {
    module.named.insert(path.clone());
    // A `use` of a name that is its own first segment would never end.
    if path.first() != Some(&own) || path.len() > 1 {
        module.imports.insert(own, path);
    }
}

/// Paths in code, including those within macros: `a::b::c`, and types whose modules are imported.
fn read_tokens(module: &mut Module, tokens: TokenStream) {
    let mut path: ModulePath = Vec::new();
    let mut colons = 0;
    let end = |module: &mut Module, path: &mut ModulePath| {
        if path.len() > 1 {
            module.named.insert(std::mem::take(path));
        }
        path.clear();
    };
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                if colons != 2 {
                    end(module, &mut path);
                }
                path.push(ident.to_string());
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            other => {
                end(module, &mut path);
                colons = 0;
                if let TokenTree::Group(group) = other {
                    read_tokens(module, group.stream());
                }
            }
        }
    }
    end(module, &mut path);
}

/// `crate::parent: modules`, and the arrows, of every crate of the host.
fn all_cycles(host: &Path) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let mut crates = vec![("patchbay".to_owned(), host.join("src/lib.rs"))];
    for entry in std::fs::read_dir(host.join("crates"))? {
        let entry = entry?;
        crates.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path().join("src/lib.rs"),
        ));
    }
    let mut all = BTreeMap::new();
    for (name, root) in crates {
        for cycle in Crate::read(&root)?.cycles() {
            let parent = [vec![name.clone()], cycle.parent].concat().join("::");
            all.insert(
                format!("{parent}: {}", cycle.members.join(" ")),
                cycle.places,
            );
        }
    }
    Ok(all)
}

fn host() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../host")
}

#[test]
fn modules_form_no_cycle() -> anyhow::Result<()> {
    let found = all_cycles(&host())?;
    let told = found
        .iter()
        .map(|(cycle, places)| format!("a cycle: {cycle}\n    {}\n", places.join("\n    ")));
    assert!(found.is_empty(), "{}", told.collect::<String>());
    Ok(())
}

#[test]
fn a_planted_cycle_is_found_by_each_way_to_name_a_module() -> anyhow::Result<()> {
    for (one, other) in [
        ("use crate::b::B;", "use super::a::A;"),
        ("pub fn f() { crate::b::g() }", "use super::a;"),
        (
            "use crate::B;",
            "fn g() { println!(\"{}\", crate::a::f()) }",
        ),
        (
            "use super::b::{self, inner::Deep as Other};",
            "pub mod inner { pub struct Deep; impl Deep { fn f(_: crate::A) {} } }",
        ),
        ("use crate::b::*;", "use crate::a as other;"),
    ] {
        let dir = tempfile::tempdir()?;
        std::fs::write(
            dir.path().join("lib.rs"),
            "mod a; mod b; mod c; pub use a::A; pub use b::B;",
        )?;
        std::fs::write(dir.path().join("a.rs"), format!("pub struct A; {one}"))?;
        std::fs::write(dir.path().join("b.rs"), format!("pub struct B; {other}"))?;
        std::fs::write(
            dir.path().join("c.rs"),
            "use crate::{A, B}; #[cfg(test)] mod tests { use crate::a; }",
        )?;
        let cycles = Crate::read(&dir.path().join("lib.rs"))?.cycles();
        let members: Vec<_> = cycles.iter().map(|cycle| cycle.members.join(" ")).collect();
        assert_eq!(members, ["a b"], "{one} {other}");
    }
    Ok(())
}

#[test]
fn what_is_no_cycle_is_not_taken_for_one() -> anyhow::Result<()> {
    for (one, other) in [
        (
            "use super::b::B;",
            "#[cfg(test)] mod tests { use super::super::a::A; }",
        ),
        ("mod inner; use inner::Part;", ""),
        ("use crate::B;", "use std::fmt::Debug;"),
    ] {
        let dir = tempfile::tempdir()?;
        std::fs::write(
            dir.path().join("lib.rs"),
            "mod a; mod b; pub use a::A; pub use b::B;",
        )?;
        std::fs::create_dir(dir.path().join("a"))?;
        std::fs::write(
            dir.path().join("a/inner.rs"),
            "pub struct Part; use super::A;",
        )?;
        std::fs::write(dir.path().join("a.rs"), format!("pub struct A; {one}"))?;
        std::fs::write(dir.path().join("b.rs"), format!("pub struct B; {other}"))?;
        assert!(
            Crate::read(&dir.path().join("lib.rs"))?.cycles().is_empty(),
            "{one} {other}"
        );
    }
    Ok(())
}
