//! The types a configuration value can have, and how each is read and printed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// A type that a key can have.
pub(crate) trait FromToml: Sized {
    /// Reads it; the error says what was expected.
    fn from_toml(value: &toml::Value) -> Result<Self, String>;

    /// Writes it as TOML.
    fn to_toml(&self) -> toml::Value;

    /// The TOML value that a variable or flag of this type means. Lists are separated by commas.
    fn read_text(text: &str) -> toml::Value {
        toml::Value::String(text.to_owned())
    }
}

impl FromToml for String {
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| format!("expected a text, found {value}"))
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.clone())
    }
}

impl FromToml for bool {
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("expected true or false, found {value}"))
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }

    fn read_text(text: &str) -> toml::Value {
        text.parse().map_or_else(|_| toml::Value::String(text.to_owned()), toml::Value::Boolean)
    }
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl FromToml for $type {
            fn from_toml(value: &toml::Value) -> Result<Self, String> {
                let expected = || format!("expected a number from {} to {}, found {value}", Self::MIN, Self::MAX);
                value.as_integer().and_then(|n| Self::try_from(n).ok()).ok_or_else(expected)
            }

            fn to_toml(&self) -> toml::Value {
                toml::Value::Integer(i64::from(*self))
            }

            fn read_text(text: &str) -> toml::Value {
                text.trim().parse().map_or_else(|_| toml::Value::String(text.to_owned()), toml::Value::Integer)
            }
        }
    )*};
}
integer!(u16, u32);

/// Types that are written as a text in TOML.
macro_rules! textual {
    ($($type:ty, $expected:literal, $show:expr;)*) => {$(
        impl FromToml for $type {
            fn from_toml(value: &toml::Value) -> Result<Self, String> {
                let text = value.as_str().ok_or_else(|| format!("expected {}, found {value}", $expected))?;
                text.parse().map_err(|_| format!("expected {}, found \"{text}\"", $expected))
            }

            fn to_toml(&self) -> toml::Value {
                let show: fn(&$type) -> String = $show;
                toml::Value::String(show(self))
            }
        }
    )*};
}
textual! {
    SocketAddr, "an address and port such as \"127.0.0.1:8080\" or \"[::1]:8080\"", ToString::to_string;
    IpAddr, "an IP address such as \"192.0.2.1\"", ToString::to_string;
    PathBuf, "a path", |path| path.display().to_string();
    AddressMapping, "an IP address, or \"public=local\"", ToString::to_string;
    SizeLimit, "two numbers such as \"30=15\"", ToString::to_string;
    LogFormat, "\"text\" or \"json\"", |format| match format { LogFormat::Text => "text".into(), LogFormat::Json => "json".into() };
    OfferedChannel, "\"websocket\", \"datachannel\" or \"both\"", |channel| channel.as_str().into();
}

impl<T: FromToml> FromToml for Vec<T> {
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        let list = value.as_array().ok_or_else(|| format!("expected a list, found {value}"))?;
        list.iter().map(T::from_toml).collect()
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(T::to_toml).collect())
    }

    fn read_text(text: &str) -> toml::Value {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        toml::Value::Array(items.map(T::read_text).collect())
    }
}

/// A public address, and the local one behind it when there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressMapping {
    /// What clients are told.
    pub(crate) public: IpAddr,
    /// The interface behind it; `None` means every interface of the same family.
    pub(crate) local: Option<IpAddr>,
}

impl std::str::FromStr for AddressMapping {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (public, local) = match text.split_once('=') {
            Some((public, local)) => (public, Some(local.parse()?)),
            None => (text, None),
        };
        Ok(Self { public: public.parse()?, local })
    }
}

impl std::fmt::Display for AddressMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.local {
            Some(local) => write!(f, "{}={local}", self.public),
            None => self.public.fmt(f),
        }
    }
}

/// A limit for meetings of this size and above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizeLimit {
    /// From so many people on.
    pub(crate) people: usize,
    /// Most pictures that anybody gets.
    pub(crate) last_n: u32,
}

impl std::str::FromStr for SizeLimit {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (people, last_n) = text.split_once('=').ok_or(())?;
        let people = people.trim().parse().map_err(drop)?;
        Ok(Self { people, last_n: last_n.trim().parse().map_err(drop)? })
    }
}

impl std::fmt::Display for SizeLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.people, self.last_n)
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For a person.
    Text,
    /// One object a line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// Which bridge channel clients are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfferedChannel {
    /// A WebSocket beside the signalling.
    WebSocket,
    /// A data channel inside the media transport.
    DataChannel,
    /// Both: the client chooses.
    Both,
}

impl OfferedChannel {
    fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::DataChannel => "datachannel",
            Self::Both => "both",
        }
    }
}

impl std::str::FromStr for OfferedChannel {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::WebSocket, Self::DataChannel, Self::Both].into_iter().find(|channel| channel.as_str() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_variables_are_separated_by_commas() {
        let value = Vec::<SocketAddr>::read_text("127.0.0.1:1, [::1]:2");
        assert_eq!(Vec::<SocketAddr>::from_toml(&value).unwrap().len(), 2);
        assert_eq!(Vec::<String>::from_toml(&Vec::<String>::read_text("")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn limits_by_size_are_pairs_of_numbers() {
        let limits = Vec::<SizeLimit>::from_toml(&Vec::<SizeLimit>::read_text("20=20, 30 = 15")).unwrap();
        assert_eq!(limits[1], SizeLimit { people: 30, last_n: 15 });
        assert_eq!(limits[1].to_string(), "30=15");
        assert!("30".parse::<SizeLimit>().is_err() && "30=-1".parse::<SizeLimit>().is_err());
    }

    #[test]
    fn mappings_may_name_the_local_side() {
        let mapping: AddressMapping = "203.0.113.7=10.0.0.5".parse().unwrap();
        assert_eq!(mapping.local, Some("10.0.0.5".parse().unwrap()));
        assert_eq!(mapping.to_string(), "203.0.113.7=10.0.0.5");
        assert!("203.0.113.7=".parse::<AddressMapping>().is_err());
    }
}
