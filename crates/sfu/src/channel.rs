//! The bridge channel's JSON: what clients of today and of 2022 say, and what they are told.
//!
//! What is passed on is written anew from what was read, so that no client can smuggle a second `from` past the bridge.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tertulia_model::{EndpointId, MediaKind, SourceName, VideoType};

use crate::constraints::{Change, NAMED_MAX};

/// Longest message in bytes.
const MESSAGE_MAX: usize = 64 * 1024;

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    /// Wants a `ServerHello`.
    Hello,
    /// Wishes for what it receives.
    Constraints(Change),
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
        "ReceiverVideoConstraints" => read::<Wishes>(body)?.change().map(Message::Constraints),
        "ReceiverVideoConstraint" => {
            let height = read::<OldHeight>(body)?.max_frame_height;
            Ok(Message::Constraints(Change { default_max_height: Some(height), ..Change::default() }))
        }
        "LastNChangedEvent" => {
            let last_n = read::<OldLastN>(body)?.last_n;
            Ok(Message::Constraints(Change { last_n: Some(last_n), ..Change::default() }))
        }
        "SelectedEndpointsChangedEvent" => {
            let endpoints = read::<OldSelected>(body)?.selected_endpoints;
            Ok(Message::Constraints(Change { selected: Some(cameras(&endpoints)?), ..Change::default() }))
        }
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wishes {
    last_n: Option<i32>,
    selected_sources: Option<Vec<String>>,
    on_stage_sources: Option<Vec<String>>,
    selected_endpoints: Option<Vec<String>>,
    on_stage_endpoints: Option<Vec<String>>,
    default_constraints: Option<Height>,
    constraints: Option<BTreeMap<String, Height>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Height {
    max_height: Option<i32>,
    ideal_height: Option<i32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldHeight {
    max_frame_height: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldLastN {
    last_n: i32,
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
    fn change(self) -> Result<Change, Malformed> {
        let heights = self.constraints.map(|constraints| {
            let named = constraints.into_iter().map(|(key, height)| Ok((source_or_camera(&key)?, height.lines())));
            named.take(NAMED_MAX).collect::<Result<BTreeMap<_, _>, Malformed>>()
        });
        let either = |sources: Option<Vec<String>>, endpoints: Option<Vec<String>>| match (sources, endpoints) {
            (Some(list), _) | (None, Some(list)) => cameras(&list).map(Some),
            (None, None) => Ok(None),
        };
        Ok(Change {
            last_n: self.last_n,
            on_stage: either(self.on_stage_sources, self.on_stage_endpoints)?,
            selected: either(self.selected_sources, self.selected_endpoints)?,
            default_max_height: self.default_constraints.map(|height| height.lines()),
            max_heights: heights.transpose()?,
        })
    }
}

impl Height {
    fn lines(&self) -> i32 {
        self.max_height.or(self.ideal_height).unwrap_or(-1)
    }
}

fn cameras(keys: &[String]) -> Result<Vec<SourceName>, Malformed> {
    keys.iter().take(NAMED_MAX).map(|key| source_or_camera(key)).collect()
}

/// Clients of 2022 name endpoints; they mean the camera.
fn source_or_camera(key: &str) -> Result<SourceName, Malformed> {
    match EndpointId::parse(key) {
        Ok(endpoint) => Ok(SourceName::of(&endpoint, MediaKind::Video, 0)),
        Err(_) => SourceName::parse(key).map_err(|_| Malformed),
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
        assert_eq!(change.max_heights, Some([(name("77aa01fe-v0"), 720)].into()));
        assert_eq!(parse(old).unwrap(), Message::Constraints(change));
        let first = r#"{"colibriClass":"ReceiverVideoConstraints","assumedBandwidthBps":-1,"lastN":-1}"#;
        assert_eq!(parse(first).unwrap(), Message::Constraints(Change { last_n: Some(-1), ..Change::default() }));
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
