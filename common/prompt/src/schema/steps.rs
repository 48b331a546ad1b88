//! The arithmetic of the guard: the order of the graph, and the visits of its worst path at every depth.

use std::collections::BTreeMap;

use super::guard::{Child, Graph, MOST_DEPTH, Refusal, VISITS};

/// Schemas in a row that stay at one instance: each is a few stack frames of the validator.
const CHAIN: usize = 32;

/// Visits of the root by nesting, as long as they stay within the limit. Entry `d` is for instances nested `d` levels.
pub(super) fn visits(here: &[usize], down: &[BTreeMap<(Child<'_>, usize), usize>]) -> Vec<usize> {
    let mut now = here.to_vec();
    let mut visits = vec![now[0]];
    while visits.len() <= MOST_DEPTH {
        let next: Vec<usize> =
            here.iter().zip(down).map(|(own, edges)| own.saturating_add(worst_child(edges, &now))).collect();
        if next[0] > VISITS {
            return visits;
        }
        if next == now {
            // Deeper instances cost no more: the schema says nothing about them.
            visits.resize(MOST_DEPTH + 1, next[0]);
            return visits;
        }
        visits.push(next[0]);
        now = next;
    }
    visits
}

/// The most visits any one child of an instance gets.
fn worst_child(edges: &BTreeMap<(Child<'_>, usize), usize>, visits: &[usize]) -> usize {
    let (mut any_property, mut any_item) = (0_usize, 0_usize);
    let mut single: BTreeMap<Child<'_>, usize> = BTreeMap::new();
    for ((child, target), times) in edges {
        let walked = times.saturating_mul(visits[*target]);
        let sum = match child {
            Child::AnyProperty => &mut any_property,
            Child::AnyItem => &mut any_item,
            one => single.entry(*one).or_default(),
        };
        *sum = sum.saturating_add(walked);
    }
    let named = single.iter().map(|(child, sum)| match child {
        Child::Property(_) | Child::AnyProperty => sum.saturating_add(any_property),
        Child::Item(_) | Child::AnyItem => sum.saturating_add(any_item),
    });
    named.max().unwrap_or(0).max(any_property).max(any_item)
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum State {
    New,
    Open,
    /// Length of the longest chain that begins here.
    Done(usize),
}

/// Depth-first walk over the edges that stay at the same instance.
pub(super) struct Walk<'g, 's> {
    pub(super) graph: &'g Graph<'s>,
    pub(super) state: Vec<State>,
    /// Nodes after everything they refer to.
    pub(super) order: Vec<usize>,
}

impl Walk<'_, '_> {
    pub(super) fn visit(&mut self, id: usize, depth: usize) -> Result<usize, Refusal> {
        let refuse = |message: String| Err((self.graph.nodes[id].place.clone(), message));
        match self.state[id] {
            State::Done(chain) => return Ok(chain),
            State::Open => {
                return refuse(
                    "the schema refers to itself without going into a property or element".to_owned(),
                );
            }
            State::New if depth > CHAIN => {
                return refuse(format!("more than {CHAIN} schemas refer to each other in a row"));
            }
            State::New => self.state[id] = State::Open,
        }
        let mut chain = 0;
        for (other, _) in &self.graph.nodes[id].same {
            chain = chain.max(self.visit(*other, depth + 1)?);
        }
        if chain >= CHAIN {
            let message = format!("more than {CHAIN} schemas refer to each other in a row");
            return Err((self.graph.nodes[id].place.clone(), message));
        }
        self.state[id] = State::Done(chain + 1);
        self.order.push(id);
        Ok(chain + 1)
    }
}
