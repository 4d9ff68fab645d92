//! The one writer: what a command found goes to stdout as text or JSON; remarks and failures go to stderr.
//!
//! A reader that closes stdout early (`mcpctl trace list | head -1`) ends the command quietly. Text may quote other
//! nodes, so control characters never reach the terminal.

use std::io::{self, Write as _};

use protocol::{Problem, api::List, error::Code};
use serde::Serialize;
use zeroize::Zeroize as _;

use crate::error::{Error, Result};

/// Where a command's findings go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Text, or one JSON document on one line.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether a program reads.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Shows one thing.
    pub(crate) fn show<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result {
        let mut bytes = if self.json { json(value)? } else { plain(&text(value)).into_bytes() };
        if bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        let written = self.bytes(&bytes);
        // A fresh API key's secret passes through here.
        bytes.zeroize();
        written
    }

    /// Shows a list: a table, or the list itself.
    pub(crate) fn list<T: Serialize, const N: usize>(self, list: &List<T>, columns: [&str; N], row: impl Fn(&T) -> [String; N]) -> Result {
        if list.items.is_empty() && !self.json {
            self.note("none");
            return Ok(());
        }
        self.show(list, |list| table(columns, list.items.iter().map(row)))?;
        if let Some(next) = &list.next {
            self.note(&format!("there are more: --after {next}"));
        }
        Ok(())
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::Problem(Problem::new(Code::Internal, format!("can't write the output: {error}"))))
            }
            _ => Ok(()),
        }
    }

    /// Remarks to a person, beside what was asked for; silent where a program reads.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            stderr(&format!("{}\n", plain(text)));
        }
    }

    /// A line that is written over and over while something long goes on.
    pub(crate) fn progress(self) -> Progress {
        Progress { shown: !self.json && rustix::termios::isatty(rustix::stdio::stderr()) }
    }

    /// Tells of a failure: lines on stderr, and the problem document on stdout where a program reads.
    pub(crate) fn failure(self, problem: &Problem) {
        stderr(&plain(&describe(problem)));
        if self.json {
            // A reader that has left doesn't change why the command failed.
            let _ = json(problem).and_then(|bytes| self.bytes(&bytes));
        }
    }
}

/// Progress on a terminal; nothing elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    /// Replaces the line.
    pub(crate) fn show(&self, text: &str) {
        if self.shown {
            stderr(&format!("\r{}\x1b[K", plain(text)));
        }
    }

    /// Removes the line.
    pub(crate) fn end(&self) {
        if self.shown {
            stderr("\r\x1b[K");
        }
    }
}

/// Nothing can be said about a stderr that can't be written to.
fn stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let encoded = serde_json::to_vec(value).map_err(|error| Problem::new(Code::Internal, format!("can't encode the output: {error}")));
    let mut bytes = encoded?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// `error: …`, each wrong place, `hint: …`.
fn describe(problem: &Problem) -> String {
    let mut text = format!("error: {}\n", problem.detail.replace('\n', " "));
    for place in &problem.errors {
        let pointer = if place.pointer.is_empty() { "the whole" } else { &place.pointer };
        text.push_str(&format!("  {pointer}: {}\n", place.detail.replace('\n', " ")));
    }
    if let Some(hint) = &problem.hint {
        text.push_str(&format!("hint: {}\n", hint.replace('\n', " ")));
    }
    text
}

/// The text without control characters other than line breaks: a remote name can't move the cursor or recolour a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Names and values, one a line, values aligned. Empty values are left out.
pub(crate) fn fields<const N: usize>(rows: [(&str, String); N]) -> String {
    let shown = rows.iter().filter(|(_, value)| !value.is_empty());
    let width = shown.clone().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    shown.map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// Columns aligned, two spaces apart, under their names.
pub(crate) fn table<const N: usize>(columns: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(columns.map(str::to_uppercase)).chain(rows).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{:width$}", cell.replace('\n', " "))).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use protocol::error::FieldError;

    use super::*;

    #[test]
    fn tables_align_and_fields_skip_what_is_empty() {
        let rows = [["docs".to_owned(), "1".to_owned()], ["größer".to_owned(), "22".to_owned()]];
        assert_eq!(table(["name", "calls"], rows.into_iter()), "NAME    CALLS\ndocs    1\ngrößer  22\n");
        let text = fields([("id", "a".into()), ("reason", String::new()), ("state", "b".into())]);
        assert_eq!(text, "id     a\nstate  b\n");
    }

    #[test]
    fn failures_say_what_where_and_what_to_do() {
        let place = FieldError { pointer: "/query".into(), detail: "is required".into() };
        let problem = Problem::new(Code::InvalidParams, "the parameters\nbreak the schema").errors(vec![place]).hint("see 'agent show'");
        assert_eq!(describe(&problem), "error: the parameters break the schema\n  /query: is required\nhint: see 'agent show'\n");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(plain("a\x1b[31mb\u{9b}c\r\nd"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}\nd");
    }
}
