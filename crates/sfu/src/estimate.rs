//! How much a receiver can take. The place of bandwidth estimation.

/// What is known of the path to one receiver.
///
/// There is no estimator yet: every path counts as wide enough for what its receiver asks. The allocation asks here, so that an
/// estimator changes this file and the walk over layers in `allocation`, and nothing else. Its input is already there: every
/// outgoing packet carries a transport-wide sequence number.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Estimate;

impl Estimate {
    /// Bits per second that may be sent; `None` means no limit is known.
    pub(crate) fn available_bps(self) -> Option<u64> {
        None
    }
}
