//! Instructions that threads ran, in the kernel and outside it: where the processor counts them and the system tells (perf_event_open(2)).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;

use crate::process::threads_of;

/// `PERF_TYPE_HARDWARE` and `PERF_COUNT_HW_INSTRUCTIONS`.
const INSTRUCTIONS: (u64, u64) = (0, 1);
/// Bytes of the first version of `perf_event_attr`, which every kernel knows; all of it that is not set here is zero.
const ATTRIBUTES_LEN: u64 = 64;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOSE_ON_EXEC: libc::c_ulong = 8;

/// Counts what some threads do from its making on.
pub(crate) struct Instructions(Vec<File>);

impl Instructions {
    /// Of the threads of a process whose names begin so; `None` when one of them cannot be counted.
    pub(crate) fn of(process: u32, threads: &str) -> Option<Self> {
        let threads = threads_of(process, threads).ok()?;
        let ids = threads.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok());
        ids.map(|id| open(id, INSTRUCTIONS)).collect::<io::Result<_>>().ok().map(Self)
    }

    /// How many there were so far.
    pub(crate) fn count(&self) -> Option<u64> {
        self.0.iter().map(count).sum::<io::Result<u64>>().ok().filter(|count| *count > 0)
    }
}

/// A counter of one thread, on whatever core it runs; 0 is this thread.
fn open(thread: libc::pid_t, (kind, config): (u64, u64)) -> io::Result<File> {
    // Type and size are halves of the first word, on machines that put the lower half first.
    let attributes: [u64; 8] = [kind | ATTRIBUTES_LEN << 32, config, 0, 0, 0, 0, 0, 0];
    let any: libc::c_int = -1;
    // SAFETY: the attributes live until after the call and are as long as they say.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), thread, any, any, CLOSE_ON_EXEC) };
    match libc::c_int::try_from(fd) {
        // SAFETY: the descriptor is new and owned by nobody else.
        Ok(fd) if fd >= 0 => Ok(unsafe { File::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn count(mut counter: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    counter.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_of_this_thread_grows_with_what_it_does() {
        // The kernel's own clock of the thread: it is there without a counting processor. Not everybody may read it.
        let task_clock = (1, 1);
        let counter = match open(0, task_clock) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::ENOSYS)) => return,
            opened => opened.unwrap(),
        };
        let before = count(&counter).unwrap();
        assert!((0..100_000u64).fold(0, |sum, n| std::hint::black_box(sum ^ n)) < u64::MAX);
        assert!(count(&counter).unwrap() > before);
        assert!(count(&counter).unwrap() < 60_000_000_000, "nanoseconds of this thread, not an address");
    }

    #[test]
    fn a_process_that_is_not_there_is_not_counted() {
        assert!(Instructions::of(u32::MAX, "").is_none());
    }
}
