//! From an open socket to a bound session (RFC 6120 §6, §7 in the framing of RFC 7395), as Jitsi's clients do it.

use std::fmt;

use tertulia_xmpp::{Element, FullJid, ns};

/// Where the login stands.
#[derive(Debug)]
pub struct Login {
    domain: String,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Opening,
    Offered,
    Authenticating,
    Reopening,
    Ready,
    Binding,
    Done,
}

/// What has to happen after an element came.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for more.
    Wait,
    /// Send this.
    Send(Element),
    /// Logged in under this address.
    Bound(FullJid),
}

/// The server does not let us in.
#[derive(Debug, PartialEq, Eq)]
pub struct LoginError(String);

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server does not let us in: {}", self.0)
    }
}

impl std::error::Error for LoginError {}

impl Login {
    /// A login as nobody in particular (SASL ANONYMOUS), and the first element to send.
    pub fn anonymous(domain: &str) -> (Self, Element) {
        let login = Self { domain: domain.to_owned(), state: State::Opening };
        let open = login.open();
        (login, open)
    }

    /// Takes what the server says.
    ///
    /// # Errors
    /// When it refuses.
    pub fn handle(&mut self, element: &Element) -> Result<Step, LoginError> {
        let refused = ["failure", "close", "error"].contains(&element.name()) || element.attr("type") == Some("error");
        if refused {
            return Err(LoginError(element.to_string()));
        }
        let (state, step) = match (&self.state, element.name()) {
            (State::Opening, "open") => (State::Offered, Step::Wait),
            (State::Offered, "features") => {
                let auth = Element::new("auth", ns::SASL).with_attr("mechanism", "ANONYMOUS");
                (State::Authenticating, Step::Send(auth))
            }
            (State::Authenticating, "success") => (State::Reopening, Step::Send(self.open())),
            (State::Reopening, "open") => (State::Ready, Step::Wait),
            (State::Ready, "features") => {
                let bind = Element::new("iq", ns::CLIENT)
                    .with_attr("type", "set")
                    .with_attr("id", BIND_ID)
                    .with_child(Element::new("bind", ns::BIND));
                (State::Binding, Step::Send(bind))
            }
            (State::Binding, "iq") if element.attr("id") == Some(BIND_ID) => {
                let jid = element.child("bind", ns::BIND).and_then(|bind| bind.child("jid", ns::BIND));
                let jid = jid.and_then(|jid| FullJid::new(&jid.text()).ok());
                (State::Done, Step::Bound(jid.ok_or_else(|| LoginError("no address was bound".into()))?))
            }
            // Servers push messages before the answer to a bind.
            _ => return Ok(Step::Wait),
        };
        self.state = state;
        Ok(step)
    }

    fn open(&self) -> Element {
        Element::new("open", ns::FRAMING).with_attr("to", &self.domain).with_attr("version", "1.0")
    }
}

const BIND_ID: &str = "_bind_auth_2";
