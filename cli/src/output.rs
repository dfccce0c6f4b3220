//! How commands that look at a running mesh print: tables or JSON, and their exit codes.
//!
//! In:  rows, values, errors.
//! Out: standard output, standard error, an [`ExitCode`].

use std::{io::Write, process::ExitCode, time::Duration};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::admin_client::ApiError;

/// Something of the mesh is wrong, or the command failed.
pub const WRONG: u8 = 1;
/// Wrong use.
pub const MISUSE: u8 = 2;
/// Nobody answers.
pub const UNREACHABLE: u8 = 3;

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A table without lines: its columns are separated by blanks, so that `awk` and eyes both read it.
pub fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.into_iter().map(str::to_owned));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Prints text with a newline. A reader that went away (`| head`) is no error.
pub fn say(text: &str) {
    let mut out = anstream::AutoStream::auto(std::io::stdout());
    let lines = text.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>();
    let _ = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
}

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    say(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Runs a command that asks the API, and turns its error into words and a code.
pub fn finish(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(command));
    result.unwrap_or_else(|error| {
        let mut out = anstream::AutoStream::auto(std::io::stderr());
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(out, "pillion: {error:#}");
        ExitCode::from(code(&error))
    })
}

/// The exit code of an error. A stranger's answer says nothing of the mesh, either.
pub fn code(error: &anyhow::Error) -> u8 {
    match () {
        () if error.is::<ApiError>() => UNREACHABLE,
        () if error.is::<Misuse>() => MISUSE,
        () => WRONG,
    }
}

/// The command makes no sense as it is given.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);

/// `0 s`, `41 ms`, `12 s`, `3 m`, `5 h`, `2 d`: the one unit that matters.
pub fn rough(time: Duration) -> String {
    let (seconds, ms) = (time.as_secs(), time.as_millis());
    match seconds {
        0 if ms > 0 => format!("{ms} ms"),
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} m", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `1 proxy`, `2 proxies`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_columns_and_blanks() {
        let mut table = table(["A", "LONG"]);
        table.add_row(["value", "x"]);
        let lines: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(lines, ["A      LONG", "value  x"]);
    }

    #[test]
    fn no_answer_of_a_control_plane_has_a_code_of_its_own() {
        let (authority, path) = ("127.0.0.1:1".to_owned(), "/api/v1/proxies".to_owned());
        let refused = ApiError::Refused { authority, path, status: hyper::StatusCode::NOT_FOUND, message: String::new() };
        assert_eq!(code(&refused.into()), UNREACHABLE);
        assert_eq!(code(&anyhow::anyhow!("something else")), WRONG);
    }

    #[test]
    fn times_are_said_in_one_unit() {
        let cases = [(0, "0 s"), (41, "41 ms"), (12_400, "12 s"), (180_000, "3 m"), (18_000_000, "5 h"), (200_000_000, "2 d")];
        for (ms, want) in cases {
            assert_eq!(rough(Duration::from_millis(ms)), want);
        }
    }
}
