//! Opening a stream (RFC 6120, RFC 7395): features, anonymous login, binding or resuming. A pure state machine.

use tertulia_xmpp::stanza::{Condition, error_for};
use tertulia_xmpp::{Element, ns};

/// How elements travel: BOSH has no framing elements of its own, and no resumption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    WebSocket,
    Bosh,
}

/// What an opening stream awaits.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Open,
    Auth,
    Reopen { user: String },
    Bind { user: String },
}

/// A stream that is not bound yet.
#[derive(Debug)]
pub(crate) struct Opening {
    framing: Framing,
    domain: String,
    stage: Stage,
}

/// What one element leads to.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Send these.
    Reply(Vec<Element>),
    /// Log somebody in: [`Opening::logged_in`] goes on with the name.
    Login,
    /// Bind this user; the answer to the IQ is the caller's.
    Bind { user: String, iq: Element },
    /// Resume this session as this user.
    Resume { user: String, previd: String, h: u32 },
    /// Say this, then end.
    End(Vec<Element>),
}

impl Opening {
    pub(crate) fn new(framing: Framing, domain: &str) -> Self {
        let stage = if framing == Framing::Bosh { Stage::Auth } else { Stage::Open };
        Self { framing, domain: domain.to_owned(), stage }
    }

    /// Takes one element.
    pub(crate) fn handle(&mut self, element: &Element) -> Step {
        if element.is("close", ns::FRAMING) {
            return Step::End(vec![close()]);
        }
        let opens = element.is("open", ns::FRAMING);
        match std::mem::replace(&mut self.stage, Stage::Open) {
            Stage::Open if opens => {
                self.stage = Stage::Auth;
                self.greet(login_features())
            }
            Stage::Auth if element.is("auth", ns::SASL) => {
                self.stage = Stage::Auth;
                if element.attr("mechanism") == Some("ANONYMOUS") {
                    Step::Login
                } else {
                    let failure =
                        Element::new("failure", ns::SASL).with_child(Element::new("invalid-mechanism", ns::SASL));
                    Step::Reply(vec![failure])
                }
            }
            Stage::Reopen { user } if opens => {
                self.stage = Stage::Bind { user };
                self.greet(self.session_features())
            }
            Stage::Bind { user } => self.handle_bind(user, element),
            _ => self.end("not-authorized", "the stream has not been opened in the usual order"),
        }
    }

    /// The login succeeded under this name.
    pub(crate) fn logged_in(&mut self, user: String) -> Element {
        self.stage = match self.framing {
            Framing::WebSocket => Stage::Reopen { user },
            Framing::Bosh => Stage::Bind { user },
        };
        Element::new("success", ns::SASL)
    }

    /// Features after login: what a BOSH restart asks for.
    pub(crate) fn session_features(&self) -> Element {
        let bind = Element::new("bind", ns::BIND).with_child(Element::new("required", ns::BIND));
        let features = Element::new("features", ns::STREAM).with_child(bind);
        match self.framing {
            Framing::WebSocket => features.with_child(Element::new("sm", ns::SM)),
            Framing::Bosh => features,
        }
    }

    fn handle_bind(&mut self, user: String, element: &Element) -> Step {
        self.stage = Stage::Bind { user: user.clone() };
        if element.is("iq", ns::CLIENT) && element.attr("type") == Some("set") && element.has_child("bind", ns::BIND) {
            return Step::Bind { user, iq: element.clone() };
        }
        if element.is("resume", ns::SM) {
            let h = element.attr("h").and_then(|h| h.parse().ok());
            return match element.attr("previd").zip(h) {
                Some((previd, h)) => Step::Resume { user, previd: previd.to_owned(), h },
                None => Step::Reply(vec![tertulia_xmpp::sm::failed(None, "bad-request")]),
            };
        }
        if tertulia_xmpp::stanza::wants_answer(element) {
            return Step::Reply(vec![error_for(element, &Condition::NotAllowed.into())]);
        }
        self.end("not-authorized", "bind a resource first")
    }

    fn greet(&self, features: Element) -> Step {
        let open = Element::new("open", ns::FRAMING)
            .with_attr("from", &self.domain)
            .with_attr("id", crate::chance::token(16))
            .with_attr("version", "1.0")
            .with_attr("xml:lang", "en");
        Step::Reply(vec![open, features])
    }

    fn end(&self, condition: &str, text: &str) -> Step {
        Step::End(stream_end(self.framing, condition, text))
    }
}

/// Features before login.
pub(crate) fn login_features() -> Element {
    let mechanism = Element::new("mechanism", ns::SASL).with_text("ANONYMOUS");
    Element::new("features", ns::STREAM).with_child(Element::new("mechanisms", ns::SASL).with_child(mechanism))
}

/// A stream error and the end of the stream. Clients reload their page on one, so it is only for what can never succeed.
pub(crate) fn stream_end(framing: Framing, condition: &str, text: &str) -> Vec<Element> {
    let error = Element::new("error", ns::STREAM)
        .with_child(Element::new(condition, ns::STREAMS))
        .with_child(Element::new("text", ns::STREAMS).with_text(text));
    match framing {
        Framing::WebSocket => vec![error, close()],
        Framing::Bosh => vec![error],
    }
}

/// `<close/>`.
pub(crate) fn close() -> Element {
    Element::new("close", ns::FRAMING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(opening: &mut Opening, text: &str) -> Step {
        opening.handle(&tertulia_xmpp::parse(text).unwrap())
    }

    const OPEN: &str = "<open to='meet.example' version='1.0' xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>";

    #[test]
    fn the_usual_order_leads_to_bind_or_resume() {
        let mut opening = Opening::new(Framing::WebSocket, "meet.example");
        let Step::Reply(greeting) = handle(&mut opening, OPEN) else { panic!() };
        assert!(greeting[0].to_string().starts_with("<open "));
        assert!(
            greeting[1]
                .to_string()
                .starts_with("<stream:features xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>")
        );
        assert_eq!(
            handle(&mut opening, "<auth mechanism='ANONYMOUS' xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"),
            Step::Login
        );
        opening.logged_in("u".into());
        let Step::Reply(greeting) = handle(&mut opening, OPEN) else { panic!() };
        assert!(greeting[1].has_child("sm", ns::SM) && greeting[1].has_child("bind", ns::BIND));
        let resume = handle(&mut opening, "<resume h='7' previd='x' xmlns='urn:xmpp:sm:3'/>");
        assert_eq!(resume, Step::Resume { user: "u".into(), previd: "x".into(), h: 7 });
        let bind = "<iq id='b' type='set' xmlns='jabber:client'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
        assert!(matches!(handle(&mut opening, bind), Step::Bind { .. }));
    }

    #[test]
    fn anything_else_ends_the_stream_with_a_reason() {
        for text in ["<presence/>", "<auth mechanism='ANONYMOUS' xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"] {
            let Step::End(said) = handle(&mut Opening::new(Framing::WebSocket, "d"), text) else { panic!("{text}") };
            assert!(said[0].to_string().starts_with("<stream:error "), "{}", said[0]);
        }
        let mut opening = Opening::new(Framing::WebSocket, "d");
        handle(&mut opening, OPEN);
        let refused =
            handle(&mut opening, "<auth mechanism='PLAIN' xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>AA==</auth>");
        assert!(matches!(refused, Step::Reply(said) if said[0].is("failure", ns::SASL)));
    }
}
