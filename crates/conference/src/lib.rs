//! Rooms and their focus. Pure: no clock, no socket.

#![forbid(unsafe_code)]
