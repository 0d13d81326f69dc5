//! The bridge channel's JSON: what clients of today and of 2022 say, and what they are told.
//!
//! What is passed on is written anew from what was read, so that no client can smuggle a second `from` past the bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tertulia_model::{EndpointId, MediaKind, SourceName, VideoType};

use crate::constraints::{AudioSubscription, Change, Limit, NAMED_MAX};

/// Longest message in bytes.
const MESSAGE_MAX: usize = 64 * 1024;
/// `EndpointStats` go to everybody in conferences up to this size; they grow with the square.
const STATS_ENDPOINTS_MAX: usize = 20;

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    /// Wants a `ServerHello`.
    Hello,
    /// Wishes for the pictures it receives.
    Constraints(Change),
    /// Wishes for the sound it receives.
    AudioSubscription(AudioSubscription),
    /// What one of its sources shows. `None`: its camera (the old form names no source).
    VideoType { source: Option<SourceName>, video_type: VideoType },
    /// For another endpoint, or for all others.
    Endpoint { to: Option<String>, body: Map<String, Value> },
    /// Numbers for all others.
    Stats { body: Map<String, Value> },
    /// A class we do not know: ignored, as clients expect.
    Unknown,
}

/// Not a message: too long, not JSON, of the wrong shape.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads one text.
pub(crate) fn parse(text: &str) -> Result<Message, Malformed> {
    if text.len() > MESSAGE_MAX {
        return Err(Malformed);
    }
    let value: Value = serde_json::from_str(text).map_err(|_| Malformed)?;
    let class = value.get("colibriClass").and_then(Value::as_str).ok_or(Malformed)?.to_owned();
    let Value::Object(mut body) = value else { return Err(Malformed) };
    match class.as_str() {
        "ClientHello" => Ok(Message::Hello),
        "ReceiverVideoConstraints" => Ok(Message::Constraints(read::<Wishes>(body)?.change())),
        "ReceiverVideoConstraint" => {
            let limit = Limit::lines(whole(read::<OldHeight>(body)?.max_frame_height));
            Ok(Message::Constraints(Change { default_limit: Some(limit), ..Change::default() }))
        }
        "LastNChangedEvent" => {
            let last_n = whole(read::<OldLastN>(body)?.last_n);
            Ok(Message::Constraints(Change { last_n: Some(last_n), ..Change::default() }))
        }
        "SelectedEndpointsChangedEvent" => {
            let endpoints = read::<OldSelected>(body)?.selected_endpoints;
            Ok(Message::Constraints(Change { selected: Some(cameras(&endpoints)), ..Change::default() }))
        }
        "ReceiverAudioSubscription" => read::<AudioWishes>(body)?.subscription().map(Message::AudioSubscription),
        "SourceVideoTypeMessage" => {
            let said = read::<SourceVideoType>(body)?;
            let source = SourceName::parse(&said.source_name).map_err(|_| Malformed)?;
            Ok(Message::VideoType { source: Some(source), video_type: video_type(&said.video_type)? })
        }
        "VideoTypeMessage" => {
            let said = read::<OldVideoType>(body)?;
            Ok(Message::VideoType { source: None, video_type: video_type(&said.video_type)? })
        }
        "EndpointMessage" => {
            let to = body.get("to").and_then(Value::as_str).filter(|to| !to.is_empty()).map(str::to_owned);
            Ok(Message::Endpoint { to, body })
        }
        "EndpointStats" => {
            body.remove("to");
            Ok(Message::Stats { body })
        }
        _ => Ok(Message::Unknown),
    }
}

/// A passed-on message with the sender's true name.
pub(crate) fn from_endpoint(mut body: Map<String, Value>, from: &EndpointId) -> Arc<str> {
    body.insert("from".into(), Value::String(from.to_string()));
    Value::Object(body).to_string().into()
}

pub(crate) fn server_hello() -> Arc<str> {
    json!({ "colibriClass": "ServerHello", "version": concat!("tertulia-", env!("CARGO_PKG_VERSION")) })
        .to_string()
        .into()
}

pub(crate) fn dominant_speaker(speaker: &EndpointId, previous: &[EndpointId]) -> Arc<str> {
    let previous: Vec<&str> = previous.iter().map(EndpointId::as_str).collect();
    let message = json!({
        "colibriClass": "DominantSpeakerEndpointChangeEvent",
        "dominantSpeakerEndpoint": speaker.as_str(),
        "previousSpeakers": previous,
        "silence": false,
    });
    message.to_string().into()
}

pub(crate) fn forwarded_sources(names: &[SourceName]) -> Arc<str> {
    let names: Vec<&str> = names.iter().map(SourceName::as_str).collect();
    json!({ "colibriClass": "ForwardedSources", "forwardedSources": names }).to_string().into()
}

/// The form of 2022.
pub(crate) fn last_n_endpoints(owners: &[EndpointId]) -> Arc<str> {
    let owners: Vec<&str> = owners.iter().map(EndpointId::as_str).collect();
    json!({ "colibriClass": "LastNEndpointsChangeEvent", "lastNEndpoints": owners }).to_string().into()
}

pub(crate) fn sender_source_constraints(name: &SourceName, max_height: i32) -> Arc<str> {
    let message =
        json!({ "colibriClass": "SenderSourceConstraints", "sourceName": name.as_str(), "maxHeight": max_height });
    message.to_string().into()
}

/// The form of 2022.
pub(crate) fn sender_video_constraints(max_height: i32) -> Arc<str> {
    // Old clients know no −1: a number that no camera reaches.
    let ideal = if max_height < 0 { 2160 } else { max_height };
    json!({ "colibriClass": "SenderVideoConstraints", "videoConstraints": { "idealHeight": ideal } }).to_string().into()
}

/// `active` is a text on purpose: clients compare it with `"true"`.
pub(crate) fn connectivity(endpoint: &EndpointId, active: bool) -> Arc<str> {
    let message = json!({
        "colibriClass": "EndpointConnectivityStatusChangeEvent",
        "endpoint": endpoint.as_str(),
        "active": active.to_string(),
    });
    message.to_string().into()
}

/// A video slot and what it carries from now on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VideoSlot<'a> {
    pub(crate) source: &'a SourceName,
    pub(crate) owner: &'a EndpointId,
    pub(crate) ssrc: u32,
    pub(crate) rtx: Option<u32>,
    pub(crate) video_type: VideoType,
    /// What its packets are stamped with, for clients that sort by MID.
    pub(crate) mid: Option<&'a str>,
}

/// An audio slot and what it carries from now on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AudioSlot<'a> {
    pub(crate) source: &'a SourceName,
    pub(crate) owner: &'a EndpointId,
    pub(crate) ssrc: u32,
    /// What its packets are stamped with, for clients that sort by MID.
    pub(crate) mid: Option<&'a str>,
}

/// Announces what video slots carry. It has to arrive before the packets.
pub(crate) fn video_sources_map(slots: &[VideoSlot<'_>]) -> Arc<str> {
    let mapped = slots.iter().map(|slot| {
        // Clients compare with the text "-1" to learn that there is no RTX; a number or nothing would become an SSRC.
        let rtx = slot.rtx.map_or_else(|| Value::from("-1"), Value::from);
        let video_type = upper_case(slot.video_type);
        let mut mapping =
            json!({ "source": slot.source.as_str(), "owner": slot.owner.as_str(), "ssrc": slot.ssrc, "rtx": rtx });
        mapping["videoType"] = video_type.into();
        with_mid(mapping, slot.mid)
    });
    let mapped: Vec<Value> = mapped.collect();
    json!({ "colibriClass": "VideoSourcesMap", "mappedSources": mapped }).to_string().into()
}

/// Announces what audio slots carry. It has to arrive before the packets.
pub(crate) fn audio_sources_map(slots: &[AudioSlot<'_>]) -> Arc<str> {
    let mapped = slots.iter().map(|slot| {
        let mapping = json!({ "source": slot.source.as_str(), "owner": slot.owner.as_str(), "ssrc": slot.ssrc });
        with_mid(mapping, slot.mid)
    });
    let mapped: Vec<Value> = mapped.collect();
    json!({ "colibriClass": "AudioSourcesMap", "mappedSources": mapped }).to_string().into()
}

/// What we think the client can receive, in bits per second.
pub(crate) fn connection_stats(estimated_downlink_bps: u64) -> Arc<str> {
    json!({ "colibriClass": "ConnectionStats", "estimatedDownlinkBandwidth": estimated_downlink_bps })
        .to_string()
        .into()
}

/// Whether one endpoint's `EndpointStats` go to another. In large conferences only of people whom the receiver notices:
/// `speaks` says that the sender is a recent speaker or among the loudest, `is_seen` that the receiver has a source of
/// it on stage, selected or forwarded.
pub(crate) fn wants_stats(endpoints: usize, speaks: bool, is_seen: bool) -> bool {
    endpoints <= STATS_ENDPOINTS_MAX || speaks || is_seen
}

fn with_mid(mut mapping: Value, mid: Option<&str>) -> Value {
    if let Some(mid) = mid {
        mapping["mid"] = mid.into();
    }
    mapping
}

/// As Jitsi's bridge writes it in these maps; clients lower it.
fn upper_case(video_type: VideoType) -> &'static str {
    match video_type {
        VideoType::Camera => "CAMERA",
        VideoType::Desktop => "DESKTOP",
        VideoType::DesktopHighFps => "DESKTOP_HIGH_FPS",
        VideoType::None => "NONE",
    }
}

// Numbers are read as JSON has them: clients compute heights, and one that is not whole is no reason to ignore the
// message.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wishes {
    last_n: Option<f64>,
    selected_sources: Option<Vec<String>>,
    on_stage_sources: Option<Vec<String>>,
    selected_endpoints: Option<Vec<String>>,
    on_stage_endpoints: Option<Vec<String>>,
    default_constraints: Option<Size>,
    constraints: Option<BTreeMap<String, Size>>,
    assumed_bandwidth_bps: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Size {
    max_height: Option<f64>,
    ideal_height: Option<f64>,
    max_frame_rate: Option<f64>,
}

/// Today's form has the first three, the older one the others.
#[derive(Deserialize)]
struct AudioWishes {
    all: Option<bool>,
    include: Option<Vec<String>>,
    exclude: Option<Vec<String>>,
    mode: Option<String>,
    list: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldHeight {
    max_frame_height: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldLastN {
    last_n: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldSelected {
    selected_endpoints: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceVideoType {
    source_name: String,
    video_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldVideoType {
    video_type: String,
}

impl Wishes {
    fn change(self) -> Change {
        let limits = self.constraints.map(|constraints| {
            let named = constraints.into_iter().filter_map(|(key, size)| Some((source_or_camera(&key)?, size.limit())));
            named.take(NAMED_MAX).collect()
        });
        let either = |sources: Option<Vec<String>>, endpoints: Option<Vec<String>>| {
            sources.or(endpoints).map(|list| cameras(&list))
        };
        Change {
            last_n: self.last_n.map(whole),
            on_stage: either(self.on_stage_sources, self.on_stage_endpoints),
            selected: either(self.selected_sources, self.selected_endpoints),
            default_limit: self.default_constraints.map(|size| size.limit()),
            limits,
            // Rounded down; what does not fit becomes the nearest that does.
            assumed_bandwidth_bps: self.assumed_bandwidth_bps.map(|bps| bps as i64),
        }
    }
}

impl Size {
    fn limit(&self) -> Limit {
        Limit {
            max_height: self.max_height.or(self.ideal_height).map_or(-1, whole),
            max_frame_rate: self.max_frame_rate.map_or(-1.0, |fps| fps as f32),
        }
    }
}

impl AudioWishes {
    fn subscription(self) -> Result<AudioSubscription, Malformed> {
        let list = names(self.list);
        let (none, include, exclude) = (BTreeSet::new(), names(self.include), names(self.exclude));
        Ok(match self.mode.as_deref() {
            // Jitsi's bridge takes a missing `all` for false.
            None => AudioSubscription { all: self.all.unwrap_or(false), include, exclude },
            Some("All") => AudioSubscription::default(),
            Some("None") => AudioSubscription { all: false, include: none.clone(), exclude: none },
            Some("Include") => AudioSubscription { all: false, include: list, exclude: none },
            Some("Exclude") => AudioSubscription { all: true, include: none, exclude: list },
            Some(_) => return Err(Malformed),
        })
    }
}

fn names(list: Option<Vec<String>>) -> BTreeSet<SourceName> {
    let list = list.unwrap_or_default();
    list.iter().take(NAMED_MAX).filter_map(|name| SourceName::parse(name).ok()).collect()
}

/// Rounds down; what does not fit becomes the nearest that does.
fn whole(number: f64) -> i32 {
    number.floor() as i32
}

/// Names that cannot be anybody's are left out: the rest of the message holds.
fn cameras(keys: &[String]) -> Vec<SourceName> {
    keys.iter().take(NAMED_MAX).filter_map(|key| source_or_camera(key)).collect()
}

/// Clients of 2022 name endpoints; they mean the camera.
fn source_or_camera(key: &str) -> Option<SourceName> {
    match EndpointId::parse(key) {
        Ok(endpoint) => Some(SourceName::of(&endpoint, MediaKind::Video, 0)),
        Err(_) => SourceName::parse(key).ok(),
    }
}

fn video_type(text: &str) -> Result<VideoType, Malformed> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "camera" => VideoType::Camera,
        "desktop" => VideoType::Desktop,
        "desktop_high_fps" => VideoType::DesktopHighFps,
        "none" => VideoType::None,
        _ => return Err(Malformed),
    })
}

fn read<T: serde::de::DeserializeOwned>(body: Map<String, Value>) -> Result<T, Malformed> {
    serde_json::from_value(Value::Object(body)).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SourceName {
        SourceName::parse(text).unwrap()
    }

    #[test]
    fn wishes_of_today_and_of_2022_mean_the_same() {
        let today = r#"{"colibriClass":"ReceiverVideoConstraints","lastN":9,"onStageSources":["77aa01fe-v0"],
            "defaultConstraints":{"maxHeight":180},"constraints":{"77aa01fe-v0":{"maxHeight":720}}}"#;
        let old = r#"{"colibriClass":"ReceiverVideoConstraints","lastN":9,"onStageEndpoints":["77aa01fe"],
            "defaultConstraints":{"maxHeight":180},"constraints":{"77aa01fe":{"maxHeight":720}}}"#;
        let Message::Constraints(change) = parse(today).unwrap() else { panic!() };
        assert_eq!(change.limits, Some([(name("77aa01fe-v0"), Limit::lines(720))].into()));
        assert_eq!(parse(old).unwrap(), Message::Constraints(change));
        let first = r#"{"colibriClass":"ReceiverVideoConstraints","assumedBandwidthBps":-1,"lastN":-1}"#;
        let nothing = Change { last_n: Some(-1), assumed_bandwidth_bps: Some(-1), ..Change::default() };
        assert_eq!(parse(first).unwrap(), Message::Constraints(nothing));
    }

    #[test]
    fn every_member_of_a_wish_is_read() {
        let text = r#"{"colibriClass":"ReceiverVideoConstraints","assumedBandwidthBps":4000000,
            "defaultConstraints":{"maxHeight":180,"maxFrameRate":15},
            "constraints":{"9be22d10-v1":{"maxHeight":359.5,"maxFrameRate":30.0},"not a name":{"maxHeight":1},
                "77aa01fe-v0":{"maxFrameRate":-1},"3c1f07aa-v0":{"maxHeight":1e99}},
            "selectedSources":["3c1f07aa-v0","\"","9be22d10-v1"]}"#;
        let Message::Constraints(change) = parse(text).unwrap() else { panic!() };
        assert_eq!(change.assumed_bandwidth_bps, Some(4_000_000));
        assert_eq!(change.default_limit, Some(Limit { max_height: 180, max_frame_rate: 15.0 }));
        let limits = [
            (name("3c1f07aa-v0"), Limit::lines(i32::MAX)),
            (name("77aa01fe-v0"), Limit::lines(-1)),
            (name("9be22d10-v1"), Limit { max_height: 359, max_frame_rate: 30.0 }),
        ];
        assert_eq!(change.limits, Some(limits.into()));
        assert_eq!(change.selected, Some(vec![name("3c1f07aa-v0"), name("9be22d10-v1")]));
        assert_eq!((change.last_n, change.on_stage), (None, None));
    }

    #[test]
    fn audio_is_subscribed_to_in_both_forms() {
        let wishes = |members: &str| {
            parse(&format!(r#"{{"colibriClass":"ReceiverAudioSubscription",{members}}}"#)).map(|message| {
                let Message::AudioSubscription(wishes) = message else { panic!() };
                let texts = |set: &BTreeSet<SourceName>| set.iter().map(SourceName::to_string).collect::<Vec<_>>();
                (wishes.all, texts(&wishes.include).join(" "), texts(&wishes.exclude).join(" "))
            })
        };
        let ok = |all: bool, include: &str, exclude: &str| Ok((all, include.to_owned(), exclude.to_owned()));
        assert_eq!(wishes(r#""all":true,"include":["a-a0.hi"],"exclude":["b-a0"]"#), ok(true, "a-a0.hi", "b-a0"));
        assert_eq!(wishes(r#""include":["a-a0"]"#), ok(false, "a-a0", ""));
        assert_eq!(wishes(r#""mode":"All""#), ok(true, "", ""));
        assert_eq!(wishes(r#""mode":"None","list":["a-a0"]"#), ok(false, "", ""));
        assert_eq!(wishes(r#""mode":"Include","list":["a-a0","b-a0"]"#), ok(false, "a-a0 b-a0", ""));
        assert_eq!(wishes(r#""mode":"Exclude","list":["a-a0"]"#), ok(true, "", "a-a0"));
        assert_eq!(wishes(r#""mode":"Some""#), Err(Malformed));
        assert_eq!(wishes(r#""all":"yes""#), Err(Malformed));
        let many: Vec<String> = (0..2_000).map(|n| format!("\"{n}-a0\"")).collect();
        let Message::AudioSubscription(wishes) =
            parse(&format!(r#"{{"colibriClass":"ReceiverAudioSubscription","include":[{}]}}"#, many.join(",")))
                .unwrap()
        else {
            panic!()
        };
        assert_eq!(wishes.include.len(), NAMED_MAX);
    }

    #[test]
    fn slots_are_announced_as_clients_read_them() {
        let owner = EndpointId::parse("9be22d10").unwrap();
        let (share, voice) = (name("9be22d10-v1"), name("9be22d10-a0"));
        let slot = VideoSlot {
            source: &share,
            owner: &owner,
            ssrc: 801_225_534,
            rtx: Some(801_225_535),
            video_type: VideoType::DesktopHighFps,
            mid: Some("v3"),
        };
        let bare = VideoSlot { rtx: None, mid: None, video_type: VideoType::Camera, ..slot };
        let message: Value = serde_json::from_str(&video_sources_map(&[slot, bare])).unwrap();
        let expected = json!({ "colibriClass": "VideoSourcesMap", "mappedSources": [
            { "source": "9be22d10-v1", "owner": "9be22d10", "ssrc": 801_225_534, "rtx": 801_225_535,
              "videoType": "DESKTOP_HIGH_FPS", "mid": "v3" },
            { "source": "9be22d10-v1", "owner": "9be22d10", "ssrc": 801_225_534, "rtx": "-1", "videoType": "CAMERA" },
        ] });
        assert_eq!(message, expected);
        let slot = AudioSlot { source: &voice, owner: &owner, ssrc: 415_550_017, mid: Some("a1") };
        let message: Value = serde_json::from_str(&audio_sources_map(&[slot])).unwrap();
        let expected = json!({ "colibriClass": "AudioSourcesMap", "mappedSources": [
            { "source": "9be22d10-a0", "owner": "9be22d10", "ssrc": 415_550_017, "mid": "a1" } ] });
        assert_eq!(message, expected);
    }

    #[test]
    fn the_estimate_is_told_in_bits_per_second() {
        assert_eq!(
            &*connection_stats(2_500_000),
            r#"{"colibriClass":"ConnectionStats","estimatedDownlinkBandwidth":2500000}"#
        );
    }

    #[test]
    fn numbers_of_many_go_only_to_those_who_notice_them() {
        for (endpoints, speaks, is_seen, wanted) in
            [(20, false, false, true), (21, false, false, false), (21, true, false, true), (200, false, true, true)]
        {
            assert_eq!(wants_stats(endpoints, speaks, is_seen), wanted, "{endpoints} {speaks} {is_seen}");
        }
    }

    #[test]
    fn a_forged_sender_is_overwritten() {
        let text =
            r#"{"colibriClass":"EndpointMessage","from":"x","from":"y","to":"77aa01fe","msgPayload":{"type":"a"}}"#;
        let Message::Endpoint { to, body } = parse(text).unwrap() else { panic!() };
        assert_eq!(to.as_deref(), Some("77aa01fe"));
        let passed = from_endpoint(body, &EndpointId::parse("3c1f07aa").unwrap());
        assert_eq!(passed.matches("from").count(), 1);
        assert!(passed.contains(r#""from":"3c1f07aa""#));
    }

    #[test]
    fn nonsense_is_refused_and_the_unknown_ignored() {
        for text in
            ["", "[]", "{}", "null", r#"{"colibriClass":5}"#, r#"{"colibriClass":"LastNChangedEvent","lastN":"a"}"#]
        {
            assert_eq!(parse(text), Err(Malformed), "{text}");
        }
        assert_eq!(parse(&format!(r#"{{"colibriClass":"{}"}}"#, "x".repeat(70_000))), Err(Malformed));
        assert_eq!(parse(r#"{"colibriClass":"PinnedEndpoint"}"#), Ok(Message::Unknown));
    }
}
