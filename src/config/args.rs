//! The flags of `ringcast serve`.

use std::path::PathBuf;

use clap::builder::{BoolishValueParser, PossibleValuesParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use toml::Value;

use super::section::{Flag, Key, plain};
use super::table::Config;

/// What to serve, and how.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "RINGCAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// The keys that are given by flags and variables.
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Publish a few live channels and show them at /.
    #[arg(long)]
    pub demo: bool,
    /// Take every client, publisher and listener over from the server that runs with the same feed, which then ends.
    #[arg(long)]
    pub take_over: bool,
}

/// The values of the keys that have a flag: each is a line of a file that beats the file.
#[derive(Clone, Debug, Default)]
pub struct KeyArgs(Vec<(&'static str, &'static str, Value)>);

impl KeyArgs {
    /// Puts the value of a key in the place of the configuration's.
    #[cfg(test)]
    pub(super) fn set(&mut self, section: &'static str, key: &'static str, value: impl Into<Value>) {
        self.0.retain(|given| (given.0, given.1) != (section, key));
        self.0.push((section, key, value.into()));
    }

    /// The configuration with these values in the place of its own.
    ///
    /// # Errors
    /// The reason why a value cannot be a key's.
    pub(super) fn over(&self, config: Config) -> Result<Config, String> {
        if self.0.is_empty() {
            return Ok(config);
        }
        let mut file = toml::Table::try_from(&config).map_err(|error| error.to_string())?;
        for (section, key, value) in &self.0 {
            if let Some(keys) = file.get_mut(*section).and_then(Value::as_table_mut) {
                keys.insert((*key).into(), value.clone());
            }
        }
        file.try_into().map_err(|error: toml::de::Error| error.message().into())
    }
}

/// The keys that have a flag.
fn keys() -> impl Iterator<Item = (&'static str, Key, Flag)> {
    let with_flag = |section, key: Key| key.flag.map(|flag| (section, key, flag));
    let sections = Config::sections().into_iter();
    sections.flat_map(move |(section, _, keys)| keys.into_iter().filter_map(move |key| with_flag(section, key)))
}

/// The flag that turns a key off.
fn negative(flag: Flag) -> String {
    format!("no-{}", flag.name)
}

impl Args for KeyArgs {
    fn augment_args(command: Command) -> Command {
        keys().fold(command, |command, (_, key, flag)| {
            let arg = Arg::new(flag.name).long(flag.name).value_name(flag.value).env(flag.variable);
            let arg = arg.help(key.help()).long_help(key.long_help());
            match key.default {
                Value::Boolean(_) => {
                    let on = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
                    let off = Arg::new(negative(flag)).long(negative(flag)).action(ArgAction::SetTrue);
                    let off = off.overrides_with(flag.name).help(format!("The same as --{}=false", flag.name));
                    let on = on.overrides_with(negative(flag)).value_parser(BoolishValueParser::new());
                    command.arg(on).arg(off)
                }
                Value::Array(_) => command.arg(arg.action(ArgAction::Append).value_delimiter(',')),
                _ if !key.choices.is_empty() => command.arg(arg.value_parser(PossibleValuesParser::new(key.choices))),
                _ => command.arg(arg),
            }
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        KeyArgs::augment_args(command)
    }
}

impl FromArgMatches for KeyArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<KeyArgs, clap::Error> {
        let mut args = KeyArgs::default();
        for (section, key, flag) in keys() {
            let Some(value) = value(matches, &key, flag) else { continue };
            let given = (section, key.name, value);
            if let Err(problem) = KeyArgs(vec![given.clone()]).over(Config::default()) {
                let message = format!("--{} {}: {problem}\n", flag.name, plain(&given.2));
                return Err(clap::Error::raw(ErrorKind::ValueValidation, message));
            }
            args.0.push(given);
        }
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let KeyArgs(given) = KeyArgs::from_arg_matches(matches)?;
        self.0.retain(|old| !given.iter().any(|new| (new.0, new.1) == (old.0, old.1)));
        self.0.extend(given);
        Ok(())
    }
}

/// What a flag or its variable says, in the form of the key's default.
fn value(matches: &ArgMatches, key: &Key, flag: Flag) -> Option<Value> {
    match &key.default {
        Value::Boolean(_) if matches.get_flag(&negative(flag)) => Some(Value::Boolean(false)),
        Value::Boolean(_) => matches.get_one(flag.name).copied().map(Value::Boolean),
        Value::Array(_) => {
            let all = matches.get_many::<String>(flag.name)?;
            Some(Value::Array(all.cloned().map(Value::String).collect()))
        }
        Value::Integer(_) => {
            let text: &String = matches.get_one(flag.name)?;
            Some(text.parse().map_or_else(|_| Value::String(text.clone()), Value::Integer))
        }
        _ => matches.get_one(flag.name).cloned().map(Value::String),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        keys: KeyArgs,
    }

    fn read(line: &[&str]) -> Result<Config, clap::Error> {
        let line = Line::try_parse_from([&["serve"], line].concat())?;
        Ok(line.keys.over(Config::default()).unwrap())
    }

    #[test]
    fn flags_are_read_as_the_file_is() {
        let line = ["--listen", "127.0.0.1:80,unix:/a", "--listen=unix:/b", "--shards", "2", "--log-format=json"];
        let config = read(&[&line[..], &["--feed", "/f", "--admin", "off", "--no-pin", "--allow-anonymous"]].concat());
        let config = config.unwrap();
        let mut expected = Config::default();
        expected.server.listen = ["127.0.0.1:80", "unix:/a", "unix:/b"].map(|address| address.parse().unwrap()).into();
        expected.server.shards = 2;
        expected.server.pin = false;
        expected.log.format = super::super::LogFormat::Json;
        expected.feed.path = "/f".into();
        expected.admin.listen = super::super::AdminAddress::Off;
        expected.auth.allow_anonymous = true;
        assert_eq!(config, expected);
        assert_eq!(read(&[]).unwrap(), Config::default());
    }

    #[test]
    fn the_last_of_two_opposite_flags_counts() {
        assert!(read(&["--no-pin", "--pin"]).unwrap().server.pin);
        assert!(!read(&["--pin", "--no-pin"]).unwrap().server.pin);
        assert!(!read(&["--pin=no"]).unwrap().server.pin);
    }

    #[test]
    fn values_that_cannot_be_are_refused_with_the_flag() {
        for (line, expected) in [
            (["--listen", "8080"], "--listen [\"8080\"]: \"8080\" is no address to listen on"),
            (["--shards", "two"], "--shards two: invalid type"),
            (["--shards=-1", "--pin"], "--shards -1: invalid value"),
            (["--admin", "here"], "--admin here: \"here\" is no address"),
            (["--log-format", "xml"], "'xml'"),
            (["--allow-anonymous=perhaps", "--pin"], "'perhaps'"),
        ] {
            let error = read(&line).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
