//! The bridge: UDP sockets, worker threads, ICE, DTLS and SRTP around the sfu.

pub mod srtp;
