//! The bridge's process from outside: starting it, talking to it, and what the kernel says of its threads and memory.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::child::How;
use crate::instructions::Instructions;
use crate::protocol::{Order, Report};

/// A running bridge process. It ends with its input.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    /// What it says.
    pub(crate) reports: Receiver<Report>,
}

impl Process {
    /// Starts the program again as a bridge.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(program: &Path, how: How) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("bridge").arg("--workers").arg(how.workers.to_string());
        command.arg("--spread-at").arg(how.spread_at.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| io::Error::other("the bridge process has no output"))?;
        let (reports, inbox) = crossbeam_channel::unbounded();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(report) = serde_json::from_str(&line) else { return };
                if reports.send(report).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, input, reports: inbox })
    }

    /// Gives an order.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn send(&mut self, order: &Order) -> io::Result<()> {
        let input = self.input.as_mut().ok_or_else(gone)?;
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        input.write_all(&line)
    }

    /// The next report.
    ///
    /// # Errors
    /// When none comes in time.
    pub(crate) fn next(&self, patience: Duration) -> io::Result<Report> {
        self.reports.recv_timeout(patience).map_err(|_| gone())
    }

    /// What its threads of this kind used so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn cpu(&self, threads: &str) -> io::Result<Cpu> {
        cpu_of(self.child.id(), threads)
    }

    /// Counts the instructions of its threads of this kind from now on, where that can be done.
    pub(crate) fn instructions(&self, threads: &str) -> Option<Instructions> {
        Instructions::of(self.child.id(), threads)
    }

    /// Resident memory in bytes, without what is read from the program's own file as its code is first run: that is the same for one person
    /// and for a thousand.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("the kernel does not tell memory"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.input = None;
        // It ends when its input does; it is waited for so that nothing stays behind.
        let _ = self.child.wait();
    }
}

fn gone() -> io::Error {
    io::Error::other("the bridge process does not answer")
}

/// CPU time of some threads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cpu {
    /// On a core, in nanoseconds.
    pub(crate) busy_ns: u64,
    /// The kernel's sampling of where: clock ticks.
    pub(crate) user_ticks: u64,
    pub(crate) system_ticks: u64,
}

impl Cpu {
    /// What was used since an earlier reading.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            busy_ns: self.busy_ns.saturating_sub(earlier.busy_ns),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
        }
    }

    /// Share of the time outside the kernel; `None` when too little was sampled to say.
    pub(crate) fn user_share(self) -> Option<f64> {
        let ticks = self.user_ticks + self.system_ticks;
        (ticks >= 20).then(|| self.user_ticks as f64 / ticks as f64)
    }

    fn add(&mut self, schedstat: &str, stat: &str) {
        let word = |text: &str, at: usize| text.split_whitespace().nth(at).and_then(|word| word.parse::<u64>().ok());
        self.busy_ns += word(schedstat, 0).unwrap_or(0);
        // The name in parentheses may hold spaces; after it, the state is field 3 and user time field 14 (proc(5)).
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        self.user_ticks += word(after, 11).unwrap_or(0);
        self.system_ticks += word(after, 12).unwrap_or(0);
    }
}

/// What the threads of a process whose names begin so used so far.
///
/// # Errors
/// When there is no such process.
pub(crate) fn cpu_of(process: u32, threads: &str) -> io::Result<Cpu> {
    let mut sum = Cpu::default();
    for path in threads_of(process, threads)? {
        // A thread may end while it is being read.
        let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
        sum.add(&read("schedstat"), &read("stat"));
    }
    Ok(sum)
}

/// The threads of a process whose names begin so, as the kernel's folders.
///
/// # Errors
/// When there is no such process.
pub(crate) fn threads_of(process: u32, threads: &str) -> io::Result<Vec<PathBuf>> {
    let tasks: io::Result<Vec<PathBuf>> =
        std::fs::read_dir(format!("/proc/{process}/task"))?.map(|task| Ok(task?.path())).collect();
    let is_one =
        |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with(threads));
    Ok(tasks?.into_iter().filter(is_one).collect())
}

/// Cores of this machine that may be used.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Keeps this thread on one core. Best effort: containers may forbid it.
pub(crate) fn pin_to_core(core: usize) {
    // SAFETY: all-zero bytes are a valid, empty set, and the core's number is below the set's size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core.min(1_023), &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// CPU time of this thread.
pub(crate) fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the result has room until after the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_the_right_fields_whatever_the_thread_is_called() {
        let mut cpu = Cpu::default();
        cpu.add("123456789 5 6\n", "77 (a) b c) R 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20 0 3 0\n");
        assert_eq!(cpu, Cpu { busy_ns: 123_456_789, user_ticks: 30, system_ticks: 12 });
        assert_eq!(cpu.user_share(), Some(30.0 / 42.0));
        assert_eq!(Cpu::default().user_share(), None);
    }
}
