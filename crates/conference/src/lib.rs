//! Rooms and their focus. Pure: no clock, no socket.
//!
//! A [`Conference`] is one room (XEP-0045) with its focus, who invites its occupants into a media session (Jingle). Stanzas of sessions and
//! events of the bridge go in as [`Input`], everything that has to happen comes out as [`Output`], in order.

#![forbid(unsafe_code)]

mod admin;
mod conference;
pub mod domain;
mod features;
mod focus;
mod jingle;
mod join;
mod message;
mod metadata;
mod mute;
mod name;
mod occupant;
mod owner_form;
mod presence;
mod rate;
pub mod request;
pub mod room_name;
mod route;
mod session;
mod settings;
mod source_map;
pub mod tenant;

pub use conference::{Conference, Input, Output};
pub use route::{Component, Route, route};
pub use settings::{Domains, Settings};
