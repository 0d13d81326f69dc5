//! The Tertulia meeting server: reads the configuration, builds the parts, wires them, shuts down.

mod cli;
mod config;
mod log;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, ConfigAction};
use config::ConfigError;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command.clone().unwrap_or(Command::Serve) {
        Command::Serve => serve(&cli),
        Command::Config { action } => look_at_config(&cli, &action).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tertulia: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(cli: &Cli) -> anyhow::Result<()> {
    let config = cli.sources.read()?.check()?;
    log::install(&config)?;
    serve::run(&config)
}

fn look_at_config(cli: &Cli, action: &ConfigAction) -> Result<(), ConfigError> {
    let config = cli.sources.read()?.check()?;
    match action {
        ConfigAction::Check => println!("the configuration can be used"),
        ConfigAction::Print { effective: true } => print!("{}", config::effective(&config)),
        ConfigAction::Print { effective: false } => print!("{}", config::reference()),
    }
    Ok(())
}
