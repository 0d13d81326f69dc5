//! Logging: levels and formats. What may stand in a log line is decided where it is written.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{Config, LogFormat};

/// Libraries whose lines a peer can provoke: capped, so that nobody fills the disk from outside.
/// What goes wrong with SCTP is the peer's doing alone, a line for each packet: counters and our own events tell of it.
const CAPS: &[&str] = &["sctp_proto=off", "dimpl=error", "is=error", "hyper=warn", "rustls=warn", "tungstenite=warn"];

/// Installs the process-wide subscriber. Called once.
///
/// # Errors
/// When the filter of the configuration cannot be read.
pub(crate) fn install(config: &Config) -> Result<(), ParseError> {
    let mut filter = EnvFilter::builder().parse(&config.log_filter)?;
    for cap in CAPS {
        filter = filter.add_directive(cap.parse()?);
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
