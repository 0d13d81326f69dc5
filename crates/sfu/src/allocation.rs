//! Which video sources one receiver gets, and how large: constraints and last-N turned into a height per source.
//!
//! Nothing is held back for lack of bandwidth yet; `estimate` says why, and the walk over layers will stand here.

use tertulia_model::{EndpointId, SourceName};

use crate::constraints::Constraints;
use crate::estimate::Estimate;

/// A source as a receiver could have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    /// The caller's number for it.
    pub(crate) source: usize,
    pub(crate) name: &'a SourceName,
    pub(crate) owner: &'a EndpointId,
    /// Whether its sender sends pictures at all.
    pub(crate) enabled: bool,
}

/// Heights for `candidates`, in their order: −1 unlimited, 0 off.
///
/// Sources are served in this order: on stage, selected, then by how recently their owner spoke; disabled ones last. Each that is wanted
/// takes one of the last-N places.
pub(crate) fn allocate(
    constraints: &Constraints,
    estimate: Estimate,
    speech_order: &[EndpointId],
    candidates: &[Candidate<'_>],
) -> Vec<(usize, i32)> {
    debug_assert!(estimate.available_bps().is_none(), "a limited path needs the walk over layers");
    let position =
        |list: &[SourceName], name: &SourceName| list.iter().position(|own| own == name).unwrap_or(usize::MAX);
    let spoke = |owner: &EndpointId| speech_order.iter().position(|own| own == owner).unwrap_or(usize::MAX);
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_cached_key(|index| {
        let candidate = &candidates[*index];
        let stage = position(&constraints.on_stage, candidate.name);
        (!candidate.enabled, stage, position(&constraints.selected, candidate.name), spoke(candidate.owner))
    });
    let mut places = constraints.last_n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut heights: Vec<(usize, i32)> = candidates.iter().map(|candidate| (candidate.source, 0)).collect();
    for index in order {
        let candidate = &candidates[index];
        let height = constraints.limit(candidate.name).max_height;
        if height != 0 && candidate.enabled && places > 0 {
            places -= 1;
            heights[index].1 = height;
        }
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraints::Change;

    fn heights(change: Change, speakers: &[&str], disabled: &[&str]) -> Vec<(String, i32)> {
        let ids: Vec<EndpointId> = ["a", "b", "c", "d"].into_iter().map(|id| EndpointId::parse(id).unwrap()).collect();
        let names: Vec<SourceName> = ids.iter().map(|id| SourceName::parse(&format!("{id}-v0")).unwrap()).collect();
        let enabled = |id: &EndpointId| !disabled.contains(&id.as_str());
        let candidate = |n: usize| Candidate { source: n, name: &names[n], owner: &ids[n], enabled: enabled(&ids[n]) };
        let candidates: Vec<Candidate<'_>> = (0..4).map(candidate).collect();
        let speakers: Vec<EndpointId> = speakers.iter().map(|id| EndpointId::parse(id).unwrap()).collect();
        let mut constraints = Constraints::default();
        constraints.apply(change);
        let allocated = allocate(&constraints, Estimate, &speakers, &candidates);
        let named = allocated.into_iter().filter(|(_, height)| *height != 0);
        named.map(|(source, height)| (ids[source].to_string(), height)).collect()
    }

    fn name(id: &str) -> SourceName {
        SourceName::parse(&format!("{id}-v0")).unwrap()
    }

    fn named(list: &[(&str, i32)]) -> Vec<(String, i32)> {
        list.iter().map(|(id, height)| ((*id).to_owned(), *height)).collect()
    }

    #[test]
    fn places_go_to_the_stage_then_selected_then_speakers() {
        let change = |last_n| Change {
            last_n: Some(last_n),
            on_stage: Some(vec![name("c")]),
            selected: Some(vec![name("d")]),
            limits: Some([(name("c"), crate::constraints::Limit::lines(720))].into()),
            ..Change::default()
        };
        assert_eq!(heights(change(1), &["b"], &[]), named(&[("c", 720)]));
        assert_eq!(heights(change(2), &["b"], &[]), named(&[("c", 720), ("d", 180)]));
        assert_eq!(heights(change(3), &["b"], &[]), named(&[("b", 180), ("c", 720), ("d", 180)]));
        assert_eq!(heights(change(-1), &[], &[]).len(), 4);
        assert_eq!(heights(change(0), &[], &[]), named(&[]));
    }

    #[test]
    fn disabled_and_unwanted_sources_take_no_place() {
        let change = Change {
            last_n: Some(1),
            limits: Some([(name("a"), crate::constraints::Limit::lines(0))].into()),
            ..Change::default()
        };
        assert_eq!(heights(change, &["a", "b", "c"], &["b"]), named(&[("c", 180)]));
    }
}
