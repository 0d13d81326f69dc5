//! Which bridge channels may be opened: the one piece of state that workers share with the web side.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tertulia_model::{ConferenceId, EndpointId};

/// Passwords of live endpoints. Held for the length of a map operation.
#[derive(Default)]
pub struct Registry {
    passwords: Mutex<HashMap<(ConferenceId, EndpointId), String>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    pub(crate) fn insert(&self, conference: ConferenceId, endpoint: EndpointId, password: String) {
        self.lock().insert((conference, endpoint), password);
    }

    pub(crate) fn remove(&self, conference: ConferenceId, endpoint: &EndpointId) {
        self.lock().remove(&(conference, endpoint.clone()));
    }

    /// Whether the password is the endpoint's; constant time in the password.
    pub fn allows(&self, conference: ConferenceId, endpoint: &EndpointId, password: &str) -> bool {
        let passwords = self.lock();
        let expected = passwords.get(&(conference, endpoint.clone()));
        expected.is_some_and(|expected| verify_slices_are_equal(expected.as_bytes(), password.as_bytes()).is_ok())
    }

    /// Live endpoints of all workers.
    pub fn endpoint_count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(ConferenceId, EndpointId), String>> {
        // A map is whole after any panic between its operations.
        self.passwords.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
