//! ICE for one endpoint: one agent of `is`, or two during a restart, and the rules that `is` leaves to its user.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use is::stun::{StunMessage, StunPacket};
use is::{Candidate, IceAgent, IceAgentEvent, IceCreds, Protocol};
use tertulia_model::IceCredentials;

use super::{Responder, Wire};

/// Addresses one peer may use at once.
pub const ADDRESSES_MAX: usize = 16;
/// Addresses one agent is shown in its life: `is` remembers every one. Whoever travels further restarts ICE.
const ADDRESSES_SHOWN_MAX: usize = 256;
/// Silence after which an address gives way to a new one.
const LEFT: Duration = Duration::from_secs(60);
/// A selected address from which nothing came for so long is dead if another one lives.
const SILENT: Duration = Duration::from_secs(1);
/// Without a word from the peer for so long nothing but checks is sent (RFC 7675 §5.1). Any authentic word counts, not answers alone: who
/// sends us checks or media is there, and asked for ours.
const CONSENT: Duration = Duration::from_secs(30);
/// Most time between our own checks (RFC 7675 §5.1 has 5 s). Chromium checks every 2.5 s and expects answers: while somebody does, ours
/// tell nothing new and are rare: one costs as much as thirty of the peer's. By itself `is` makes no longer interval than 64 s …
const CHECKS: Duration = Duration::from_secs(3);
const CHECKS_HEARD: Duration = Duration::from_secs(300);
/// … until nothing has come for so long, well before anybody is called silent, and for so long after the route changed: the peer learns of
/// that by a check.
pub const QUIET: Duration = Duration::from_secs(4);
/// How a check begins (RFC 8489 §5).
const BINDING_REQUEST: [u8; 2] = [0, 1];
/// How long an unanswered restart is kept.
const RESTART_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the agent before a restart still answers.
const TRANSITION: Duration = Duration::from_secs(3);
/// Most turns of an agent after new credentials: it answers one queued check a turn, of at most 100, then sends one a turn, and asks for no
/// turn sooner than in 50 ms.
const KICK_TURNS: usize = 104;

/// The agents and the route they chose.
pub(super) struct Ice {
    controlling: bool,
    locals: Vec<SocketAddr>,
    pub(super) agent: IceAgent,
    /// The agent of a restart, or the one before it, and when it is dropped.
    pub(super) second: Option<(Box<IceAgent>, Instant)>,
    /// Whether `second` is a restart that has not been nominated yet.
    pub(super) restarting: bool,
    generation: u32,
    route: Option<(SocketAddr, SocketAddr)>,
    routed_at: Instant,
    has_consent: bool,
    /// Whether our own checks are rare.
    is_relaxed: bool,
    /// The first of our checks of the route that have not been answered.
    asked_at: Option<Instant>,
    /// Whether a [`Responder`] is out, whose holder notices silence: the agent has time.
    is_lent: bool,
    /// When the agent last had a turn.
    turned_at: Instant,
    /// When the agent is to have its next turn.
    agent_at: Option<Instant>,
    /// Remote addresses that passed a check, at most [`ADDRESSES_MAX`]. Nearly everybody has one.
    pub(super) addresses: Vec<Known>,
    /// At most [`ADDRESSES_MAX`] of each.
    fresh: Vec<Known>,
    left: Vec<Known>,
    /// Candidates of addresses that were declared gone and may come back, as they were.
    gone: Vec<Candidate>,
    pub(super) shown: usize,
}

/// A remote address that passed a check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) remote: SocketAddr,
    pub(super) protocol: Protocol,
    /// When something authentic last came from it.
    heard: Instant,
}

impl Known {
    fn is(&self, (remote, protocol): (SocketAddr, Protocol)) -> bool {
        (self.remote, self.protocol) == (remote, protocol)
    }
}

/// The local address of all connections that come to an address of ours: no UDP socket has port 0.
pub fn stream_local(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 0)
}

/// Whether a local address is that of connections.
pub fn is_stream(local: SocketAddr) -> bool {
    local.port() == 0
}

fn protocol_of(local: SocketAddr) -> Protocol {
    if is_stream(local) { Protocol::Tcp } else { Protocol::Udp }
}

impl Ice {
    pub(super) fn new(now: Instant, controlling: bool, credentials: IceCredentials, locals: &[SocketAddr]) -> Self {
        let mut agent = agent(now, controlling, credentials, locals);
        Self {
            controlling,
            locals: locals.to_vec(),
            agent_at: agent.poll_timeout(),
            agent,
            second: None,
            restarting: false,
            generation: 0,
            route: None,
            routed_at: now,
            has_consent: true,
            is_relaxed: false,
            asked_at: None,
            is_lent: false,
            turned_at: now,
            addresses: Vec::new(),
            fresh: Vec::new(),
            left: Vec::new(),
            gone: Vec::new(),
            shown: 0,
        }
    }

    /// Makes a client check as often as browsers do that are not sure of a pair.
    #[cfg(test)]
    pub(super) fn check_every(&mut self, interval: Duration) {
        self.agent.set_max_stun_rto(interval);
    }

    /// Local and remote address of the selected pair, while the peer consents to be sent to.
    pub(super) fn route(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.route.filter(|_| self.has_consent)
    }

    /// Remote addresses that became known since the last call.
    pub(super) fn take_addresses(&mut self) -> impl Iterator<Item = Known> {
        self.fresh.drain(..)
    }

    /// Remote addresses that were given up since the last call.
    pub(super) fn take_left(&mut self) -> impl Iterator<Item = Known> {
        self.left.drain(..)
    }

    pub(super) fn set_remote(
        &mut self,
        now: Instant,
        credentials: &IceCredentials,
        generation: Option<u32>,
        wire: &mut impl Wire,
    ) {
        let credentials = IceCreds { ufrag: credentials.ufrag.clone(), pass: credentials.pwd.clone() };
        match (generation, &mut self.second) {
            (None, _) if self.agent.remote_credentials().is_none() => self.agent.set_remote_credentials(credentials),
            (Some(generation), Some((second, _))) if self.restarting && generation == self.generation => {
                second.set_remote_credentials(credentials);
            }
            _ => return, // stale
        }
        for _ in 0..KICK_TURNS {
            if !self.turn(now, wire) {
                break;
            }
        }
    }

    /// By TCP if we have nothing but streams, else by UDP.
    pub(super) fn add_remote_address(&mut self, now: Instant, address: SocketAddr, wire: &mut impl Wire) {
        let by_stream = self.locals.iter().all(|local| is_stream(*local));
        if let Ok(candidate) = Candidate::host(address, if by_stream { Protocol::Tcp } else { Protocol::Udp }) {
            self.agent.add_remote_candidate(candidate);
        }
        self.turn(now, wire);
    }

    pub(super) fn restart(&mut self, now: Instant, credentials: IceCredentials) -> u32 {
        let second = agent(now, self.controlling, credentials, &self.locals);
        self.second = Some((Box::new(second), now + RESTART_TIMEOUT));
        self.restarting = true;
        self.shown = self.addresses.len(); // to the new agent, so far none
        self.generation += 1;
        self.generation
    }

    /// When something authentic last came.
    pub(super) fn last_heard(&self) -> Option<Instant> {
        self.addresses.iter().map(|known| known.heard).max()
    }

    /// Something authentic other than STUN came from an address.
    pub(super) fn heard(&mut self, now: Instant, remote: SocketAddr) {
        // A connection and a UDP socket of one peer hardly ever have the same port; then each vouches for the other.
        for known in self.addresses.iter_mut().filter(|known| known.remote == remote) {
            known.heard = known.heard.max(now);
            self.has_consent = true;
        }
    }

    /// What answers checks of the selected pair while that is all that they ask for: while our own are rare, during no restart, and while no
    /// other address was heard since: then the agent decides between the two, and repeats its checks when they are lost.
    pub(super) fn lend(&mut self) -> Option<Responder> {
        let route = self.route().filter(|_| self.is_relaxed && self.second.is_none())?;
        let selected = (route.1, protocol_of(route.0));
        let heard = self.addresses.iter().find(|known| known.is(selected))?.heard;
        if self.last_heard()? > heard {
            return None;
        }
        let (ours, theirs) = (self.agent.local_credentials(), self.agent.remote_credentials()?);
        let responder = Responder::new(heard, route, ours, theirs)?;
        self.is_lent = true;
        Some(responder)
    }

    /// Learns what a responder heard. It is not used any more.
    pub(super) fn take_back(&mut self, responder: &Responder) {
        self.is_lent = false;
        self.heard(responder.heard(), responder.remote());
    }

    pub(super) fn handle(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
        wire: &mut impl Wire,
    ) {
        let protocol = protocol_of(local);
        let known = self.addresses.iter().any(|known| known.is((remote, protocol)));
        if !known && !self.has_room(now) {
            return; // the 17th address of one peer
        }
        let Ok(message) = StunMessage::parse(bytes) else { return };
        if !self.gone.is_empty() && self.agent.accepts_message(&message) {
            self.welcome_back(remote, protocol);
        }
        let second = self.second.as_mut().map(|(agent, _)| &mut **agent);
        let agents = std::iter::once(&mut self.agent).chain(second);
        for agent in agents {
            if !agent.accepts_message(&message) {
                continue;
            }
            let Ok(message) = StunMessage::parse(bytes) else { return };
            let is_answer = message.is_successful_binding_response();
            let packet = StunPacket { proto: protocol, source: remote, destination: local, message };
            if agent.handle_packet(now, packet) {
                self.asked_at.take_if(|_| is_answer);
                self.heard(now, remote);
                break;
            }
        }
        self.turn(now, wire);
        self.leave_dead_address(now, wire);
    }

    /// `is` ignores checks from an address that was declared gone until it is given its candidate again.
    fn welcome_back(&mut self, remote: SocketAddr, protocol: Protocol) {
        let Some(place) = self.gone.iter().position(|candidate| is_at(candidate, (remote, protocol))) else { return };
        let mut candidate = self.gone.swap_remove(place);
        if let Some(credentials) = self.agent.remote_credentials() {
            candidate.set_ufrag(&credentials.ufrag);
        }
        self.agent.add_remote_candidate(candidate);
    }

    /// Makes room for one more address, at the cost of one that the peer left long ago.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.shown >= ADDRESSES_SHOWN_MAX {
            return false;
        }
        let oldest = self.addresses.iter().enumerate().min_by_key(|(_, known)| known.heard).map(|(place, _)| place);
        if let Some(place) = oldest.filter(|_| self.addresses.len() >= ADDRESSES_MAX)
            && now.saturating_duration_since(self.addresses[place].heard) >= LEFT
            && self.left.len() < ADDRESSES_MAX
        {
            let left = self.addresses.swap_remove(place);
            self.gone.retain(|candidate| !is_at(candidate, (left.remote, left.protocol)));
            self.left.push(left);
        }
        self.addresses.len() < ADDRESSES_MAX
    }

    pub(super) fn on_timeout(&mut self, now: Instant, wire: &mut impl Wire) {
        if self.last_heard().is_some_and(|at| now.saturating_duration_since(at) >= CONSENT) {
            self.has_consent = false;
        }
        if self.second.as_ref().is_some_and(|(_, until)| now >= *until) {
            self.second = None;
            self.restarting = false;
        }
        if self.next_timeout().is_some_and(|at| now >= at) {
            self.turn(now, wire);
        }
        self.leave_dead_address(now, wire);
    }

    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        if self.is_lent {
            return Some(self.turned_at + CHECKS_HEARD);
        }
        let second = self.second.as_mut().and_then(|(agent, until)| Some(agent.poll_timeout()?.min(*until)));
        let patience = if self.is_relaxed { QUIET } else { CONSENT };
        let silence = self.last_heard().map(|at| at + patience).filter(|_| self.has_consent);
        self.agent_at.into_iter().chain(second).chain(silence).min()
    }

    /// Decides how often the selected pair is checked. Only we, who serve a thousand, are careful with that; clients are not.
    fn pace_checks(&mut self, now: Instant) {
        if !self.controlling {
            return;
        }
        let is_over = |at: Instant| now.saturating_duration_since(at) >= QUIET;
        let is_heard = self.last_heard().is_some_and(|at| !is_over(at));
        // Some browsers check us and do not answer. Then `is` keeps the pair only as long as it sees the peer's checks.
        let is_answered = !self.asked_at.is_some_and(is_over);
        let is_settled = self.route.is_some() && is_over(self.routed_at) && self.second.is_none();
        self.is_relaxed = is_settled && is_heard && is_answered;
        self.agent.set_max_stun_rto(if self.is_relaxed { CHECKS_HEARD } else { CHECKS });
    }

    /// One turn of each agent: timers, then events, then what it sends. Whether it sent something.
    fn turn(&mut self, now: Instant, wire: &mut impl Wire) -> bool {
        self.turned_at = now;
        self.pace_checks(now);
        self.agent.handle_timeout(now);
        while let Some(event) = self.agent.poll_event() {
            if let Some(route) = self.note(now, &event) {
                self.go_by(now, route);
            }
        }
        let (mut sent, asked) = send_all(&mut self.agent, self.route, wire);
        if asked {
            self.asked_at.get_or_insert(now);
        }
        self.agent_at = self.agent.poll_timeout();
        let Some((mut second, mut until)) = self.second.take() else { return sent };
        second.handle_timeout(now);
        let mut nominated = None;
        while let Some(event) = second.poll_event() {
            nominated = self.note(now, &event).or(nominated);
        }
        sent |= send_all(&mut second, None, wire).0;
        if let Some(route) = nominated.filter(|_| self.restarting) {
            // The new agent takes over; the old one answers a little longer.
            std::mem::swap(&mut self.agent, &mut *second);
            self.agent_at = self.agent.poll_timeout();
            self.gone.clear(); // those were the other agent's
            self.go_by(now, route);
            self.restarting = false;
            until = now + TRANSITION;
        }
        self.second = Some((second, until));
        sent
    }

    fn go_by(&mut self, now: Instant, route: (SocketAddr, SocketAddr)) {
        if self.route.replace(route) != Some(route) {
            self.routed_at = now;
        }
    }

    /// Remembers addresses; the route of a nomination.
    fn note(&mut self, now: Instant, event: &IceAgentEvent) -> Option<(SocketAddr, SocketAddr)> {
        match event {
            IceAgentEvent::DiscoveredRecv { source, proto } => {
                let known = Known { remote: *source, protocol: *proto, heard: now };
                let is_new = !self.addresses.iter().any(|other| other.is((*source, *proto)));
                if is_new && self.addresses.len() < ADDRESSES_MAX {
                    self.addresses.push(known);
                    self.shown += 1;
                    self.fresh.push(known);
                }
                None
            }
            IceAgentEvent::NominatedSend { source, destination, .. } => Some((*source, *destination)),
            _ => None,
        }
    }

    /// A connection of the peer is over: whatever else it has is used.
    pub(super) fn forget_stream(&mut self, now: Instant, remote: SocketAddr, wire: &mut impl Wire) {
        self.addresses.retain(|known| !known.is((remote, Protocol::Tcp)));
        let second = self.second.as_mut().map(|(agent, _)| &mut **agent);
        for agent in std::iter::once(&mut self.agent).chain(second) {
            let gone = agent.remote_candidates().find(|candidate| is_at(candidate, (remote, Protocol::Tcp)));
            if let Some(gone) = gone {
                agent.invalidate_candidate(&gone);
            }
        }
        self.turn(now, wire);
    }

    /// A browser whose address changed checks from the new one at once, but `is` keeps to the old pair for 24 s or more. When the selected address
    /// is silent and another one lives, the old one is declared gone. A false alarm is harmless: the next check decides again.
    fn leave_dead_address(&mut self, now: Instant, wire: &mut impl Wire) {
        let Some((local, remote)) = self.route else { return };
        let selected = (remote, protocol_of(local));
        let silent = |since: Instant| now.saturating_duration_since(since);
        let is_dead = self.addresses.iter().any(|known| known.is(selected) && silent(known.heard) > SILENT);
        let lives = |known: &Known| {
            !known.is(selected)
                && silent(known.heard) < SILENT / 2
                && self.agent.has_viable_remote_candidate(known.remote)
        };
        if !is_dead || !self.addresses.iter().any(lives) {
            return;
        }
        let gone = self.agent.remote_candidates().find(|candidate| is_at(candidate, selected));
        if let Some(gone) = gone {
            self.agent.invalidate_candidate(&gone);
            self.gone.push(gone);
            self.turn(now, wire);
            // The other pair is nominated now, and the pace of checks is that of a new route: the one that tells the peer leaves at once.
            self.turn(now, wire);
        }
    }
}

/// Whether a candidate is this address.
fn is_at(candidate: &Candidate, address: (SocketAddr, Protocol)) -> bool {
    (candidate.addr(), candidate.proto()) == address
}

fn agent(now: Instant, controlling: bool, credentials: IceCredentials, locals: &[SocketAddr]) -> IceAgent {
    let mut agent = IceAgent::new(IceCreds { ufrag: credentials.ufrag, pass: credentials.pwd });
    agent.set_controlling(controlling);
    // The highest tie-breaker keeps the role: the loser of a conflict would switch silently.
    agent.set_control_tie_breaker(if controlling { u64::MAX } else { 0 });
    agent.set_max_candidate_pairs(ADDRESSES_MAX);
    for candidate in locals.iter().filter_map(|address| Candidate::host(*address, protocol_of(*address)).ok()) {
        agent.add_local_candidate(candidate);
    }
    agent.handle_timeout(now);
    agent
}

/// Sends what an agent has to send. Whether there was anything, and whether a check of this route was among it.
fn send_all(agent: &mut IceAgent, route: Option<(SocketAddr, SocketAddr)>, wire: &mut impl Wire) -> (bool, bool) {
    let (mut sent, mut asked) = (false, false);
    while let Some(transmit) = agent.poll_transmit() {
        wire.datagram(transmit.source, transmit.destination, &transmit.contents);
        sent = true;
        asked |=
            route == Some((transmit.source, transmit.destination)) && transmit.contents.starts_with(&BINDING_REQUEST);
    }
    (sent, asked)
}

/// The local user fragment that a binding request is meant for: the USERNAME up to the colon (RFC 8445 §7.2.2).
///
/// A walk over attributes, not a parse: this is all that a stranger's datagram gets before its integrity is checked.
pub fn username_of(datagram: &[u8]) -> Option<&str> {
    const BINDING_REQUEST: [u8; 2] = [0, 1];
    const USERNAME: [u8; 2] = [0, 6];
    if datagram.get(..2)? != BINDING_REQUEST || datagram.len() > 1500 {
        return None;
    }
    let mut rest = datagram.get(20..)?;
    while let Some((head, after)) = rest.split_at_checked(4) {
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = after.get(..len)?;
        if head[..2] == USERNAME {
            let text = std::str::from_utf8(value).ok()?;
            return text.split_once(':').map(|(local, _)| local);
        }
        rest = after.get(len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_username_is_found_behind_other_attributes_and_lies_are_harmless() {
        let mut datagram = vec![0, 1, 0, 0];
        datagram.extend([0; 16]);
        datagram.extend([0x80, 0x22, 0, 3, b'x', b'y', b'z', 0]);
        datagram.extend([0, 6, 0, 9]);
        datagram.extend(*b"abcd:efgh\0\0\0");
        assert_eq!(username_of(&datagram), Some("abcd"));
        for len in 0..datagram.len() - 3 {
            let _ = username_of(&datagram[..len]);
        }
        datagram[22] = 0xff;
        assert_eq!(username_of(&datagram), None);
        datagram[1] = 0x11;
        assert_eq!(username_of(&datagram), None);
    }
}
