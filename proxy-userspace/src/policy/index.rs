//! Which rules can match a target at all, found by how it begins: of a thousand rules, a request is
//! compared with the few whose patterns begin like its target.
//!
//! A filter, never a verdict: a rule's own expressions decide.

use super::form::Form;

/// Rules by what the targets that they match begin with.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Index {
    /// By their start, ascending: what begins like a node stands behind it.
    nodes: Vec<Node>,
}

#[derive(PartialEq, Eq, Debug)]
struct Node {
    start: Vec<u8>,
    /// The node with the longest start that this one's begins with.
    parent: Option<usize>,
    /// Places of rules, ascending.
    rules: Vec<usize>,
}

impl Index {
    /// Of rules in their order, each with the forms that hold every target it matches.
    pub(super) fn new<'a>(rules: impl Iterator<Item = &'a [Form]>) -> Self {
        let mut starts: Vec<_> = rules
            .enumerate()
            .flat_map(|(rule, forms)| forms.iter().map(move |form| (form.start.clone(), rule)))
            .collect();
        starts.sort();
        starts.dedup();
        let mut nodes: Vec<Node> = Vec::new();
        for (start, rule) in starts {
            match nodes.last_mut() {
                Some(last) if last.start == start => last.rules.push(rule),
                _ => {
                    let last = nodes.len().checked_sub(1);
                    let parent = longest(&nodes, last, &start);
                    nodes.push(Node { start, parent, rules: vec![rule] });
                }
            }
        }
        Self { nodes }
    }

    /// The place of the first rule that can match `target` and that `allows`.
    pub(super) fn first(&self, target: &[u8], allows: impl Fn(usize) -> bool) -> Option<usize> {
        let behind = self.nodes.partition_point(|node| *node.start <= *target);
        let mut next = longest(&self.nodes, behind.checked_sub(1), target);
        let mut first = None;
        while let Some(node) = next.and_then(|at| self.nodes.get(at)) {
            let mut earlier = node.rules.iter().copied().take_while(|rule| first.is_none_or(|it| *rule < it));
            first = earlier.find(|rule| allows(*rule)).or(first);
            next = node.parent;
        }
        first
    }
}

/// The node with the longest start that `target` begins with: `at`, the last one that is not greater than
/// `target`, or one of those above it.
fn longest(nodes: &[Node], mut at: Option<usize>, target: &[u8]) -> Option<usize> {
    while let Some(node) = at.and_then(|at| nodes.get(at))
        && !target.starts_with(&node.start)
    {
        at = node.parent;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::{
        super::form::{Form, Rest},
        Index,
    };
    use proptest::prelude::*;

    fn index(rules: &[Vec<&str>]) -> Index {
        let form = |start: &&str| Form { start: start.as_bytes().to_vec(), rest: Rest::Unknown };
        let forms: Vec<Vec<_>> = rules.iter().map(|starts| starts.iter().map(form).collect()).collect();
        Index::new(forms.iter().map(Vec::as_slice))
    }

    /// Every rule that is asked about `target`, when none allows.
    fn asked(index: &Index, target: &str) -> Vec<usize> {
        let asked = std::cell::RefCell::new(Vec::new());
        let found = index.first(target.as_bytes(), |rule| {
            asked.borrow_mut().push(rule);
            false
        });
        assert_eq!(found, None);
        let mut asked = asked.into_inner();
        asked.sort_unstable();
        asked
    }

    #[test]
    fn only_rules_that_begin_like_the_target_are_asked() {
        let index = index(&[vec!["/a", "/b"], vec![""], vec!["/a/c"], vec!["/ab"], vec![]]);
        assert_eq!(asked(&index, "/a/c/d"), [0, 1, 2]);
        assert_eq!(asked(&index, "/abc"), [0, 1, 3]);
        assert_eq!(asked(&index, "/aa"), [0, 1]);
        assert_eq!(asked(&index, "/"), [1]);
        assert_eq!(asked(&index, ""), [1]);
        assert_eq!(asked(&Index::new(std::iter::empty()), "/a"), [0; 0]);
    }

    #[test]
    fn the_first_of_the_rules_that_allow_is_found() {
        let index = index(&[vec!["/a/b"], vec![""], vec!["/a"], vec!["/a/b"]]);
        assert_eq!(index.first(b"/a/b", |_| true), Some(0));
        assert_eq!(index.first(b"/a/b", |rule| rule > 0), Some(1));
        assert_eq!(index.first(b"/a/b", |rule| rule > 1), Some(2));
        assert_eq!(index.first(b"/a/b", |rule| rule > 2), Some(3));
    }

    proptest! {
        #[test]
        fn a_rule_is_asked_where_a_start_of_it_begins_the_target(
            starts in proptest::collection::vec("[ab/]{0,4}", 0..12), target in "[ab/]{0,6}"
        ) {
            let rules: Vec<Vec<&str>> = starts.chunks(2).map(|two| two.iter().map(String::as_str).collect()).collect();
            let expected: Vec<_> = (0..rules.len())
                .filter(|rule| rules.get(*rule).is_some_and(|starts| starts.iter().any(|s| target.starts_with(s))))
                .collect();
            let mut asked = asked(&index(&rules), &target);
            asked.dedup();
            prop_assert_eq!(asked, expected);
        }
    }
}
