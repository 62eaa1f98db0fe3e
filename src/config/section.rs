//! The words of the table in [`super::table`]: what an entry says, and what is made of it.
//!
//! [`section!`] turns the entries of a section into a struct with one documented field per key, its defaults, its form in
//! the file, its checks and its part of the documentation. Leaving out any part of an entry does not compile.

use std::ops::{RangeFrom, RangeInclusive, RangeToInclusive};

use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde::Serialize;
use toml::Value;

use super::load::ConfigError;

/// The flag and the environment variable that a key may also be given by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flag {
    /// The flag's long name, without `--`.
    pub(super) name: &'static str,
    /// What stands for the value in the help.
    pub(super) value: &'static str,
    /// The environment variable.
    pub(super) variable: &'static str,
}

/// One entry of the table, for the documentation and the flags.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// The key's name in its section.
    pub(super) name: &'static str,
    /// What the key does, in Markdown.
    pub(super) text: &'static str,
    /// The default, as it would stand in a file.
    pub(super) default: Value,
    /// What the value must be: its type, and its bounds if there are any.
    pub(super) allowed: String,
    /// The values there are, if they are few.
    pub(super) choices: Vec<PossibleValue>,
    /// The flag that beats the file, if there is one.
    pub(super) flag: Option<Flag>,
}

impl Key {
    /// A key of any value, without a flag; `form` is the form of the value in the file, if it has one of its own.
    pub(super) fn new(name: &'static str, text: &'static str, form: &str, default: Value) -> Key {
        let allowed = match (form, &default) {
            ("units::duration", _) => "duration",
            ("units::size", _) => "size",
            (_, Value::Boolean(_)) => "true, false",
            (_, Value::Integer(_)) => "number",
            (_, Value::Array(_)) => "list",
            _ => "text",
        };
        Key { name, text: text.trim_start(), default, allowed: allowed.into(), choices: Vec::new(), flag: None }
    }

    /// The key with what its value must be; `written` gives a value's form in a file.
    pub(super) fn allowing<T: Clone>(mut self, must: Must<T>, written: impl Fn(T) -> Value) -> Key {
        let words = must.describe(written);
        self.allowed = match must.words {
            Words::Range(..) => format!("{}, {words}", self.allowed),
            _ => words,
        };
        if let Words::Choice(choices) = must.words {
            self.choices = choices;
        }
        self
    }

    /// The key with its flag.
    pub(super) fn with_flag(mut self, flag: Flag) -> Key {
        self.flag = Some(flag);
        self
    }
}

/// A section of the file: its keys, and whether their values can be.
pub(super) trait Section: Sized {
    /// The lines that explain the section, in Markdown.
    const ABOUT: &'static [&'static str];

    /// The section's entries in the table, in its order.
    fn keys() -> Vec<Key>;

    /// Checks every value by itself; `place` is the section's name for the message.
    ///
    /// # Errors
    /// The first key whose value is not allowed.
    fn check(&self, place: &str) -> Result<(), ConfigError>;
}

/// What a key's value must be.
pub(super) struct Must<T> {
    words: Words<T>,
    holds: Box<dyn Fn(&T) -> bool>,
}

enum Words<T> {
    Range(Option<T>, Option<T>),
    Rule(&'static str),
    Choice(Vec<PossibleValue>),
}

/// A rule in words: they complete the sentence "the key must be …".
pub(super) fn be<T: 'static>(words: &'static str, holds: fn(&T) -> bool) -> Must<T> {
    Must { words: Words::Rule(words), holds: Box::new(holds) }
}

/// One of the values that the type has.
pub(super) fn one_of<T: ValueEnum>() -> Must<T> {
    let choices = T::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect();
    Must { words: Words::Choice(choices), holds: Box::new(|_| true) }
}

impl<T: PartialOrd + Clone + 'static> From<RangeInclusive<T>> for Must<T> {
    fn from(range: RangeInclusive<T>) -> Must<T> {
        let words = Words::Range(Some(range.start().clone()), Some(range.end().clone()));
        Must { words, holds: Box::new(move |value| range.contains(value)) }
    }
}

impl<T: PartialOrd + Clone + 'static> From<RangeFrom<T>> for Must<T> {
    fn from(range: RangeFrom<T>) -> Must<T> {
        Must {
            words: Words::Range(Some(range.start.clone()), None),
            holds: Box::new(move |value| range.contains(value)),
        }
    }
}

impl<T: PartialOrd + Clone + 'static> From<RangeToInclusive<T>> for Must<T> {
    fn from(range: RangeToInclusive<T>) -> Must<T> {
        Must { words: Words::Range(None, Some(range.end.clone())), holds: Box::new(move |value| range.contains(value)) }
    }
}

impl<T: Clone> Must<T> {
    /// What is wrong with a value, if something is; `written` gives a value's form in a file.
    pub(super) fn problem(self, value: &T, written: impl Fn(T) -> Value) -> Option<String> {
        (!(self.holds)(value)).then(|| format!("must be {}", self.describe(written)))
    }

    fn describe(&self, written: impl Fn(T) -> Value) -> String {
        let plain = |value: &T| plain(&written(value.clone()));
        match &self.words {
            Words::Range(Some(least), Some(most)) => format!("from {} to {}", plain(least), plain(most)),
            Words::Range(Some(least), None) => format!("at least {}", plain(least)),
            Words::Range(None, Some(most)) => format!("at most {}", plain(most)),
            Words::Range(None, None) => String::new(),
            Words::Rule(words) => (*words).into(),
            Words::Choice(choices) => choices.iter().map(PossibleValue::get_name).collect::<Vec<_>>().join(", "),
        }
    }
}

/// A value as it would stand in a file, but texts without their quotes.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

/// The form that a key's value has in a file.
pub(super) fn written<S: Serialize>(section: &S, key: &str) -> Value {
    let table = toml::Table::try_from(section).unwrap_or_default();
    table.get(key).cloned().unwrap_or(Value::String(String::new()))
}

/// Declares a section. An entry is
///
/// ```text
/// /// The text that explains the key.
/// name: Type as "form in the file" = default, must what, flag Flag { … };
/// ```
///
/// where `as`, `must` and `flag` are left out if there is nothing to say. With `Section, written as Name` the section may
/// occur several times, each with some of the keys: `Name` is a struct of the keys that are set.
macro_rules! section {
    ($(#[doc = $about:literal])+ $Section:ident, written as $Written:ident { $($entries:tt)+ }) => {
        section! { $(#[doc = $about])+ $Section { $($entries)+ } }
        written_section! { $(#[doc = $about])+ $Section, $Written { $($entries)+ } }
    };
    (
        $(#[doc = $about:literal])+
        $Section:ident {
            $(
                $(#[doc = $text:literal])+
                $key:ident: $type:ty $(as $form:literal)? = $default:expr $(, must $must:expr)? $(, flag $flag:expr)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, expecting = "a section of keys with their values")]
        pub struct $Section {
            $( $(#[doc = $text])+ $(#[serde(with = $form)])? pub $key: $type, )+
        }

        impl Default for $Section {
            fn default() -> $Section {
                $Section { $($key: $default,)+ }
            }
        }

        // A section of one key has no others to take from the defaults; one without `must` names no place.
        #[allow(clippy::needless_update, unused_variables)]
        impl Section for $Section {
            const ABOUT: &'static [&'static str] = &[$($about),+];

            fn keys() -> Vec<Key> {
                let default = $Section::default();
                vec![$(
                    Key::new(
                        stringify!($key),
                        concat!($($text),+),
                        concat!($($form)?),
                        written(&default, stringify!($key)),
                    )
                        $(.allowing(Must::<$type>::from($must), |value| {
                            written(&$Section { $key: value, ..$Section::default() }, stringify!($key))
                        }))?
                        $(.with_flag($flag))?
                ),+]
            }

            fn check(&self, place: &str) -> Result<(), ConfigError> {
                $($(
                    let form = |value| written(&$Section { $key: value, ..$Section::default() }, stringify!($key));
                    if let Some(problem) = Must::<$type>::from($must).problem(&self.$key, form) {
                        return Err(ConfigError::value(format!("{place} {}", stringify!($key)), problem));
                    }
                )?)+
                Ok(())
            }
        }
    };
}

/// Declares the struct of the keys that are set in one of several sections of a kind: a part of [`section!`].
macro_rules! written_section {
    (
        $(#[doc = $about:literal])+
        $Section:ident, $Written:ident {
            $(
                $(#[doc = $text:literal])+
                $key:ident: $type:ty $(as $form:literal)? = $default:expr $(, must $must:expr)? $(, flag $flag:expr)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        ///
        /// Only the keys that are set.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, expecting = "a section of keys with their values")]
        pub struct $Written {
            $(
                $(#[doc = $text])+
                $(#[serde(with = $form)])?
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $key: Option<$type>,
            )+
        }

        impl $Written {
            /// The values that are set here, and those of `base` for the others.
            pub(super) fn over(&self, base: $Section) -> $Section {
                $Section { $($key: self.$key.clone().unwrap_or(base.$key),)+ }
            }
        }
    };
}

/// Declares the configuration out of the sections that occur once, in the order of the documentation.
macro_rules! sections {
    ($($name:ident: $Section:ident),+ $(,)?) => {
        /// Everything that can be set.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, expecting = "sections of keys with their values")]
        pub struct Config {
            $( #[doc = concat!("`[", stringify!($name), "]`")] pub $name: $Section, )+
            /// `[namespace.NAME]`, as written; [`Config::namespace`] gives the values that hold for a channel.
            pub namespace: BTreeMap<String, Namespace>,
            /// Whether to publish and show the demo (a flag, not a key).
            #[serde(skip)]
            pub demo: bool,
        }

        impl Config {
            /// The sections that occur once: their names, what they are about, and their keys.
            pub(super) fn sections() -> Vec<(&'static str, &'static [&'static str], Vec<Key>)> {
                vec![$((stringify!($name), $Section::ABOUT, $Section::keys())),+]
            }

            /// Checks the values of these sections, each by itself.
            pub(super) fn check_sections(&self) -> Result<(), ConfigError> {
                $( self.$name.check(concat!("[", stringify!($name), "]"))?; )+
                Ok(())
            }
        }
    };
}

pub(super) use {section, sections, written_section};
