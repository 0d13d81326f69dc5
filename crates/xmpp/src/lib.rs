//! Stanzas: a bounded XML tree, its writer, and Jitsi's vocabulary on top of it.

#![forbid(unsafe_code)]
