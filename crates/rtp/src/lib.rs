//! Views and writers for RTP, RTCP, header extensions and codec headers.

#![forbid(unsafe_code)]
