//! The command line: commands and the few flags that are shorter than their keys.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigError, Layers};

/// A whole meeting server that Jitsi's clients connect to unchanged.
#[derive(Debug, Parser)]
#[command(name = "tertulia", version, about)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) sources: Sources,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do; serving is the default.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Starts the server (the default).
    Serve,
    /// Looks at the configuration.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
}

/// What to do with the configuration.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ConfigAction {
    /// Says whether the configuration can be used.
    Check,
    /// Prints every key with its documentation and default, or the values in force.
    Print {
        /// The values in force.
        #[arg(long)]
        effective: bool,
    },
}

/// Where configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// Configuration file. Without it `tertulia.toml` of the current directory is read, if there is one.
    #[arg(long, global = true, env = "TERTULIA_CONFIG")]
    config: Option<PathBuf>,
    /// Sets any key: `--set media.port=20000`.
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
    /// Where to serve the page and signalling (`http.listen`), separated by commas.
    #[arg(long, global = true)]
    listen: Option<String>,
    /// How people reach the server (`server.public_url`).
    #[arg(long, global = true)]
    public_url: Option<String>,
    /// First UDP port for media (`media.port`).
    #[arg(long, global = true)]
    media_port: Option<String>,
    /// HTTPS with a certificate made here (`tls.self_signed`).
    #[arg(long, global = true)]
    self_signed: bool,
}

impl Sources {
    /// Reads every source, weakest first.
    pub(crate) fn read(&self) -> Result<Layers, ConfigError> {
        let mut layers = Layers::default();
        let usual = PathBuf::from("tertulia.toml");
        if let Some(path) = self.config.as_ref().or_else(|| usual.exists().then_some(&usual)) {
            layers.add_file(path)?;
        }
        layers.add_environment(std::env::vars())?;
        let named =
            [("http.listen", &self.listen), ("server.public_url", &self.public_url), ("media.port", &self.media_port)];
        for (key, value) in named {
            if let Some(value) = value {
                layers.add_flag(key, value)?;
            }
        }
        if self.self_signed {
            layers.add_flag("tls.self_signed", "true")?;
        }
        for pair in &self.set {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            layers.add_flag(key, value)?;
        }
        Ok(layers)
    }
}
