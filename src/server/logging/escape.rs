//! Log lines in which nothing that a client, a publisher or a file has said can begin a line or command a terminal.

use std::borrow::Cow;
use std::fmt::{self, Debug, Write};

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

/// Whether a character may stand in a log line as it is. Control characters (also those of Unicode's C1 block, which some
/// terminals obey), line separators and marks that change the direction of writing may not.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
}

/// Passes text on with every character that is not plain as an escape such as `\n` or `\u{1b}`.
struct Escaping<'a, 'w>(&'a mut Writer<'w>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(place) = rest.find(|c| !is_plain(c)) {
            self.0.write_str(&rest[..place])?;
            let mut chars = rest[place..].chars();
            chars.next().map_or(Ok(()), |c| write!(self.0, "{}", c.escape_default()))?;
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Writes a field of a line for people: the message, or `name=value`.
///
/// # Errors
/// If the writer fails.
pub(super) fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    match (field.name(), writer.has_ansi_escapes()) {
        ("message", _) => {}
        (name, true) => write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?,
        (name, false) => write!(writer, "{name}=")?,
    }
    write!(Escaping(writer), "{value:?}")
}

/// A line of JSON in which the characters that are not plain, but that JSON permits in its texts, are escaped as well. JSON
/// permits characters that are not plain in its texts alone.
pub(super) fn escape_json(line: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(line) else { return Cow::Borrowed(line) };
    let is_hidden = |c: char| !is_plain(c) && c != '\n';
    if !text.contains(is_hidden) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(line.len() + 32);
    for c in text.chars() {
        match is_hidden(c) {
            true => drop(write!(escaped, "\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    Cow::Owned(escaped.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::subscriber;
    use super::*;
    use crate::config::{Log, LogFormat};
    use std::io;
    use std::sync::{Arc, Mutex};

    /// What a log of this format has after one line with a hostile text in every place that a field can be in.
    fn logged(format: LogFormat, hostile: &str) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = Log { format, ..Log::default() };
        let lines = written.clone();
        let (subscriber, _) = subscriber(&log, false, move |line: &[u8]| lines.lock().unwrap().extend(line)).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let error = io::Error::other(hostile);
            tracing::info!(text = hostile, shown = %hostile, debugged = ?hostile, %error, "message {hostile}");
        });
        let bytes: Vec<u8> = written.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_text_begins_a_line_or_commands_a_terminal() {
        let hostile = "a\nb\rc\u{1b}[31md\u{7}e\u{7f}f\u{9b}2Jg\u{85}h\u{202e}i\u{2028}j\tk\"l\\m\0n\u{feff}";
        for format in [LogFormat::Human, LogFormat::Json] {
            let line = logged(format, hostile);
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            let bad: Vec<char> = line.trim_end_matches('\n').chars().filter(|c| !is_plain(*c)).collect();
            assert!(bad.is_empty() && line.ends_with('\n'), "{bad:?} in {line:?}");
        }
    }

    #[test]
    fn escaped_json_says_the_same() {
        let hostile = "\u{9b}2J\u{202e}\u{7f}ok é 漢";
        let value: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json, hostile)).unwrap();
        assert_eq!((&value["text"], &value["shown"]), (&hostile.into(), &hostile.into()));
    }

    #[test]
    fn plain_text_is_left_alone() {
        let line = logged(LogFormat::Human, "é 漢");
        assert!(line.contains("message é 漢 text=\"é 漢\" shown=é 漢"), "{line}");
        assert!(matches!(escape_json("{\"é\":1}\n".as_bytes()), Cow::Borrowed(_)));
    }
}
