//! The page about the configuration, written from the table.

use super::section::{Flag, Key, Section, plain};
use super::table::{Certificate, Config, NamespacePolicy, TokenKey};

const INTRODUCTION: &str = "\
# Configuration

This page is written by `ringcast config docs` from the table that the server reads its configuration by.

Every key has a default; `ringcast serve` runs without any. A flag beats a `RINGCAST_…` variable, which beats the file
(`--config FILE`), which beats the default. Unknown keys are refused, with the line and a suggestion. `ringcast config check
FILE` checks a file as `serve` would with that file alone. `ringcast config print` shows the values that hold (secrets only
with `--secrets`).

Durations are written `\"250ms\"`, `\"10s\"`, `\"5m\"`, `\"2h\"`, `\"1d\"`, or as a number of seconds; sizes `\"64KiB\"`, `\"1MiB\"`,
`\"10MB\"`, or as a number of bytes.

| flag | variable | key |
|---|---|---|
| `--config FILE` | `RINGCAST_CONFIG` | |
";

/// The page, in Markdown.
pub fn document() -> String {
    let mut page = String::from(INTRODUCTION);
    let sections = Config::sections();
    for (section, _, keys) in &sections {
        for key in keys {
            if let Some(flag) = key.flag {
                page += &flag_row(section, key, flag);
            }
        }
    }
    page += "| `--demo` | | |\n| `--take-over` | | |\n";
    for (section, about, keys) in &sections {
        write_section(&mut page, &format!("[{section}]"), about, keys);
    }
    write_section(&mut page, "[[auth.keys]]", TokenKey::ABOUT, &TokenKey::keys());
    write_section(&mut page, "[[tls.certificates]]", Certificate::ABOUT, &Certificate::keys());
    write_section(&mut page, "[namespace.NAME]", NamespacePolicy::ABOUT, &NamespacePolicy::keys());
    page
}

fn flag_row(section: &str, key: &Key, Flag { name, value, variable }: Flag) -> String {
    let (flag, variable) = match &key.default {
        toml::Value::Boolean(_) => {
            (format!("`--{name}[={value}]`, `--no-{name}`"), format!("`{variable}` (`true`, `false`)"))
        }
        toml::Value::Array(_) => {
            (format!("`--{name} {value}` (repeatable)"), format!("`{variable}` (comma-separated)"))
        }
        _ => (format!("`--{name} {value}`"), format!("`{variable}`")),
    };
    format!("| {flag} | {variable} | `[{section}] {}` |\n", key.name)
}

fn write_section(page: &mut String, heading: &str, about: &[&str], keys: &[Key]) {
    *page += &format!("\n## `{heading}`\n\n");
    for line in about {
        *page += line.trim();
        page.push('\n');
    }
    *page += "\n| key | default | value | |\n|---|---|---|---|\n";
    for Key { name, text, default, allowed, .. } in keys {
        *page += &format!("| `{name}` | `{default}` | {allowed} | {text} |\n");
    }
}

impl Key {
    /// What the help says about the key's flag: the first sentence, and the default if there is one.
    pub(super) fn help(&self) -> String {
        let sentence = self.text.find(". ").map_or(self.text, |end| &self.text[..=end]).replace('`', "");
        let default = plain(&self.default).trim_matches(['[', ']']).replace('"', "");
        if default.is_empty() { sentence } else { format!("{sentence} [default: {default}]") }
    }

    /// What the long help and the manual page say about the key's flag.
    pub(super) fn long_help(&self) -> String {
        let rest = self.help();
        let text = self.text.replace('`', "");
        let default = rest.rfind(" [default: ").map_or("", |start| &rest[start..]);
        format!("{text}{default}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_table_says() {
        let page = include_str!("../../docs/configuration.md");
        assert!(page == document(), "write it anew: cargo run -- config docs > docs/configuration.md");
    }

    #[test]
    fn every_quantity_has_bounds() {
        let once = Config::sections().into_iter().flat_map(|(_, _, keys)| keys);
        for key in once.chain(TokenKey::keys()).chain(Certificate::keys()).chain(NamespacePolicy::keys()) {
            let unbounded = ["number", "size", "duration"];
            assert!(!unbounded.contains(&key.allowed.as_str()), "{} may be as large as anyone likes", key.name);
        }
    }

    #[test]
    fn help_is_a_sentence_with_the_default() {
        let all = Config::sections().into_iter().flat_map(|(_, _, keys)| keys).filter(|key| key.flag.is_some());
        for key in all {
            assert!(!key.text.contains("]("), "{}: the help shows no links", key.name);
            assert!(!key.help().contains('`') && key.help().contains('.'), "{}", key.help());
        }
        let key = |name| Config::sections()[0].2.iter().find(|key| key.name == name).unwrap().clone();
        assert!(key("listen").help().ends_with("proxy on the same host. [default: 127.0.0.1:8080]"));
        assert_eq!(key("pin").help(), "Pin each shard to a core. [default: true]");
    }
}
