//! Where a client's stanza goes.

use tertulia_xmpp::{BareJid, Element, Jid};

use crate::settings::{Domains, RoomsOf};

/// A part of the domain that serves the sender's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Room metadata.
    Metadata,
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The server itself, or no address at all: the sender's account.
    Domain,
    /// The focus as a component: conference requests.
    Focus,
    /// A room or an occupant of it, under its canonical address.
    Room(BareJid),
    /// A component; served by the room that the sender is in.
    Component(Component),
    /// Nobody here has that address.
    Nowhere,
}

/// Finds the destination of a stanza by its `to`.
pub fn route(domains: &Domains, stanza: &Element) -> Route {
    let Some(to) = stanza.attr("to").filter(|to| !to.is_empty()) else { return Route::Domain };
    let Ok(to) = Jid::new(to) else { return Route::Nowhere };
    let domain = to.domain().as_str();
    if to.node().is_none() {
        return match domain {
            _ if domain == domains.main => Route::Domain,
            _ if domain == domains.focus => Route::Focus,
            _ if domain == domains.metadata => Route::Component(Component::Metadata),
            _ => Route::Nowhere,
        };
    }
    if to.to_bare().to_string() == domains.focus_user() {
        return Route::Focus;
    }
    canonical_room(domains, &to).map_or(Route::Nowhere, Route::Room)
}

/// The canonical address of a room: aliases of the room domain become the one name, and a tenant's room `x@muc.<tenant>.…` becomes
/// `[tenant]x@muc.…`, as Jitsi's servers call it.
pub(crate) fn canonical_room(domains: &Domains, address: &Jid) -> Option<BareJid> {
    let node = address.node()?;
    let canonical = match domains.rooms_at(address.domain().as_str())? {
        RoomsOf::Everybody => format!("{node}@{}", domains.muc),
        RoomsOf::Tenant(_) if node.starts_with('[') => return None,
        RoomsOf::Tenant(tenant) => format!("[{tenant}]{node}@{}", domains.muc),
    };
    BareJid::new(&canonical).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_where_they_should() {
        let domains = Domains::of("meet.example");
        let room = Route::Room(BareJid::new("standup@muc.meet.example").unwrap());
        let tenants = Route::Room(BareJid::new("[blue]standup@muc.meet.example").unwrap());
        let team = Route::Room(BareJid::new("[blue_team]standup@muc.meet.example").unwrap());
        let table = [
            ("", Route::Domain),
            ("meet.example", Route::Domain),
            ("focus.meet.example", Route::Focus),
            ("focus@auth.meet.example/focus", Route::Focus),
            ("Standup@muc.meet.example", room.clone()),
            ("standup@conference.meet.example/a1", room),
            ("Standup@muc.Blue.meet.example/a1", tenants.clone()),
            ("standup@conference.blue.meet.example", tenants.clone()),
            ("[blue]standup@muc.meet.example", tenants),
            ("standup@muc.blue_team.meet.example", team),
            ("[red]standup@muc.blue.meet.example", Route::Nowhere),
            ("standup@muc.a.b.meet.example", Route::Nowhere),
            ("standup@muc..meet.example", Route::Nowhere),
            ("standup@blue.meet.example", Route::Nowhere),
            ("metadata.meet.example", Route::Component(Component::Metadata)),
            ("polls.meet.example", Route::Nowhere),
            ("muc.meet.example", Route::Nowhere),
            ("a@b@c", Route::Nowhere),
        ];
        for (to, expected) in table {
            let stanza = Element::new("iq", tertulia_xmpp::ns::CLIENT).with_attr("to", to);
            assert_eq!(route(&domains, &stanza), expected, "{to}");
        }
    }
}
