//! Text for a person: escaped, aligned, with units.
//!
//! Owns: what untrusted text may do to a terminal (nothing), tables, sizes. Promises: nothing that came from a model, a
//! request or a file system reaches the terminal as a control, a direction mark or an invisible character. Leaves out:
//! where the text goes (`out`).

use std::fmt::Write;

/// Whether `c` could move the cursor, change colours, reorder or hide text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` on one line, with everything a terminal could act on written as an escape.
pub(crate) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// `text` that may keep its line breaks: help and messages of our own which quote words of the user.
pub(crate) fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// JSON text with the characters that [`plain`] escapes as `\uXXXX`. They can only stand inside strings, so the value stays
/// the same.
pub(crate) fn plain_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                write!(safe, "\\u{unit:04x}").expect("writing to a String never fails");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A size in binary units: `17 B`, `1.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut whole = bytes;
    let mut unit = 0;
    let mut rest = 0;
    while whole >= 1024 {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit - 1])
}

/// `word` with the form for `n`: `1 model`, `2 models`.
pub(crate) fn count(n: u64, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// On which side a column's padding goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A cell: its text, which must be [`plain`], and how it is painted.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

/// What a cell or a word says, as a colour; never the only place where it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    None,
    Good,
    Bad,
    Strong,
}

impl Paint {
    /// `text` painted, or as it is when `color` is off.
    pub(crate) fn on(self, text: &str, color: Color) -> String {
        let code = match self {
            Paint::Good => "32",
            Paint::Bad => "1;31",
            Paint::Strong => "1",
            Paint::None => return text.to_owned(),
        };
        match color {
            Color::On => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Color::Off => text.to_owned(),
        }
    }
}

/// Whether to paint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    On,
    Off,
}

impl Cell {
    /// An ordinary cell; `text` is escaped.
    pub(crate) fn new(text: &str) -> Self {
        Cell { text: plain(text), paint: Paint::None }
    }

    /// A cell that says whether all is well.
    pub(crate) fn painted(text: &str, paint: Paint) -> Self {
        Cell { text: plain(text), paint }
    }
}

/// Rows under a heading, each column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&'static str, Side)]) -> Self {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, one cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The whole table, each line ended.
    pub(crate) fn render(&self, color: Color) -> String {
        let heading: Vec<Cell> = self.columns.iter().map(|(name, _)| Cell::painted(name, Paint::Strong)).collect();
        let all = || std::iter::once(&heading).chain(&self.rows);
        let width: Vec<usize> = (0..self.columns.len())
            .map(|i| all().filter_map(|row| row.get(i)).map(|c| c.text.chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in all() {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let gap = if i == 0 { "" } else { "  " };
                let pad = " ".repeat(width[i] - cell.text.chars().count());
                let painted = cell.paint.on(&cell.text, color);
                match self.columns[i].1 {
                    Side::Left => line.extend([gap, &painted, &pad]),
                    Side::Right => line.extend([gap, &pad, &painted]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units_and_never_round_up() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn nothing_a_terminal_acts_on_gets_through() {
        assert_eq!(
            plain("a\u{1b}[31mb\r\n\u{9b}2J\u{202e}x\u{200b}\u{7f}"),
            "a\\u{1b}[31mb\\r\\n\\u{9b}2J\\u{202e}x\\u{200b}\\u{7f}"
        );
        assert_eq!(plain("päivä 模型 ok"), "päivä 模型 ok");
        assert_eq!(plain_lines("a\nb\u{7}"), "a\nb\\u{7}");
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let value = serde_json::json!({"a": "x\u{1b}\u{7f}\u{9b}\u{202e}\u{e0001}é"});
        let text = plain_json(&serde_json::to_string_pretty(&value).expect("serializes"));
        assert!(text.chars().all(|c| c == '\n' || !is_unsafe(c)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("parses"), value);
    }

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let mut table = Table::new(&[("NAME", Side::Left), ("SIZE", Side::Right), ("STATUS", Side::Left)]);
        table.row([Cell::new("a"), Cell::new("1 B"), Cell::painted("promoted", Paint::Good)]);
        table.row([Cell::new("longer"), Cell::new("1023 B"), Cell::painted("quarantined", Paint::Bad)]);
        let want = "NAME      SIZE  STATUS\na          1 B  promoted\nlonger  1023 B  quarantined\n";
        assert_eq!(table.render(Color::Off), want);
        let painted = table.render(Color::On);
        assert!(painted.contains("\u{1b}[32mpromoted\u{1b}[0m"), "{painted}");
    }
}
