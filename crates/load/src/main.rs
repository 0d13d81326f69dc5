//! `tertulia-load`: loads the real bridge over real UDP on loopback, checks every packet, and says what it cost.

mod allocator;
mod camera;
mod child;
mod client;
mod cross;
mod echo;
mod fanout;
mod histogram;
mod instructions;
mod janus;
mod link;
mod machine;
mod measure;
mod meeting;
mod payload;
mod plan;
mod process;
mod protocol;
mod publisher;
mod random;
mod record;
mod scenario;
mod shard;
mod socket;
mod sources;
mod stream;
mod tally;
mod way;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use child::How;
use machine::Machine;
use measure::Pace;
use scenario::{Manner, Scenario};

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

/// Loads the bridge over UDP on loopback, checks every packet, and says what it cost.
#[derive(Debug, Parser)]
#[command(version, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// Runs the scenarios of docs/performance.md, one after the other.
    Report {
        /// Smaller sizes, for a first look.
        #[arg(long)]
        quick: bool,
    },
    /// A stage on a running Janus instead (docs/performance.md says how to set it up).
    Janus {
        /// Watching.
        #[arg(long, default_value_t = 100)]
        subscribers: u32,
        /// Of Janus' process, for its CPU time.
        #[arg(long)]
        process: u32,
        /// Of its HTTP interface.
        #[arg(long, default_value = "127.0.0.1:8088")]
        address: SocketAddr,
    },
    /// Prints the table of results that were written with `--json`.
    Table {
        /// The file.
        file: PathBuf,
    },
    /// The process with the bridge; started by the others.
    #[command(hide = true)]
    Bridge,
}

#[derive(Debug, Clone, Args)]
struct Options {
    /// Worker threads of the bridge, on the first cores; the generator takes the others.
    #[arg(long, global = true, default_value_t = 1)]
    workers: usize,
    /// People of a room on one worker before its next ones go to another; 0 is never.
    #[arg(long, global = true, default_value_t = 0)]
    spread_at: usize,
    /// Rounds; the first is left out of the result when there are more.
    #[arg(long, global = true, default_value_t = 8)]
    rounds: usize,
    /// Seconds of a window.
    #[arg(long, global = true, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds before a window in which media flows already.
    #[arg(long, global = true, default_value_t = 1.5)]
    warm_up: f64,
    /// Leaves the fan-outs and the echo out.
    #[arg(long, global = true)]
    no_baselines: bool,
    /// Raises the number of sending rooms until packets are lost, and measures at the most without loss.
    #[arg(long, global = true)]
    climb: bool,
    /// The last so many people are clients of other hands (str0m), who check too and send nothing.
    #[arg(long, global = true, default_value_t = 0)]
    cross_check: usize,
    /// Seed of the bad networks.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// Adds the results to this file too, one JSON object a line, after one that names the machine.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Cli { command, options } = Cli::parse();
    match run(command, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tertulia-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, options: &Options) -> std::io::Result<()> {
    let how = How { workers: options.workers.max(1), spread_at: options.spread_at };
    let pace = Pace {
        rounds: options.rounds.max(1),
        warm_up: Duration::from_secs_f64(options.warm_up),
        window: Duration::from_secs_f64(options.seconds),
        baselines: !options.no_baselines,
    };
    let scenarios = match command {
        Command::Bridge => return child::run(how),
        Command::Table { file } => {
            let text = std::fs::read_to_string(file)?;
            let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
            print!("{}", record::table(&lines?));
            return Ok(());
        }
        Command::Janus { subscribers, process, address } => {
            let machine = Machine::read()?.json();
            publish(&machine, options)?;
            let result = janus::run(janus::Target { address, process }, subscribers, pace)?.json();
            publish(&result, options)?;
            print!("{}", record::table(&[machine, result]));
            return Ok(());
        }
        Command::Scenario(scenario) => vec![(scenario, options.climb)],
        Command::Report { quick } => scenario::report(quick, options.climb),
    };
    let program = std::env::current_exe()?;
    let mut all = vec![Machine::read()?.json()];
    publish(&all[0], options)?;
    for (scenario, climb) in scenarios {
        let (cross_check, seed) = (options.cross_check, options.seed);
        for result in scenario::run(scenario, Manner { program: &program, how, pace, climb, cross_check, seed })? {
            publish(&result, options)?;
            all.push(result);
        }
    }
    print!("{}", record::table(&all));
    Ok(())
}

/// Prints a line, and keeps it where that is asked for.
fn publish(line: &Value, options: &Options) -> std::io::Result<()> {
    println!("{line}");
    if let Some(path) = &options.json {
        writeln!(std::fs::File::options().create(true).append(true).open(path)?, "{line}")?;
    }
    Ok(())
}
