//! A virtual network with scripted clients: whole meetings in virtual time.
