//! The words of `fsck`, `gc` and `repair`.
//!
//! Owns: their options and help texts. Promises: a span of time is a number and a unit. Leaves out: what they do (`verbs::upkeep`).

use clap::{ArgAction, Args, ValueHint};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Hash every stored byte too, also of what only repositories hold
    #[arg(long)]
    pub(crate) deep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Only say what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove blobs that were pushed to a repository, too, when none of its manifests has referred to them for so long (an hour at
    /// least), as two runs so far apart have seen
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) unreferenced_after: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// The model's name
    pub(crate) name: String,
    /// Another copy of the model: its file, or a folder in which its files have the same paths (may be repeated; each part is taken
    /// from the first that has it good). Without any, only trees, modes and second links are put right
    #[arg(long, value_name = "PATH", action = ArgAction::Append, value_hint = ValueHint::AnyPath)]
    pub(crate) from: Vec<PathBuf>,
}

/// `90m`, `24h`, `7d`.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no span of time: a number and s, m, h or d are wanted, such as 24h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_of_time_is_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("90m", 5400), ("24h", 86_400), ("7d", 604_800), ("0h", 0)] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "h", "24", "-1h", "1.5h", "24 h", "1y", "99999999999999999999d", "9999999999999999999d", "5ü"]
        {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
