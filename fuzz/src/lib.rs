//! One target per parser; corpora beside them.
