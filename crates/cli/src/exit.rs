//! Exit codes.
//!
//! Owns: the one table from what went wrong to a code, and its text for `--help`, the man page and docs/cli.md. Promises:
//! every kind of error has a code, by an exhaustive match; a code never changes its meaning. Leaves out: the messages.

use securereg::ErrorKind;

/// Why the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Done,
    Failed,
    Refused,
    Unverified,
    Absent,
    Conflict,
    Quarantined,
    Records,
    Usage,
    Cancelled,
}

/// Code, number, meaning, in the order of the help text.
const TABLE: [(Code, u8, &str); 10] = [
    (Code::Done, 0, "done"),
    (Code::Failed, 1, "failed: the system refused, no space left, or not possible here"),
    (Code::Refused, 2, "refused: the model is not what policy admits (junk, a format not allowed, too large)"),
    (Code::Unverified, 3, "not verified: bytes differ from what was promoted or claimed, or cannot be read"),
    (Code::Absent, 4, "not found: no such model, file or registry, or no live mount shows it"),
    (Code::Conflict, 5, "conflict: the name, path or bytes are taken, or the source changed while it was read"),
    (Code::Quarantined, 6, "quarantined: the model is not served"),
    (Code::Records, 7, "the registry's own records (manifest, audit log) do not hold"),
    (Code::Usage, 64, "the command line is wrong"),
    (Code::Cancelled, 130, "cancelled by Ctrl-C or a signal; nothing was changed"),
];

impl Code {
    /// The number the process ends with.
    pub(crate) fn number(self) -> u8 {
        TABLE.iter().find(|row| row.0 == self).map(|row| row.1).expect("every code has a row")
    }

    /// The code for an error of `kind`.
    pub(crate) fn of(kind: ErrorKind) -> Code {
        match kind {
            ErrorKind::InvalidInput => Code::Usage,
            ErrorKind::Refused | ErrorKind::TooLarge => Code::Refused,
            ErrorKind::DigestMismatch | ErrorKind::Corrupt | ErrorKind::Unreadable => Code::Unverified,
            ErrorKind::NotFound | ErrorKind::NotMounted => Code::Absent,
            ErrorKind::Conflict | ErrorKind::SourceChanged => Code::Conflict,
            ErrorKind::Quarantined => Code::Quarantined,
            ErrorKind::Manifest | ErrorKind::Audit => Code::Records,
            ErrorKind::Cancelled => Code::Cancelled,
            ErrorKind::NoSpace
            | ErrorKind::NoMemory
            | ErrorKind::Permission
            | ErrorKind::Unsupported
            | ErrorKind::Io => Code::Failed,
        }
    }
}

/// The table as help text.
pub(crate) fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (_, number, meaning) in TABLE {
        text.push_str(&format!("  {number:>3}  {meaning}\n"));
    }
    text.push_str("\nExamples and the JSON shapes: docs/cli.md");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_ends_with_a_code_of_its_own_row_and_never_with_success() {
        for kind in ErrorKind::ALL {
            assert_ne!(Code::of(kind).number(), 0, "{kind:?}");
        }
        let mut numbers: Vec<u8> = TABLE.iter().map(|row| row.1).collect();
        numbers.dedup();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 64, 130], "a code once given is never reused or moved");
    }

    #[test]
    fn the_document_says_what_the_help_says() {
        let document = include_str!("../../../docs/cli.md");
        for (_, number, meaning) in TABLE {
            assert!(
                document.contains(&format!("| {number} | {meaning} |")),
                "docs/cli.md lacks: | {number} | {meaning} |"
            );
        }
    }
}
