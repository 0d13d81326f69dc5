//! What is known of a configuration key.

/// One key, declared once in `keys.rs`.
#[derive(Debug)]
pub(crate) struct Key {
    /// `section.name`.
    pub(crate) path: &'static str,
    /// What it does, with the unit.
    pub(crate) doc: &'static str,
    /// Default as a person would write it in a variable.
    pub(crate) default: &'static str,
    /// Turns the text of a variable or flag into the TOML value of the key's type.
    pub(crate) read_text: fn(&str) -> toml::Value,
}

impl Key {
    /// Name of its environment variable.
    pub(crate) fn environment(&self) -> String {
        format!("{}{}", super::ENVIRONMENT_PREFIX, self.path.replace('.', "__").to_uppercase())
    }
}
