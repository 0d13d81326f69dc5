//! Sources on the wire: XML both ways (XEP-0339 as Jitsi writes it) and the compact JSON that a focus sends.
//!
//! Only syntax is checked here; what a conference allows is checked by the focus.

use std::fmt;

use serde_json::{Value, json};
use tertulia_model::{
    EndpointId, GroupSemantics, MediaKind, Source, SourceGroup, SourceName, SourceSet, Ssrc, VideoType,
};

use crate::element::Element;
use crate::ns;

/// Longest `msid` in bytes. Jitsi's have about 60.
const MAX_MSID_LEN: usize = 128;

/// Why sources cannot be read. `Display` is the text of the error that the client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceError {
    /// Not a number from 1 to 2³²−1.
    InvalidSsrc(String),
    /// Neither SIM nor FID.
    UnknownSemantics(String),
    /// Neither camera nor desktop.
    UnknownVideoType(String),
    /// Neither audio nor video.
    UnknownMedia(String),
    /// Not a name that this sender may give.
    InvalidName(String),
    /// Too long, or with characters that have a meaning in SDP or JSON.
    InvalidMsid,
    /// The JSON form is not what it should be.
    InvalidJson,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidSsrc(text) => write!(f, "Invalid SSRC: {text}."),
            Self::UnknownSemantics(text) => write!(f, "Unknown ssrc-group semantics: {text}."),
            Self::UnknownVideoType(text) => write!(f, "Unknown video type: {text}."),
            Self::UnknownMedia(text) => write!(f, "Unknown media type: {text}."),
            Self::InvalidName(text) => write!(f, "Invalid source name: {text}."),
            Self::InvalidMsid => f.write_str("Invalid msid."),
            Self::InvalidJson => f.write_str("Invalid json-message."),
        }
    }
}

impl std::error::Error for SourceError {}

/// Who sends, as told to clients: an endpoint, or the bridge itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// `jvb`.
    Bridge,
    /// Somebody.
    Endpoint(EndpointId),
}

impl Owner {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Bridge => "jvb",
            Self::Endpoint(id) => id.as_str(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        // Older focuses wrote the occupant's JID.
        let text = text.rsplit('/').next().unwrap_or(text);
        if text == "jvb" { Some(Self::Bridge) } else { EndpointId::parse(text).ok().map(Self::Endpoint) }
    }
}

/// Reads the sources that `owner`'s client signals: the union over the contents of a `<jingle>`.
///
/// # Errors
/// At the first part that cannot be read.
pub fn from_client(jingle: &Element, owner: &EndpointId) -> Result<SourceSet, SourceError> {
    let mut set = SourceSet::default();
    for (kind, description) in descriptions(jingle)? {
        for element in description.children().filter(|child| child.is("source", ns::SSMA)) {
            let source = read_source(element, kind, || SourceName::of(owner, kind, 0))?;
            if !source.name.belongs_to(owner, kind) {
                return Err(SourceError::InvalidName(source.name.to_string()));
            }
            set.sources.push(source);
        }
        read_groups(description, kind, &mut set.groups)?;
    }
    Ok(set)
}

/// Reads the sources that a focus announces, XML or JSON, by owner.
///
/// # Errors
/// At the first part that cannot be read.
pub fn from_focus(jingle: &Element) -> Result<Vec<(Owner, SourceSet)>, SourceError> {
    if let Some(json) = jingle.child("json-message", ns::JITMEET) {
        return from_json(&json.text());
    }
    let mut all: Vec<(Owner, SourceSet)> = Vec::new();
    for (kind, description) in descriptions(jingle)? {
        for element in description.children().filter(|child| child.is("source", ns::SSMA)) {
            let owner =
                element.child("ssrc-info", ns::JITMEET).and_then(|info| info.attr("owner")).and_then(Owner::parse);
            let owner = owner.unwrap_or(Owner::Bridge);
            let unnamed =
                || SourceName::parse(&format!("{}-{}0", owner.as_str(), kind.letter())).expect("ids are clean");
            let source = read_source(element, kind, unnamed)?;
            set_of(&mut all, &owner).sources.push(source);
        }
        let mut groups = Vec::new();
        read_groups(description, kind, &mut groups)?;
        for group in groups {
            let first = group.ssrcs.first().copied();
            let owner =
                all.iter().find(|(_, set)| set.sources.iter().any(|s| Some(s.ssrc) == first)).map(|(o, _)| o.clone());
            if let Some(owner) = owner {
                set_of(&mut all, &owner).groups.push(group);
            }
        }
    }
    Ok(all)
}

/// The compact JSON form: `{"sources":{owner:[videoSources,videoGroups,audioSources,audioGroups?]}}`.
pub fn to_json(all: &[(Owner, SourceSet)]) -> String {
    let mut owners = serde_json::Map::new();
    for (owner, set) in all {
        let mut parts = vec![
            sources_json(set, MediaKind::Video),
            groups_json(set, MediaKind::Video),
            sources_json(set, MediaKind::Audio),
        ];
        let audio_groups = groups_json(set, MediaKind::Audio);
        if audio_groups.as_array().is_some_and(|groups| !groups.is_empty()) {
            parts.push(audio_groups);
        }
        owners.insert(owner.as_str().to_owned(), Value::Array(parts));
    }
    json!({ "sources": owners }).to_string()
}

/// Children for one `<description>`: the sources of this kind with their owners, then the groups.
pub fn to_xml(all: &[(Owner, SourceSet)], kind: MediaKind) -> Vec<Element> {
    let mut elements = Vec::new();
    for (owner, set) in all {
        for source in set.sources.iter().filter(|source| source.kind == kind) {
            let info = Element::new("ssrc-info", ns::JITMEET).with_attr("owner", owner.as_str());
            elements.push(source_element(source).with_child(info));
        }
    }
    for (_, set) in all {
        elements.extend(set.groups.iter().filter(|group| group.kind == kind).map(group_element));
    }
    elements
}

/// `<source>` as a client writes it.
pub fn source_element(source: &Source) -> Element {
    let mut element = Element::new("source", ns::SSMA)
        .with_attr("ssrc", source.ssrc.to_string())
        .with_attr("name", source.name.as_str());
    if source.kind == MediaKind::Video {
        element.set_attr("videoType", if source.video_type.is_desktop() { "desktop" } else { "camera" });
    }
    if let Some(msid) = &source.msid {
        element.push(Element::new("parameter", ns::SSMA).with_attr("name", "msid").with_attr("value", msid));
    }
    element
}

/// `<ssrc-group>`.
pub fn group_element(group: &SourceGroup) -> Element {
    let members = group.ssrcs.iter().map(|ssrc| Element::new("source", ns::SSMA).with_attr("ssrc", ssrc.to_string()));
    Element::new("ssrc-group", ns::SSMA).with_attr("semantics", group.semantics.as_str()).with_children(members)
}

/// What others are told of a set: of each SIM group only the first member and its RTX partner.
///
/// With all layers present browsers refuse the description, because several m-lines would share an `msid`.
pub fn strip_simulcast(set: &SourceSet) -> SourceSet {
    let sims = set.groups.iter().filter(|group| group.semantics == GroupSemantics::Sim);
    let mut dropped: Vec<Ssrc> = sims.flat_map(|group| group.ssrcs.iter().skip(1).copied()).collect();
    let partners: Vec<Ssrc> = dropped.iter().filter_map(|ssrc| set.rtx_of(*ssrc)).collect();
    dropped.extend(partners);
    let kept = |group: &&SourceGroup| {
        group.semantics == GroupSemantics::Fid && !group.ssrcs.iter().any(|ssrc| dropped.contains(ssrc))
    };
    SourceSet {
        sources: set.sources.iter().filter(|source| !dropped.contains(&source.ssrc)).cloned().collect(),
        groups: set.groups.iter().filter(kept).cloned().collect(),
    }
}

fn descriptions(jingle: &Element) -> Result<Vec<(MediaKind, &Element)>, SourceError> {
    let mut found = Vec::new();
    for content in jingle.children().filter(|child| child.is("content", ns::JINGLE)) {
        let Some(description) = content.child("description", ns::JINGLE_RTP) else { continue };
        let media = description.attr("media").or_else(|| content.attr("name")).unwrap_or("");
        match media {
            "audio" => found.push((MediaKind::Audio, description)),
            "video" => found.push((MediaKind::Video, description)),
            "application" | "data" => {}
            other => return Err(SourceError::UnknownMedia(other.to_owned())),
        }
    }
    Ok(found)
}

fn read_source(
    element: &Element,
    kind: MediaKind,
    unnamed: impl FnOnce() -> SourceName,
) -> Result<Source, SourceError> {
    let name = match element.attr("name") {
        Some(name) if !name.is_empty() => {
            SourceName::parse(name).map_err(|_| SourceError::InvalidName(name.chars().take(48).collect()))?
        }
        _ => unnamed(),
    };
    let video_type = match element.attr("videoType") {
        None | Some("") => VideoType::Camera,
        Some(text) if text.eq_ignore_ascii_case("camera") => VideoType::Camera,
        Some(text) if text.eq_ignore_ascii_case("desktop") => VideoType::Desktop,
        Some(text) => return Err(SourceError::UnknownVideoType(text.chars().take(32).collect())),
    };
    // Clients write the parameter in the namespace of sources, Jicofo in that of RTP, some in none.
    let msid = element.children().find(|child| child.name() == "parameter" && child.attr("name") == Some("msid"));
    let msid = msid.and_then(|parameter| parameter.attr("value")).map(str::to_owned);
    if msid.as_deref().is_some_and(|msid| !is_msid(msid)) {
        return Err(SourceError::InvalidMsid);
    }
    Ok(Source { ssrc: read_ssrc(element)?, kind, name, msid, video_type })
}

fn read_groups(description: &Element, kind: MediaKind, groups: &mut Vec<SourceGroup>) -> Result<(), SourceError> {
    for element in description.children().filter(|child| child.is("ssrc-group", ns::SSMA)) {
        let semantics = match element.attr("semantics").unwrap_or("") {
            text if text.eq_ignore_ascii_case("SIM") => GroupSemantics::Sim,
            text if text.eq_ignore_ascii_case("FID") => GroupSemantics::Fid,
            other => return Err(SourceError::UnknownSemantics(other.chars().take(32).collect())),
        };
        let members = element.children().filter(|child| child.is("source", ns::SSMA));
        groups.push(SourceGroup { semantics, kind, ssrcs: members.map(read_ssrc).collect::<Result<_, _>>()? });
    }
    Ok(())
}

fn read_ssrc(element: &Element) -> Result<Ssrc, SourceError> {
    let text = element.attr("ssrc").unwrap_or("");
    let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.filter(|n| *n != 0).map(Ssrc).ok_or_else(|| SourceError::InvalidSsrc(text.chars().take(24).collect()))
}

fn is_msid(text: &str) -> bool {
    text.len() <= MAX_MSID_LEN && text.bytes().all(|b| (b' '..=b'~').contains(&b) && !matches!(b, b'"' | b'\\'))
}

fn set_of<'a>(all: &'a mut Vec<(Owner, SourceSet)>, owner: &Owner) -> &'a mut SourceSet {
    let at = all.iter().position(|(known, _)| known == owner).unwrap_or_else(|| {
        all.push((owner.clone(), SourceSet::default()));
        all.len() - 1
    });
    &mut all[at].1
}

fn sources_json(set: &SourceSet, kind: MediaKind) -> Value {
    let of_kind = set.sources.iter().filter(|source| source.kind == kind);
    let write = |source: &Source| {
        let mut object = json!({ "s": source.ssrc.0, "n": source.name.as_str() });
        if let Some(msid) = &source.msid {
            object["m"] = json!(msid);
        }
        if source.video_type.is_desktop() {
            object["v"] = json!("d");
        }
        object
    };
    of_kind.map(write).collect()
}

fn groups_json(set: &SourceSet, kind: MediaKind) -> Value {
    let of_kind = set.groups.iter().filter(|group| group.kind == kind);
    let write = |group: &SourceGroup| {
        let letter = match group.semantics {
            GroupSemantics::Fid => "f",
            GroupSemantics::Sim => "s",
        };
        std::iter::once(json!(letter)).chain(group.ssrcs.iter().map(|ssrc| json!(ssrc.0))).collect::<Value>()
    };
    of_kind.map(write).collect()
}

fn from_json(text: &str) -> Result<Vec<(Owner, SourceSet)>, SourceError> {
    let message: Value = serde_json::from_str(text).map_err(|_| SourceError::InvalidJson)?;
    let owners = message["sources"].as_object().ok_or(SourceError::InvalidJson)?;
    let mut all = Vec::new();
    for (owner, parts) in owners {
        let owner = Owner::parse(owner).ok_or(SourceError::InvalidJson)?;
        let mut set = SourceSet::default();
        for (index, kind) in [(0, MediaKind::Video), (2, MediaKind::Audio)] {
            for source in parts[index].as_array().into_iter().flatten() {
                set.sources.push(json_source(source, kind).ok_or(SourceError::InvalidJson)?);
            }
            for group in parts[index + 1].as_array().into_iter().flatten() {
                set.groups.push(json_group(group, kind).ok_or(SourceError::InvalidJson)?);
            }
        }
        all.push((owner, set));
    }
    Ok(all)
}

fn json_source(value: &Value, kind: MediaKind) -> Option<Source> {
    Some(Source {
        ssrc: json_ssrc(&value["s"])?,
        kind,
        name: SourceName::parse(value["n"].as_str()?).ok()?,
        msid: value["m"].as_str().map(str::to_owned),
        video_type: if value["v"].is_null() { VideoType::Camera } else { VideoType::Desktop },
    })
}

fn json_group(value: &Value, kind: MediaKind) -> Option<SourceGroup> {
    let (letter, ssrcs) = value.as_array()?.split_first()?;
    let semantics = match letter.as_str()? {
        "f" => GroupSemantics::Fid,
        "s" => GroupSemantics::Sim,
        _ => return None,
    };
    Some(SourceGroup { semantics, kind, ssrcs: ssrcs.iter().map(json_ssrc).collect::<Option<_>>()? })
}

fn json_ssrc(value: &Value) -> Option<Ssrc> {
    value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n != 0).map(Ssrc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ana() -> EndpointId {
        EndpointId::parse("3c1f07aa").unwrap()
    }

    fn jingle(sources: &str) -> Element {
        let text = format!(
            "<jingle xmlns='urn:xmpp:jingle:1'><content name='video'><description xmlns='urn:xmpp:jingle:apps:rtp:1' \
             media='video'>{sources}</description></content></jingle>"
        );
        crate::parse(&text).unwrap()
    }

    fn simulcast() -> SourceSet {
        let source = |ssrc: u32| {
            format!(
                "<source xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' ssrc='{ssrc}' name='3c1f07aa-v0' videoType='camera'>\
                 <parameter name='msid' value='3c1f07aa-video-0-1 t'/></source>"
            )
        };
        let group = |semantics: &str, ssrcs: &[u32]| {
            let members: String = ssrcs.iter().map(|s| format!("<source ssrc='{s}'/>")).collect();
            format!(
                "<ssrc-group xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' semantics='{semantics}'>{members}</ssrc-group>"
            )
        };
        let mut xml: String = [601, 611, 602, 603, 612, 613].into_iter().map(source).collect();
        xml += &group("FID", &[601, 611]);
        xml += &group("SIM", &[601, 602, 603]);
        xml += &group("FID", &[602, 612]);
        xml += &group("FID", &[603, 613]);
        from_client(&jingle(&xml), &ana()).unwrap()
    }

    #[test]
    fn others_see_the_first_layer_and_its_retransmissions() {
        let stripped = strip_simulcast(&simulcast());
        let ssrcs: Vec<u32> = stripped.sources.iter().map(|source| source.ssrc.0).collect();
        assert_eq!(ssrcs, [601, 611]);
        assert_eq!(stripped.groups.len(), 1);
        let json = to_json(&[(Owner::Endpoint(ana()), stripped)]);
        assert_eq!(
            json,
            "{\"sources\":{\"3c1f07aa\":[[{\"m\":\"3c1f07aa-video-0-1 t\",\"n\":\"3c1f07aa-v0\",\"s\":601},\
             {\"m\":\"3c1f07aa-video-0-1 t\",\"n\":\"3c1f07aa-v0\",\"s\":611}],[[\"f\",601,611]],[]]}}"
        );
    }

    #[test]
    fn both_forms_say_the_same() {
        let all = vec![(Owner::Endpoint(ana()), simulcast())];
        let json = Element::new("jingle", ns::JINGLE)
            .with_child(Element::new("json-message", ns::JITMEET).with_text(&to_json(&all)));
        assert_eq!(from_focus(&json).unwrap(), all);
        let description = Element::new("description", ns::JINGLE_RTP)
            .with_attr("media", "video")
            .with_children(to_xml(&all, MediaKind::Video));
        let content = Element::new("content", ns::JINGLE).with_child(description);
        assert_eq!(from_focus(&Element::new("jingle", ns::JINGLE).with_child(content)).unwrap(), all);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let table = [
            ("<source ssrc='0'/>", "Invalid SSRC: 0."),
            ("<source ssrc='4294967296'/>", "Invalid SSRC: 4294967296."),
            ("<source ssrc='+5'/>", "Invalid SSRC: +5."),
            ("<source ssrc='5' name='77aa01fe-v0'/>", "Invalid source name: 77aa01fe-v0."),
            ("<source ssrc='5' name='3c1f07aa-a0'/>", "Invalid source name: 3c1f07aa-a0."),
            ("<source ssrc='5' videoType='desktop_high_fps'/>", "Unknown video type: desktop_high_fps."),
            ("<ssrc-group semantics='FEC-FR'/>", "Unknown ssrc-group semantics: FEC-FR."),
        ];
        for (xml, text) in table {
            let xml = xml.replacen(' ', " xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' ", 1);
            assert_eq!(from_client(&jingle(&xml), &ana()).unwrap_err().to_string(), text);
        }
        let unnamed = jingle("<source xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' ssrc='5'/>");
        assert_eq!(from_client(&unnamed, &ana()).unwrap().sources[0].name.as_str(), "3c1f07aa-v0");
    }
}
