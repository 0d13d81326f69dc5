//! Forwarding: layers, allocation, loss recovery, speakers. Pure: no clock, no socket.

#![forbid(unsafe_code)]
