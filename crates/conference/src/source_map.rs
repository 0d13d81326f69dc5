//! Everybody's sources in one conference, and the rules by which one participant's may be added or removed.

use std::collections::BTreeMap;
use std::fmt;

use tertulia_model::{EndpointId, GroupSemantics, SourceGroup, SourceSet, Ssrc};
use tertulia_xmpp::sources::Owner;

/// Most SSRCs, and most groups, of one participant.
const LIMIT: usize = 20;

/// Why a change is refused. `Display` is the text on the wire; all are `bad-request`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceRefusal {
    SsrcUsed(Ssrc),
    MsidUsed(String),
    TooManySources,
    TooManyGroups,
    GroupOfUnknown(SourceGroup),
    InvalidFid(SourceGroup),
    MissingMsid,
    GroupOfSeveralMsids(SourceGroup),
    NotOwned(Option<Ssrc>),
    NoSuchGroup,
}

impl fmt::Display for SourceRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |group: &SourceGroup| {
            let ssrcs: Vec<String> = group.ssrcs.iter().map(ToString::to_string).collect();
            ssrcs.join(", ")
        };
        match self {
            Self::SsrcUsed(ssrc) => write!(f, "SSRC is already used: {ssrc}."),
            Self::MsidUsed(msid) => write!(f, "MSID is already used: {msid}."),
            Self::TooManySources => write!(f, "SSRC limit ({LIMIT}) exceeded."),
            Self::TooManyGroups => write!(f, "ssrc-group limit ({LIMIT}) exceeded."),
            Self::GroupOfUnknown(group) => {
                write!(f, "An SSRC group contains an SSRC, which hasn't been signaled as a source: [{}].", list(group))
            }
            Self::InvalidFid(group) => write!(f, "Invalid FID group: [{}].", list(group)),
            Self::MissingMsid => f.write_str("Required source parameter 'msid' is not present."),
            Self::GroupOfSeveralMsids(group) => {
                write!(f, "SsrcGroup contains sources with different MSIDs: [{}].", list(group))
            }
            Self::NotOwned(Some(ssrc)) => write!(f, "Source does not exist or is not owned by endpoint (ssrc={ssrc})."),
            Self::NotOwned(None) => f.write_str("Source does not exist or is not owned by endpoint."),
            Self::NoSuchGroup => f.write_str("Source group does not exist"),
        }
    }
}

/// Sources by owner.
#[derive(Debug, Default)]
pub(crate) struct SourceMap {
    owners: BTreeMap<EndpointId, SourceSet>,
}

impl SourceMap {
    /// What somebody sends.
    pub(crate) fn of(&self, owner: &EndpointId) -> SourceSet {
        self.owners.get(owner).cloned().unwrap_or_default()
    }

    /// Everybody's but one's own.
    pub(crate) fn others(&self, than: &EndpointId) -> Vec<(Owner, SourceSet)> {
        let others = self.owners.iter().filter(|(owner, set)| *owner != than && !set.is_empty());
        others.map(|(owner, set)| (Owner::Endpoint(owner.clone()), set.clone())).collect()
    }

    /// Forgets somebody; returns what they sent.
    pub(crate) fn remove_owner(&mut self, owner: &EndpointId) -> SourceSet {
        self.owners.remove(owner).unwrap_or_default()
    }

    /// Adds sources, or changes nothing. Returns what was really added: empty and repeated groups are dropped.
    pub(crate) fn try_add(&mut self, owner: &EndpointId, added: SourceSet) -> Result<SourceSet, SourceRefusal> {
        let own = self.owners.get(owner).cloned().unwrap_or_default();
        self.check_new(owner, &own, &added)?;
        let mut groups: Vec<SourceGroup> = Vec::new();
        for group in added.groups {
            if !group.ssrcs.is_empty() && !groups.contains(&group) && !own.groups.contains(&group) {
                groups.push(group);
            }
        }
        if own.groups.len() + groups.len() > LIMIT {
            return Err(SourceRefusal::TooManyGroups);
        }
        let mut result = own;
        result.sources.extend(added.sources.iter().cloned());
        result.groups.extend(groups.iter().cloned());
        check_groups(&result)?;
        check_msids(&result)?;
        self.owners.insert(owner.clone(), result);
        Ok(SourceSet { sources: added.sources, groups })
    }

    /// Removes sources, or changes nothing. Groups of removed sources go with them. Returns what was removed.
    pub(crate) fn try_remove(&mut self, owner: &EndpointId, removed: &SourceSet) -> Result<SourceSet, SourceRefusal> {
        let own = self.owners.get(owner).cloned().unwrap_or_default();
        if removed.is_empty() {
            return Err(SourceRefusal::NotOwned(None));
        }
        let owned = |ssrc: Ssrc| own.sources.iter().any(|source| source.ssrc == ssrc);
        if let Some(source) = removed.sources.iter().find(|source| !owned(source.ssrc)) {
            return Err(SourceRefusal::NotOwned(Some(source.ssrc)));
        }
        if removed.groups.iter().any(|group| !own.groups.contains(group)) {
            return Err(SourceRefusal::NoSuchGroup);
        }
        let gone = |ssrc: &Ssrc| removed.sources.iter().any(|source| source.ssrc == *ssrc);
        let group_gone = |group: &SourceGroup| removed.groups.contains(group) || group.ssrcs.iter().any(gone);
        let (gone_sources, kept_sources) = own.sources.into_iter().partition(|source| gone(&source.ssrc));
        let (gone_groups, kept_groups) = own.groups.into_iter().partition(group_gone);
        self.owners.insert(owner.clone(), SourceSet { sources: kept_sources, groups: kept_groups });
        Ok(SourceSet { sources: gone_sources, groups: gone_groups })
    }

    fn check_new(&self, owner: &EndpointId, own: &SourceSet, added: &SourceSet) -> Result<(), SourceRefusal> {
        for (index, source) in added.sources.iter().enumerate() {
            let in_room = self.owners.values().any(|set| set.sources.iter().any(|known| known.ssrc == source.ssrc));
            let twice = added.sources[..index].iter().any(|known| known.ssrc == source.ssrc);
            if in_room || twice {
                return Err(SourceRefusal::SsrcUsed(source.ssrc));
            }
            let others = self.owners.iter().filter(|(other, _)| *other != owner);
            let used =
                others.flat_map(|(_, set)| &set.sources).any(|known| known.msid.is_some() && known.msid == source.msid);
            if used {
                return Err(SourceRefusal::MsidUsed(source.msid.clone().unwrap_or_default()));
            }
        }
        if own.sources.len() + added.sources.len() > LIMIT { Err(SourceRefusal::TooManySources) } else { Ok(()) }
    }
}

fn check_groups(set: &SourceSet) -> Result<(), SourceRefusal> {
    for group in &set.groups {
        let members: Vec<_> =
            group.ssrcs.iter().map(|ssrc| set.sources.iter().find(|source| source.ssrc == *ssrc)).collect();
        let Some(members) = members.into_iter().collect::<Option<Vec<_>>>() else {
            return Err(SourceRefusal::GroupOfUnknown(group.clone()));
        };
        if group.semantics == GroupSemantics::Fid && members.len() != 2 {
            return Err(SourceRefusal::InvalidFid(group.clone()));
        }
        if members.iter().any(|source| source.msid.is_none()) {
            return Err(SourceRefusal::MissingMsid);
        }
        if members.iter().any(|source| source.msid != members[0].msid) {
            return Err(SourceRefusal::GroupOfSeveralMsids(group.clone()));
        }
    }
    Ok(())
}

/// Per kind, one msid belongs to one extended group: a SIM group with its FIDs, a lone FID, or a lone source.
fn check_msids(set: &SourceSet) -> Result<(), SourceRefusal> {
    let mut seen: Vec<(tertulia_model::MediaKind, &str)> = Vec::new();
    let root = |ssrc: Ssrc| {
        let fid = set.groups.iter().find(|g| g.semantics == GroupSemantics::Fid && g.ssrcs.get(1) == Some(&ssrc));
        let primary = fid.and_then(|group| group.ssrcs.first().copied()).unwrap_or(ssrc);
        let sim = set.groups.iter().find(|g| g.semantics == GroupSemantics::Sim && g.ssrcs.contains(&primary));
        sim.and_then(|group| group.ssrcs.first().copied()).unwrap_or(primary)
    };
    for source in &set.sources {
        let Some(msid) = source.msid.as_deref() else { continue };
        if root(source.ssrc) != source.ssrc {
            continue; // a further member of a group whose first member counts
        }
        if seen.contains(&(source.kind, msid)) {
            return Err(SourceRefusal::MsidUsed(msid.to_owned()));
        }
        seen.push((source.kind, msid));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tertulia_model::{MediaKind, Source, SourceName, VideoType};

    fn id(text: &str) -> EndpointId {
        EndpointId::parse(text).unwrap()
    }

    fn source(ssrc: u32, msid: Option<&str>) -> Source {
        Source {
            ssrc: Ssrc(ssrc),
            kind: MediaKind::Video,
            name: SourceName::parse("a-v0").unwrap(),
            msid: msid.map(str::to_owned),
            video_type: VideoType::Camera,
        }
    }

    fn group(semantics: GroupSemantics, ssrcs: &[u32]) -> SourceGroup {
        SourceGroup { semantics, kind: MediaKind::Video, ssrcs: ssrcs.iter().map(|s| Ssrc(*s)).collect() }
    }

    fn set(sources: &[(u32, Option<&str>)], groups: Vec<SourceGroup>) -> SourceSet {
        SourceSet { sources: sources.iter().map(|(ssrc, msid)| source(*ssrc, *msid)).collect(), groups }
    }

    use GroupSemantics::{Fid, Sim};

    #[test]
    fn every_rule_refuses_with_its_text_and_changes_nothing() {
        let many: Vec<(u32, Option<&str>)> = (100..121).map(|n| (n, None)).collect();
        let table = [
            (set(&[(1, None)], vec![]), "SSRC is already used: 1."),
            (set(&[(5, None), (5, None)], vec![]), "SSRC is already used: 5."),
            (set(&[(6, Some("bo"))], vec![]), "MSID is already used: bo."),
            (set(&many, vec![]), "SSRC limit (20) exceeded."),
            (
                set(&[(7, Some("m"))], vec![group(Fid, &[7, 8])]),
                "An SSRC group contains an SSRC, which hasn't been signaled as a source: [7, 8].",
            ),
            (set(&[(7, Some("m"))], vec![group(Fid, &[7])]), "Invalid FID group: [7]."),
            (
                set(&[(7, None), (8, None)], vec![group(Fid, &[7, 8])]),
                "Required source parameter 'msid' is not present.",
            ),
            (
                set(&[(7, Some("m")), (8, Some("n"))], vec![group(Sim, &[7, 8])]),
                "SsrcGroup contains sources with different MSIDs: [7, 8].",
            ),
            (set(&[(7, Some("m")), (8, Some("m"))], vec![]), "MSID is already used: m."),
        ];
        for (added, text) in table {
            let mut map = SourceMap::default();
            map.try_add(&id("ana"), set(&[(1, Some("ana"))], vec![])).unwrap();
            map.try_add(&id("bo"), set(&[(2, Some("bo"))], vec![])).unwrap();
            let refusal = map.try_add(&id("ana"), added).unwrap_err();
            assert_eq!(refusal.to_string(), text);
            assert_eq!(map.of(&id("ana")).sources.len(), 1);
        }
        let pairs = (1..8u32).flat_map(|a| (1..8).filter(move |b| *b != a).map(move |b| group(Sim, &[a, b])));
        let sources: Vec<(u32, Option<&str>)> = (1..8).map(|n| (n, Some("m"))).collect();
        let refusal = SourceMap::default().try_add(&id("ana"), set(&sources, pairs.take(21).collect())).unwrap_err();
        assert_eq!(refusal.to_string(), "ssrc-group limit (20) exceeded.");
    }

    #[test]
    fn a_whole_camera_passes_and_only_its_owner_can_take_it_away() {
        let mut map = SourceMap::default();
        let ssrcs: Vec<(u32, Option<&str>)> = [1, 11, 2, 12].into_iter().map(|n| (n, Some("m"))).collect();
        let groups = vec![group(Sim, &[1, 2]), group(Fid, &[1, 11]), group(Fid, &[2, 12])];
        map.try_add(&id("ana"), set(&ssrcs, groups)).unwrap();
        assert_eq!(
            map.try_remove(&id("bo"), &set(&[(1, None)], vec![])).unwrap_err().to_string(),
            "Source does not exist or is not owned by endpoint (ssrc=1)."
        );
        assert_eq!(
            map.try_remove(&id("ana"), &SourceSet::default()).unwrap_err().to_string(),
            "Source does not exist or is not owned by endpoint."
        );
        assert_eq!(
            map.try_remove(&id("ana"), &set(&[(1, None)], vec![group(Fid, &[1, 2])])).unwrap_err(),
            SourceRefusal::NoSuchGroup
        );
        let removed = map.try_remove(&id("ana"), &set(&[(1, None), (11, None)], vec![])).unwrap();
        assert_eq!((removed.sources.len(), removed.groups.len()), (2, 2));
        assert_eq!(map.of(&id("ana")).groups.len(), 1);
    }
}
