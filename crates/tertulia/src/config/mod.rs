//! Configuration: where values come from and in which order, and the checked result.
//!
//! A value is taken from the first of: a flag, an environment variable `TERTULIA__SECTION__KEY`, the TOML file, the default
//! of its declaration in [`keys`]. After start-up nothing sees the raw sources.

mod key;
mod keys;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

pub(crate) use key::Key;
pub(crate) use keys::{Config, KEYS};
pub(crate) use value::{LogFormat, OfferedChannel};

/// Why the configuration cannot be used: one sentence for whoever wrote it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    Unreadable { path: String, why: String },
    /// The file is not TOML.
    NotToml(String),
    /// A key that does not exist.
    Unknown { key: String, origin: Origin, nearest: Option<&'static str> },
    /// A value of the wrong shape.
    Invalid { key: &'static str, origin: Origin, why: String },
}

/// Where a value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File,
    Environment,
    Flag,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "configuration file",
            Self::Environment => "environment",
            Self::Flag => "command line",
        })
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable { path, why } => write!(f, "cannot read the configuration file {path}: {why}"),
            Self::NotToml(why) => write!(f, "the configuration file is not valid TOML: {why}"),
            Self::Unknown { key, origin, nearest: Some(nearest) } => {
                write!(f, "unknown key `{key}` ({origin}); did you mean `{nearest}`?")
            }
            Self::Unknown { key, origin, nearest: None } => {
                write!(f, "unknown key `{key}` ({origin}); `tertulia config print` lists all keys")
            }
            Self::Invalid { key, origin, why } => write!(f, "`{key}` ({origin}): {why}"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Prefix of environment variables; sections and keys follow, joined by `__`, in upper case.
pub(crate) const ENVIRONMENT_PREFIX: &str = "TERTULIA__";

/// Raw values by key path, each with its origin: later layers replace earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    values: BTreeMap<&'static str, (Origin, toml::Value)>,
}

impl Layers {
    /// Adds a file.
    pub(crate) fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let unreadable =
            |why: std::io::Error| ConfigError::Unreadable { path: path.display().to_string(), why: why.to_string() };
        self.add_toml(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    /// Adds the text of a file.
    pub(crate) fn add_toml(&mut self, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| ConfigError::NotToml(e.to_string()))?;
        for (section, value) in table {
            match value {
                toml::Value::Table(keys) => {
                    for (key, value) in keys {
                        self.set(&format!("{section}.{key}"), Origin::File, value)?;
                    }
                }
                other => self.set(&section, Origin::File, other)?,
            }
        }
        Ok(())
    }

    /// Adds environment variables; those without the prefix are not ours.
    pub(crate) fn add_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (name, text) in variables {
            if let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) {
                self.set_text(&rest.replace("__", ".").to_lowercase(), Origin::Environment, &text)?;
            }
        }
        Ok(())
    }

    /// Adds one `--set section.key=value` or a named flag.
    pub(crate) fn add_flag(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        self.set_text(path, Origin::Flag, text)
    }

    /// The checked result.
    pub(crate) fn check(&self) -> Result<Config, ConfigError> {
        Config::from_layers(self)
    }

    fn set_text(&mut self, path: &str, origin: Origin, text: &str) -> Result<(), ConfigError> {
        let key = find(path, origin)?;
        self.values.insert(key.path, (origin, (key.read_text)(text)));
        Ok(())
    }

    fn set(&mut self, path: &str, origin: Origin, value: toml::Value) -> Result<(), ConfigError> {
        let key = find(path, origin)?;
        self.values.insert(key.path, (origin, value));
        Ok(())
    }

    /// The value of a key, or its default.
    fn resolve<T: value::FromToml>(&self, key: &'static Key) -> Result<T, ConfigError> {
        let fallback = (Origin::Default, (key.read_text)(key.default));
        let (origin, value) = self.values.get(key.path).unwrap_or(&fallback);
        T::from_toml(value).map_err(|why| ConfigError::Invalid { key: key.path, origin: *origin, why })
    }
}

fn find(path: &str, origin: Origin) -> Result<&'static Key, ConfigError> {
    KEYS.iter().find(|key| key.path == path).ok_or_else(|| ConfigError::Unknown {
        key: path.to_owned(),
        origin,
        nearest: nearest(path),
    })
}

/// The key that was probably meant: at most a third of its letters differ.
fn nearest(path: &str) -> Option<&'static str> {
    let distance = |key: &Key| strsim::damerau_levenshtein(path, key.path);
    let best = KEYS.iter().min_by_key(|key| distance(key))?;
    (distance(best) * 3 <= best.path.len()).then_some(best.path)
}

/// The reference file: every key with its documentation, unit and default, commented out.
pub(crate) fn reference() -> String {
    let mut out = String::from("# Every key of tertulia.toml, with its default.\n");
    let mut section = "";
    for key in KEYS {
        let (own, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if own != section {
            out.push_str(&format!("\n[{own}]\n"));
            section = own;
        }
        for line in key.doc.lines() {
            out.push_str(&format!("# {}\n", line.trim()));
        }
        out.push_str(&format!("# Variable: {}\n", key.environment()));
        out.push_str(&format!("#{name} = {}\n", (key.read_text)(key.default)));
    }
    out
}

/// The effective configuration.
pub(crate) fn effective(config: &Config) -> String {
    let mut out = String::new();
    let mut section = "";
    for (path, value) in config.entries() {
        let (own, name) = path.split_once('.').unwrap_or(("", path));
        if own != section {
            out.push_str(&format!("{}[{own}]\n", if section.is_empty() { "" } else { "\n" }));
            section = own;
        }
        out.push_str(&format!("{name} = {value}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(toml: &str) -> Result<Config, ConfigError> {
        let mut layers = Layers::default();
        layers.add_toml(toml)?;
        layers.check()
    }

    #[test]
    fn nothing_is_required() {
        let config = from("").unwrap();
        assert_eq!(config.media_port, 10_000);
        assert_eq!(config.private_listen.to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let mut layers = Layers::default();
        layers.add_toml("[media]\nport = 1\nworkers = 3").unwrap();
        layers.add_environment([("TERTULIA__MEDIA__PORT".to_owned(), "2".to_owned())].into_iter()).unwrap();
        assert_eq!(layers.check().unwrap().media_port, 2);
        layers.add_flag("media.port", "3").unwrap();
        let config = layers.check().unwrap();
        assert_eq!((config.media_port, config.media_workers), (3, 3));
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = from("[media]\nprot = 1").unwrap_err().to_string();
        assert_eq!(error, "unknown key `media.prot` (configuration file); did you mean `media.port`?");
        let error = from("zebra = 1").unwrap_err().to_string();
        assert!(error.contains("config print"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_the_key_and_its_origin() {
        let error = from("[media]\nport = 70000").unwrap_err().to_string();
        assert!(error.starts_with("`media.port` (configuration file): "), "{error}");
    }

    #[test]
    fn the_reference_lists_every_key_once_and_is_valid_when_uncommented() {
        let text = reference();
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line))
            .map(|l| format!("{l}\n"))
            .collect();
        let config = from(&uncommented).unwrap();
        assert_eq!(effective(&config), effective(&from("").unwrap()));
    }
}
