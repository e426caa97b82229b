//! An ordered tree with comments, printed as YAML for people or JSON for programs.
//!
//! Scalars are printed as JSON in both: a JSON string is a YAML string (YAML 1.2 section 1.3), so that nothing needs
//! quoting rules of its own.

use serde_json::Value;

/// A value, or several.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Text, a number or a truth value.
    Scalar(Value),
    /// In order.
    List(Vec<Node>),
    /// In order, each key with what YAML says above it.
    Map(Vec<(&'static str, Option<&'static str>, Node)>),
}

impl<T: Into<Value>> From<T> for Node {
    fn from(value: T) -> Self {
        Self::Scalar(value.into())
    }
}

/// A map without comments.
pub(super) fn map<const N: usize>(fields: [(&'static str, Node); N]) -> Node {
    Node::Map(fields.into_iter().map(|(key, node)| (key, None, node)).collect())
}

/// A list.
pub(super) fn list<const N: usize>(items: [Node; N]) -> Node {
    Node::List(items.into())
}

impl Node {
    /// This map with a comment above `at`.
    pub(super) fn because(mut self, at: &str, why: &'static str) -> Self {
        if let Self::Map(fields) = &mut self
            && let Some((_, comment, _)) = fields.iter_mut().find(|(key, _, _)| *key == at)
        {
            *comment = Some(why);
        }
        self
    }

    /// This map with one more field.
    pub(super) fn with(mut self, key: &'static str, node: Self) -> Self {
        if let Self::Map(fields) = &mut self {
            fields.push((key, None, node));
        }
        self
    }

    /// As JSON, comments left out.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Map(fields) => fields.iter().map(|(key, _, node)| ((*key).to_owned(), node.json())).collect(),
        }
    }

    /// As YAML, comments included.
    pub(super) fn yaml(&self) -> String {
        let mut out = String::new();
        self.print(&mut out, 0);
        out
    }

    fn print(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        match self {
            Self::Scalar(value) => out.push_str(&format!("{indent}{value}\n")),
            Self::List(items) => {
                for item in items {
                    let mut inner = String::new();
                    item.print(&mut inner, depth + 1);
                    // The item's first line begins behind the dash.
                    out.push_str(&format!("{indent}- {}", inner.trim_start()));
                }
            }
            Self::Map(fields) => {
                for (key, comment, node) in fields {
                    for line in comment.iter().flat_map(|comment| comment.lines()) {
                        out.push_str(&format!("{indent}# {line}\n"));
                    }
                    match node {
                        Self::Scalar(value) => out.push_str(&format!("{indent}{}: {value}\n", plain(key))),
                        Self::Map(fields) if fields.is_empty() => {
                            out.push_str(&format!("{indent}{}: {{}}\n", plain(key)))
                        }
                        Self::List(_) | Self::Map(_) => {
                            out.push_str(&format!("{indent}{}:\n", plain(key)));
                            node.print(out, depth + 1);
                        }
                    }
                }
            }
        }
    }
}

/// A key as YAML has it: bare where that is safe.
fn plain(key: &str) -> String {
    let bare = key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '.');
    if bare { key.to_owned() } else { Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_say_the_same() {
        let tree = map([
            ("a", "x: \"y\"".into()),
            ("b", list([map([("c", 1.into()), ("@d", true.into())]), "e".into()])),
            ("f", map([])),
        ])
        .because("b", "why\nso");
        assert_eq!(tree.yaml(), "a: \"x: \\\"y\\\"\"\n# why\n# so\nb:\n  - c: 1\n    \"@d\": true\n  - \"e\"\nf: {}\n");
        assert_eq!(tree.json(), serde_json::json!({"a": "x: \"y\"", "b": [{"c": 1, "@d": true}, "e"], "f": {}}));
    }
}
