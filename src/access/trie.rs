//! Patterns by their literal beginning: of a thousand, those that may mean a name are found in some hundred nanoseconds.

/// Values by prefixes of texts.
#[derive(Clone, Debug)]
pub(super) struct Trie<T> {
    /// Sorted by prefix, each of them once.
    nodes: Vec<Node<T>>,
}

#[derive(Clone, Debug)]
struct Node<T> {
    prefix: String,
    values: Vec<T>,
    /// The longest other prefix that this one begins with.
    parent: Option<usize>,
}

impl<T> Trie<T> {
    /// A trie of these prefixes; several values may have the same.
    pub(super) fn new(entries: impl IntoIterator<Item = (String, T)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut nodes: Vec<Node<T>> = Vec::new();
        for (prefix, value) in entries {
            match nodes.last_mut() {
                Some(last) if last.prefix == prefix => last.values.push(value),
                _ => {
                    // What this one begins with is among the one before it and what that begins with.
                    let mut parent = nodes.len().checked_sub(1);
                    while let Some(node) = parent.and_then(|at| nodes.get(at)) {
                        if prefix.starts_with(&node.prefix) {
                            break;
                        }
                        parent = node.parent;
                    }
                    nodes.push(Node {
                        prefix,
                        values: vec![value],
                        parent,
                    });
                }
            }
        }
        Self { nodes }
    }

    /// The values of all prefixes that a text begins with.
    pub(super) fn of<'t>(&'t self, text: &str) -> impl Iterator<Item = &'t T> + use<'t, T> {
        let behind = self
            .nodes
            .partition_point(|node| node.prefix.as_str() <= text);
        let mut at = behind.checked_sub(1);
        while let Some(node) = at.and_then(|at| self.nodes.get(at)) {
            if text.starts_with(&node.prefix) {
                break;
            }
            at = node.parent;
        }
        let first = at.and_then(|at| self.nodes.get(at));
        let up = std::iter::successors(first, |node| self.nodes.get(node.parent?));
        up.flat_map(|node| &node.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_scan_finds(
            prefixes in prop::collection::vec("[ab/]{0,6}", 0..40),
            text in "[ab/]{0,8}",
        ) {
            let trie = Trie::new(prefixes.iter().cloned().zip(0..));
            let mut found: Vec<i32> = trie.of(&text).copied().collect();
            found.sort_unstable();
            let all = (0..).zip(&prefixes);
            let expected: Vec<i32> = all
                .filter(|(_, prefix)| text.starts_with(prefix.as_str()))
                .map(|(at, _)| at)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
