//! Which of many route paths a request has. A literal goes before a parameter, segment by segment
//! from the left; where that leads nowhere, the parameter is tried.

use std::collections::HashMap;

use crate::manifest::RoutePath;
use crate::request_path::RequestPath;

/// Values by route path.
#[derive(Debug)]
pub struct RouteTree<T>(Node<T>);

#[derive(Debug)]
struct Node<T> {
    literals: HashMap<String, Node<T>>,
    parameter: Option<Box<Node<T>>>,
    value: Option<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            literals: HashMap::new(),
            parameter: None,
            value: None,
        }
    }
}

impl<T> Default for RouteTree<T> {
    fn default() -> Self {
        Self(Node::default())
    }
}

impl<T> RouteTree<T> {
    /// The place of a path. Paths that differ only in the names of their parameters have the same.
    pub fn entry(&mut self, path: &RoutePath) -> &mut Option<T> {
        let mut node = &mut self.0;
        for segment in path.segments() {
            node = match RoutePath::is_parameter(segment) {
                true => node.parameter.get_or_insert_default(),
                false => node.literals.entry(segment.to_owned()).or_default(),
            };
        }
        &mut node.value
    }

    /// The same tree with other values.
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> RouteTree<U> {
        RouteTree(self.0.map(&mut change))
    }

    /// The value of the path that the request has, and what its parameters are, from left to right.
    pub fn find<'p>(&self, path: &'p RequestPath) -> Option<(&T, Vec<&'p str>)> {
        let segments: Vec<&str> = path.segments().collect();
        let mut values = Vec::new();
        let found = self.0.find(path, &segments, 0, &mut values)?;
        Some((found, values))
    }
}

impl<T> Node<T> {
    fn map<U>(self, change: &mut impl FnMut(T) -> U) -> Node<U> {
        let literals = self.literals.into_iter();
        Node {
            literals: literals
                .map(|(name, node)| (name, node.map(change)))
                .collect(),
            parameter: self.parameter.map(|node| Box::new(node.map(change))),
            value: self.value.map(change),
        }
    }

    /// Each node is looked at once at most: it is a tree, with one way to each.
    fn find<'p>(
        &self,
        path: &'p RequestPath,
        segments: &[&str],
        place: usize,
        values: &mut Vec<&'p str>,
    ) -> Option<&T> {
        let Some(segment) = segments.get(place) else {
            return self.value.as_ref();
        };
        if let Some(node) = self.literals.get(*segment)
            && let Some(found) = node.find(path, segments, place + 1, values)
        {
            return Some(found);
        }
        let node = self.parameter.as_deref()?;
        let value = path.value(place)?;
        // Another spelling of the literal beside it: the parameter's operation never gets that value.
        if value != *segment && self.literals.contains_key(value) {
            return None;
        }
        values.push(value);
        let found = node.find(path, segments, place + 1, values);
        if found.is_none() {
            values.pop();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Compares with each path on its own, and takes the one with the leftmost literals.
    fn naive<'a>(
        paths: &'a [RoutePath],
        request: &[String],
    ) -> Option<(&'a RoutePath, Vec<String>)> {
        let segments = |path: &RoutePath| -> Vec<String> {
            path.as_str()["/api/".len()..]
                .split('/')
                .map(str::to_owned)
                .collect()
        };
        let matches = |path: &&RoutePath| {
            let own = segments(path);
            own.len() == request.len()
                && own
                    .iter()
                    .zip(request)
                    .all(|(own, sent)| own.starts_with('{') || own == sent)
        };
        let rank = |path: &&RoutePath| -> Vec<bool> {
            segments(path)
                .iter()
                .map(|own| own.starts_with('{'))
                .collect()
        };
        let path = paths.iter().filter(matches).min_by_key(rank)?;
        let own = segments(path);
        let pairs = own
            .iter()
            .zip(request)
            .filter(|(own, _)| own.starts_with('{'));
        Some((path, pairs.map(|(_, sent)| sent.clone()).collect()))
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_comparing_with_each_path_finds(
            shapes in prop::collection::vec(prop::collection::vec(0_u8..4, 1..5), 1..12),
            request in prop::collection::vec(0_u8..4, 1..5),
        ) {
            let name = |n: &u8| ["a", "b", "c", "d"][usize::from(*n)].to_owned();
            let mut paths: Vec<RoutePath> = Vec::new();
            for shape in &shapes {
                let segments = shape.iter().enumerate().map(|(place, n)| match n {
                    3 => format!("{{p{place}}}"),
                    n => name(n),
                });
                let text = format!("/api/{}", segments.collect::<Vec<_>>().join("/"));
                let path: RoutePath = text.parse().expect("a path");
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
            let mut tree = RouteTree::default();
            for path in &paths {
                *tree.entry(path) = Some(path.clone());
            }
            let request: Vec<String> = request.iter().map(name).collect();
            let sent = RequestPath::parse(&format!("/api/{}", request.join("/"))).expect("valid").expect("a path");
            let found = tree.find(&sent).map(|(path, values)| (path.clone(), values.into_iter().map(str::to_owned).collect::<Vec<_>>()));
            let expected = naive(&paths, &request).map(|(path, values)| (path.clone(), values));
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_parameter_never_gets_another_spelling_of_the_literal_beside_it() {
        let mut tree = RouteTree::default();
        for path in ["/api/items/{name}", "/api/items/admin"] {
            let path: RoutePath = path.parse().expect("a path");
            *tree.entry(&path) = Some(path.as_str().to_owned());
        }
        let found = |sent: &str| {
            let sent = RequestPath::parse(sent).expect("valid").expect("a path");
            tree.find(&sent).map(|(path, _)| path.clone())
        };
        assert_eq!(
            found("/api/items/admin").as_deref(),
            Some("/api/items/admin")
        );
        assert_eq!(found("/api/items/%61dmin"), None);
        assert_eq!(
            found("/api/items/%61dmins").as_deref(),
            Some("/api/items/{name}")
        );
    }

    #[test]
    fn a_literal_matches_only_its_plain_spelling() {
        let mut tree = RouteTree::default();
        *tree.entry(&"/api/leads/new".parse().expect("a path")) = Some("literal");
        *tree.entry(&"/api/leads/{id}".parse().expect("a path")) = Some("parameter");
        let find = |raw: &str| {
            let path = RequestPath::parse(raw)
                .expect("valid")
                .expect("under /api/");
            let found = tree.find(&path);
            found.map(|(name, values)| (*name, values.first().map(|value| (*value).to_owned())))
        };
        assert_eq!(find("/api/leads/new"), Some(("literal", None)));
        assert_eq!(find("/api/leads/new/"), Some(("literal", None)));
        assert_eq!(
            find("/api/leads/NEW"),
            Some(("parameter", Some("NEW".into())))
        );
        assert_eq!(find("/api/leads/n%65w"), None, "no parameter takes it");
        assert_eq!(find("/api/l%65ads/new"), None);
        assert_eq!(find("/api/leads"), None);
        assert_eq!(find("/api/leads/new/x"), None);
    }
}
