//! The messages that open a data channel (DCEP, RFC 8832 §5): the two that exist, parsed and written.

/// One message on a stream whose payload protocol is DCEP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dcep {
    /// The peer opens a channel on this stream.
    Open {
        /// A name for people.
        label: String,
        /// What is spoken on it.
        protocol: String,
    },
    /// The peer took our `Open`.
    Ack,
}

const ACK: u8 = 2;
const OPEN: u8 = 3;
/// Type, channel type, priority, reliability parameter, two lengths.
const OPEN_HEADER_LEN: usize = 12;

impl Dcep {
    /// Parses a whole message; `None` when it is cut, unknown, or its texts are no UTF-8. Bytes behind the texts are let pass.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match *bytes.first()? {
            ACK => Some(Self::Ack),
            OPEN => {
                let (header, rest) = bytes.split_at_checked(OPEN_HEADER_LEN)?;
                let len = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
                let (label, rest) = rest.split_at_checked(len(8))?;
                let protocol = rest.get(..len(10))?;
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
                Some(Self::Open { label: text(label)?, protocol: text(protocol)? })
            }
            _ => None,
        }
    }

    /// Writes it. An `Open` is of an ordered and reliable channel of normal priority; texts over 65 535 bytes are cut.
    pub fn write(&self) -> Vec<u8> {
        const NORMAL_PRIORITY: u16 = 256;
        match self {
            Self::Ack => vec![ACK],
            Self::Open { label, protocol } => {
                let texts = [label, protocol].map(|text| &text.as_bytes()[..text.len().min(usize::from(u16::MAX))]);
                let mut out = vec![OPEN, 0];
                out.extend(NORMAL_PRIORITY.to_be_bytes());
                out.extend([0; 4]);
                for text in texts {
                    out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
                }
                texts.iter().for_each(|text| out.extend(*text));
                out
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_a_cut_message_is_none() {
        let open =
            Dcep::Open { label: "JVB data channel".into(), protocol: "http://jitsi.org/protocols/colibri".into() };
        let bytes = open.write();
        assert_eq!(Dcep::parse(&bytes), Some(open));
        assert_eq!(Dcep::parse(&Dcep::Ack.write()), Some(Dcep::Ack));
        assert!((0..bytes.len()).all(|len| Dcep::parse(&bytes[..len]).is_none()));
        assert_eq!(Dcep::parse(&[9, 0, 0]), None);
    }
}
