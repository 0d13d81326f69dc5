//! Stream management (XEP-0198): counters and the queue of what the peer has not acknowledged.

use std::collections::VecDeque;

use crate::element::Element;
use crate::ns;

/// An acknowledgement that cannot be true: lower than an earlier one, or of stanzas never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImpossibleAck;

/// What we sent: a count modulo 2³² and the stanzas that may have to be sent again.
#[derive(Debug, Default)]
pub struct Outbound {
    acknowledged: u32,
    unacknowledged: VecDeque<String>,
}

impl Outbound {
    /// Remembers a sent stanza. Returns how many are unacknowledged now.
    pub fn sent(&mut self, stanza: String) -> usize {
        self.unacknowledged.push_back(stanza);
        self.unacknowledged.len()
    }

    /// Takes the peer's count.
    ///
    /// # Errors
    /// When the count cannot be true; nothing changes then.
    pub fn acknowledge(&mut self, h: u32) -> Result<(), ImpossibleAck> {
        let newly = h.wrapping_sub(self.acknowledged) as usize;
        if newly > self.unacknowledged.len() {
            return Err(ImpossibleAck);
        }
        self.unacknowledged.drain(..newly);
        self.acknowledged = h;
        Ok(())
    }

    /// What may not have arrived, oldest first.
    pub fn unacknowledged(&self) -> impl Iterator<Item = &str> {
        self.unacknowledged.iter().map(String::as_str)
    }

    /// How many that are.
    pub fn len(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Whether everything has arrived.
    pub fn is_empty(&self) -> bool {
        self.unacknowledged.is_empty()
    }
}

/// What we received, modulo 2³².
#[derive(Debug, Default, Clone, Copy)]
pub struct Inbound {
    handled: u32,
}

impl Inbound {
    /// Counts one element of the stream if it is a stanza; nonzas do not count.
    pub fn received(&mut self, element: &Element) {
        if is_stanza(element) {
            self.handled = self.handled.wrapping_add(1);
        }
    }

    /// The count to tell.
    pub fn h(self) -> u32 {
        self.handled
    }
}

/// Whether an element is counted: message, presence or iq.
pub fn is_stanza(element: &Element) -> bool {
    element.ns() == ns::CLIENT && matches!(element.name(), "message" | "presence" | "iq")
}

/// `<enabled>`. `max_s` is how long a lost session is kept, in seconds.
pub fn enabled(id: &str, max_s: u64) -> Element {
    Element::new("enabled", ns::SM).with_attr("id", id).with_attr("resume", "true").with_attr("max", max_s.to_string())
}

/// `<resumed>`.
pub fn resumed(previd: &str, h: u32) -> Element {
    Element::new("resumed", ns::SM).with_attr("h", h.to_string()).with_attr("previd", previd)
}

/// `<failed>`: there is nothing to resume; `h` when the count of the ended session is still known.
pub fn failed(h: Option<u32>, condition: &str) -> Element {
    Element::new("failed", ns::SM)
        .with_attr_opt("h", h.map(|h| h.to_string()))
        .with_child(Element::new(condition, ns::STANZAS))
}

/// `<r/>`.
pub fn request() -> Element {
    Element::new("r", ns::SM)
}

/// `<a/>`.
pub fn answer(h: u32) -> Element {
    Element::new("a", ns::SM).with_attr("h", h.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_stanzas_are_forgotten_and_impossible_counts_refused() {
        let mut out = Outbound::default();
        for n in 0..3 {
            out.sent(n.to_string());
        }
        assert_eq!(out.acknowledge(2), Ok(()));
        assert_eq!(out.unacknowledged().collect::<Vec<_>>(), ["2"]);
        assert_eq!(out.acknowledge(1), Err(ImpossibleAck));
        assert_eq!(out.acknowledge(4), Err(ImpossibleAck));
        assert_eq!(out.acknowledge(3), Ok(()));
        assert!(out.is_empty());
    }

    #[test]
    fn the_count_wraps() {
        let mut out = Outbound { acknowledged: u32::MAX, unacknowledged: VecDeque::new() };
        out.sent("a".into());
        assert_eq!(out.acknowledge(0), Ok(()));
    }
}
