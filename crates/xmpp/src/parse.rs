//! From bytes to a tree, with limits that hold while the tree grows.

use std::fmt;

use rxml::{Event, Parse, Parser};

use crate::element::Element;
use crate::ns;

/// Largest stanza in bytes; what Prosody allows its clients.
pub const MAX_STANZA_LEN: usize = 256 * 1024;
/// Deepest nesting. Real traffic reaches 6; the writer and the drop of a tree recurse.
const MAX_DEPTH: usize = 32;
/// Most elements of one stanza. Real traffic reaches a few hundred.
const MAX_ELEMENTS: usize = 5_000;
/// Most attributes of one element. Real traffic reaches 11.
const MAX_ATTRIBUTES: usize = 64;

/// Why a text is not a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Larger, deeper or wider than allowed.
    TooLarge,
    /// Not well-formed, or more than one element.
    NotWellFormed,
    /// A document type, comment, processing instruction or declaration: restricted by RFC 6120 §11.1.
    Restricted,
}

impl ParseError {
    /// The stream error to end the connection with (RFC 6120 §4.9.3).
    pub fn stream_condition(self) -> &'static str {
        match self {
            Self::TooLarge => "policy-violation",
            Self::NotWellFormed => "not-well-formed",
            Self::Restricted => "restricted-xml",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "stanza too large",
            Self::NotWellFormed => "not well-formed",
            Self::Restricted => "restricted XML",
        })
    }
}

impl std::error::Error for ParseError {}

/// Parses one element and nothing after it but white space.
///
/// A root without a namespace counts as `jabber:client`: in RFC 7395 each message carries its own `xmlns`, but not every client does.
///
/// # Errors
/// [`ParseError`], after reading no more than it takes to know.
pub fn parse(text: &str) -> Result<Element, ParseError> {
    if text.len() > MAX_STANZA_LEN {
        return Err(ParseError::TooLarge);
    }
    let trimmed = text.trim_start_matches([' ', '\t', '\r', '\n']);
    if trimmed.starts_with("<?") || trimmed.starts_with("<!") {
        return Err(ParseError::Restricted);
    }
    if !trimmed.starts_with('<') {
        return Err(ParseError::NotWellFormed);
    }
    let mut parser = Parser::new();
    let mut builder = Builder::default();
    let mut rest = trimmed.as_bytes();
    loop {
        match parser.parse(&mut rest, true) {
            Ok(Some(event)) => builder.take(event)?,
            Ok(None) => break,
            Err(_) => return Err(what_was_wrong(trimmed)),
        }
    }
    builder.done.ok_or(ParseError::NotWellFormed)
}

/// The parser refuses both with one kind of error; the name matters to whoever reads the log of a client.
fn what_was_wrong(text: &str) -> ParseError {
    if text.contains("<!") || text.contains("<?") { ParseError::Restricted } else { ParseError::NotWellFormed }
}

/// Grows the tree event by event.
#[derive(Default)]
struct Builder {
    open: Vec<Element>,
    done: Option<Element>,
    elements: usize,
}

impl Builder {
    fn take(&mut self, event: Event) -> Result<(), ParseError> {
        match event {
            Event::XmlDeclaration(..) => Err(ParseError::Restricted),
            Event::StartElement(_, (namespace, name), attributes) => {
                self.elements += 1;
                if self.done.is_some() {
                    return Err(ParseError::NotWellFormed);
                }
                if self.elements > MAX_ELEMENTS || self.open.len() >= MAX_DEPTH || attributes.len() > MAX_ATTRIBUTES {
                    return Err(ParseError::TooLarge);
                }
                let namespace = if namespace.is_empty() { self.inherited() } else { namespace.to_string() };
                let own = attributes.iter().filter_map(|((attr_ns, attr), value)| {
                    let name = if attr_ns.is_empty() {
                        attr.to_string()
                    } else if attr_ns.as_str() == rxml::XMLNS_XML {
                        format!("xml:{attr}")
                    } else {
                        return None;
                    };
                    Some((name, value.to_string()))
                });
                self.open.push(Element::from_parts(name.to_string(), namespace, own.collect()));
                Ok(())
            }
            Event::EndElement(_) => {
                let closed = self.open.pop().ok_or(ParseError::NotWellFormed)?;
                match self.open.last_mut() {
                    Some(parent) => parent.push(closed),
                    None => self.done = Some(closed),
                }
                Ok(())
            }
            Event::Text(_, text) => {
                match self.open.last_mut() {
                    Some(parent) => parent.push_text(&text),
                    None if text.trim().is_empty() => {}
                    None => return Err(ParseError::NotWellFormed),
                }
                Ok(())
            }
        }
    }

    /// The namespace of an element that declares none: its parent's, or the stream's default at the root. An explicit `xmlns=''`
    /// cannot be told apart and means the same to every Jitsi client.
    fn inherited(&self) -> String {
        self.open.last().map_or(ns::CLIENT, Element::ns).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> ParseError {
        parse(text).expect_err(&text[..text.len().min(60)])
    }

    #[test]
    fn prefixes_do_not_survive() {
        let text = "<presence><m:x xmlns:m='http://jabber.org/protocol/muc' q:a='1' b='2' xmlns:q='urn:q' xml:lang='es'/></presence>";
        let written = parse(text).unwrap().to_string();
        assert_eq!(
            written,
            "<presence xmlns='jabber:client'><x xmlns='http://jabber.org/protocol/muc' b='2' xml:lang='es'/></presence>"
        );
    }

    #[test]
    fn limits_hold_while_the_tree_grows() {
        let deep = format!("{}{}", "<a>".repeat(10_000), "</a>".repeat(10_000));
        assert_eq!(refused(&deep), ParseError::TooLarge);
        let many: String = (0..100).map(|n| format!(" a{n}='1'")).collect();
        assert_eq!(refused(&format!("<a{many}/>")), ParseError::TooLarge);
        assert_eq!(refused(&format!("<a>{}</a>", "<b/>".repeat(6_000))), ParseError::TooLarge);
        assert_eq!(refused(&format!("<a>{}</a>", "x".repeat(MAX_STANZA_LEN))), ParseError::TooLarge);
    }

    #[test]
    fn only_one_well_formed_element_passes() {
        for text in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>junk",
            "<a b='1' b='2'/>",
            "<a b='<'/>",
            "<x:a/>",
            "<a>\u{1}</a>",
            "<a>&foo;</a>",
        ] {
            assert_eq!(refused(text), ParseError::NotWellFormed, "{text}");
        }
        for text in ["<?xml version='1.0'?><a/>", "<!DOCTYPE a><a/>", "<a><!-- x --></a>", "<a><?pi x?></a>"] {
            assert_eq!(refused(text), ParseError::Restricted, "{text}");
        }
        assert!(parse("<a/> \n").is_ok());
    }
}
