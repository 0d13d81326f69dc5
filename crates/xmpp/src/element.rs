//! The element tree: names, namespaces, attributes, children. Prefixes do not exist here.

use std::fmt;

/// A child of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Element),
    /// Text, unescaped.
    Text(String),
}

/// One XML element. Equality is exact: order of attributes and children counts.
///
/// A tree holds only what XML can say: text with characters that XML forbids loses them when it is put in, so writing cannot fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    name: String,
    ns: String,
    attrs: Vec<(String, String)>,
    nodes: Vec<Node>,
}

impl Element {
    /// An empty element. `name` and `ns` come from code, not from a peer: `name` must be an XML name without a colon.
    pub fn new(name: &str, ns: &str) -> Self {
        debug_assert!(is_name(name), "{name}");
        Self { name: name.to_owned(), ns: clean(ns), attrs: Vec::new(), nodes: Vec::new() }
    }

    /// Local name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Namespace name.
    pub fn ns(&self) -> &str {
        &self.ns
    }

    /// Whether it has this name and namespace.
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && self.ns == ns
    }

    /// An attribute's value.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// All attributes, in order. The only prefixed one that occurs is `xml:lang`.
    pub fn attrs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attrs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets or replaces an attribute.
    pub fn set_attr(&mut self, name: &str, value: impl Into<String>) {
        debug_assert!(name == "xml:lang" || is_name(name), "{name}");
        let value = clean(&value.into());
        match self.attrs.iter_mut().find(|(own, _)| own == name) {
            Some((_, old)) => *old = value,
            None => self.attrs.push((name.to_owned(), value)),
        }
    }

    /// Removes an attribute.
    pub fn remove_attr(&mut self, name: &str) {
        self.attrs.retain(|(own, _)| own != name);
    }

    /// The element with an attribute more.
    #[must_use]
    pub fn with_attr(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set_attr(name, value);
        self
    }

    /// The element with an attribute more, if there is a value.
    #[must_use]
    pub fn with_attr_opt(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with_attr(name, value),
            None => self,
        }
    }

    /// The element with a child more.
    #[must_use]
    pub fn with_child(mut self, child: Element) -> Self {
        self.push(child);
        self
    }

    /// The element with children more.
    #[must_use]
    pub fn with_children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.nodes.extend(children.into_iter().map(Node::Element));
        self
    }

    /// The element with text more.
    #[must_use]
    pub fn with_text(mut self, text: &str) -> Self {
        self.push_text(text);
        self
    }

    /// Child elements, in order.
    pub fn children(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(child) => Some(child),
            Node::Text(_) => None,
        })
    }

    /// Child elements, to be changed in place.
    pub fn children_mut(&mut self) -> impl Iterator<Item = &mut Element> {
        self.nodes.iter_mut().filter_map(|node| match node {
            Node::Element(child) => Some(child),
            Node::Text(_) => None,
        })
    }

    /// Children of both kinds, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The first child of this name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Element> {
        self.children().find(|child| child.is(name, ns))
    }

    /// Whether there is such a child.
    pub fn has_child(&self, name: &str, ns: &str) -> bool {
        self.child(name, ns).is_some()
    }

    /// Appends a child.
    pub fn push(&mut self, child: Element) {
        self.nodes.push(Node::Element(child));
    }

    /// Appends text.
    pub fn push_text(&mut self, text: &str) {
        let text = clean(text);
        match self.nodes.last_mut() {
            Some(Node::Text(last)) => last.push_str(&text),
            _ if text.is_empty() => {}
            _ => self.nodes.push(Node::Text(text)),
        }
    }

    /// Puts a child before all others.
    pub fn insert_first(&mut self, child: Element) {
        self.nodes.insert(0, Node::Element(child));
    }

    /// Removes child elements; text stays.
    pub fn retain_children(&mut self, mut keep: impl FnMut(&Element) -> bool) {
        self.nodes.retain(|node| match node {
            Node::Element(child) => keep(child),
            Node::Text(_) => true,
        });
    }

    /// Its own text, children's left out.
    pub fn text(&self) -> String {
        let own = self.nodes.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        own.collect()
    }

    /// Appends the element as a stanza of its own: `xmlns` is always written on the root.
    pub fn write(&self, out: &mut String) {
        self.write_below(out, "");
    }

    /// Serialises everything but `to` once, for many recipients.
    pub fn write_broadcast(&self) -> Broadcast {
        let mut head = String::with_capacity(64);
        head.push('<');
        head.push_str(&self.name);
        push_attr(&mut head, "xmlns", &self.ns);
        let mut tail = String::with_capacity(1024);
        for (name, value) in self.attrs.iter().filter(|(name, _)| name != "to") {
            push_attr(&mut tail, name, value);
        }
        self.write_content(&mut tail);
        Broadcast { head, tail }
    }

    pub(crate) fn from_parts(name: String, ns: String, attrs: Vec<(String, String)>) -> Self {
        Self { name, ns, attrs, nodes: Vec::new() }
    }

    /// Recursion is bounded: the parser refuses deep trees and code builds none.
    fn write_below(&self, out: &mut String, parent_ns: &str) {
        out.push('<');
        // The one prefix that clients accept, and need, is that of the stream (RFC 7395 §3.3.2).
        let stream = self.ns == crate::ns::STREAM;
        if stream {
            out.push_str("stream:");
        }
        out.push_str(&self.name);
        if stream {
            push_attr(out, "xmlns", crate::ns::CLIENT);
            push_attr(out, "xmlns:stream", &self.ns);
        } else if self.ns != parent_ns {
            push_attr(out, "xmlns", &self.ns);
        }
        for (name, value) in &self.attrs {
            push_attr(out, name, value);
        }
        self.write_content(out);
    }

    fn write_content(&self, out: &mut String) {
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        let inherited = if self.ns == crate::ns::STREAM { crate::ns::CLIENT } else { self.ns.as_str() };
        for node in &self.nodes {
            match node {
                Node::Element(child) => child.write_below(out, inherited),
                Node::Text(text) => push_escaped(out, text, false),
            }
        }
        out.push_str(if self.ns == crate::ns::STREAM { "</stream:" } else { "</" });
        out.push_str(&self.name);
        out.push('>');
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

/// A stanza serialised once; only `to` differs from recipient to recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    head: String,
    tail: String,
}

impl Broadcast {
    /// Appends the stanza with this `to`.
    pub fn for_recipient(&self, to: &str, out: &mut String) {
        out.reserve(self.head.len() + self.tail.len() + to.len() + 8);
        out.push_str(&self.head);
        push_attr(out, "to", to);
        out.push_str(&self.tail);
    }
}

impl fmt::Display for Broadcast {
    /// Without `to`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head)?;
        f.write_str(&self.tail)
    }
}

fn push_attr(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("='");
    push_escaped(out, value, true);
    out.push('\'');
}

/// In text only `&`, `<` and `>` need it; in attributes also `'`, and white space that a parser would turn into blanks.
fn push_escaped(out: &mut String, text: &str, attribute: bool) {
    let mut rest = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'\r' => "&#xd;",
            b'\'' if attribute => "&apos;",
            b'\n' if attribute => "&#xa;",
            b'\t' if attribute => "&#x9;",
            _ => continue,
        };
        out.push_str(&text[rest..at]);
        out.push_str(escape);
        rest = at + 1;
    }
    out.push_str(&text[rest..]);
}

/// Drops what XML 1.0 §2.2 forbids.
fn clean(text: &str) -> String {
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if text.chars().all(allowed) { text.to_owned() } else { text.chars().filter(|c| allowed(*c)).collect() }
}

/// A name without a colon, in the part of Unicode that code uses.
fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_written_where_it_starts() {
        let x =
            Element::new("x", "urn:a").with_child(Element::new("y", "urn:a")).with_child(Element::new("z", "urn:b"));
        assert_eq!(x.to_string(), "<x xmlns='urn:a'><y/><z xmlns='urn:b'/></x>");
    }

    #[test]
    fn what_xml_forbids_never_gets_in() {
        let x = Element::new("x", "urn:a").with_attr("a", "1\u{0}\u{b}2").with_text("\u{1}ok\u{fffe}");
        assert_eq!(x.to_string(), "<x xmlns='urn:a' a='12'>ok</x>");
    }

    #[test]
    fn a_broadcast_differs_in_to_alone() {
        let presence = Element::new("presence", "jabber:client").with_attr("from", "r@m/a").with_attr("to", "old");
        let mut out = String::new();
        presence.write_broadcast().for_recipient("u'@d/r", &mut out);
        assert_eq!(out, "<presence xmlns='jabber:client' to='u&apos;@d/r' from='r@m/a'/>");
    }
}
