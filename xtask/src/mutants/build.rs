//! Copies of the checkout, and what the compiler says of them.
//!
//! Owns: the copies, and telling whose mutant an error belongs to. Promises: the sources are never touched; only a mutant in
//! whose own text an edit was refused, alone in its function, counts as one that does not compile. Leaves out: running (`trial`).

use super::list::Mutant;
use super::rewrite::{self, edited};
use super::trial::Verdict;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the copy reads to know which mutant it is, 0 for none; and a file to which it adds each mutant that it comes by.
pub(crate) const CHOSEN: &str = "SECUREREG_MUTANT";
pub(crate) const REACHED: &str = "SECUREREG_MUTANTS_REACHED";

/// Seconds for a build: it takes one or two minutes.
const LIMIT: &str = "900";

/// Goes to the end of src/lib.rs.
const CHOOSER: &str = r#"
/// Whether this mutant is the one that was chosen.
pub(crate) fn mutant(number: u32) -> bool {
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::sync::{LazyLock, Mutex};
    static CHOSEN: LazyLock<u32> =
        LazyLock::new(|| std::env::var("SECUREREG_MUTANT").map_or(0, |n| n.parse().expect("a number")));
    static REACHED: LazyLock<Option<Mutex<(std::fs::File, BTreeSet<u32>)>>> = LazyLock::new(|| {
        let file = std::fs::File::create(std::env::var_os("SECUREREG_MUTANTS_REACHED")?).expect("a file");
        Some(Mutex::new((file, BTreeSet::new())))
    });
    if let Some(reached) = &*REACHED {
        let mut reached = reached.lock().expect("nothing panics with it");
        if reached.1.insert(number) {
            writeln!(reached.0, "{number}").expect("a line");
        }
    }
    *CHOSEN == number
}
"#;

/// A copy of the checkout, to be changed and built.
pub(crate) struct Copy {
    dir: PathBuf,
    target: PathBuf,
    under: Vec<String>,
    /// The files of the copy that differ from the sources.
    changed: BTreeSet<String>,
}

/// What the compiler made of a copy.
pub(crate) enum Built {
    /// The program with the tests, if it was asked for.
    Good(Option<PathBuf>),
    Failed(Vec<Fault>),
    /// It was ended: a constant of it may be computed for ever.
    Endless,
}

/// An error: the places that it names, its own first, and its words.
pub(crate) struct Fault {
    places: Vec<(String, Range<usize>)>,
    words: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Do the types agree?
    Check,
    /// The program.
    Tests,
}

impl Copy {
    /// Copies what git knows of the checkout, and what it would know.
    pub(crate) fn of(
        root: &Path,
        sources: &BTreeMap<String, String>,
        dir: PathBuf,
        target: PathBuf,
        under: &[String],
    ) -> Result<Copy, String> {
        let listed =
            Command::new("git").args(["ls-files", "-z", "-co", "--exclude-standard"]).current_dir(root).output();
        let listed = listed.map_err(|e| format!("git: {e}"))?.stdout;
        let copy = Copy { dir, target, under: under.to_vec(), changed: sources.keys().cloned().collect() };
        for name in String::from_utf8_lossy(&listed).split_terminator('\0') {
            let from = root.join(name);
            // Deleted, or a link: nothing that the tests of the library need. The sources follow when it is known what they
            // are to say, so that an earlier build may serve.
            if from.is_file() && !sources.contains_key(name) {
                copy.put(name, &fs::read(&from).map_err(|e| format!("{name}: {e}"))?)?;
            }
        }
        Ok(copy)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file, unless it says so already: cargo goes by the time.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let path = self.dir.join(name);
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, bytes))
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Makes these files differ from the sources, and no others.
    fn change(&mut self, sources: &BTreeMap<String, String>, files: &BTreeMap<String, String>) -> Result<(), String> {
        for name in self.changed.iter().filter(|name| !files.contains_key(*name)) {
            self.put(name, sources[name].as_bytes())?;
        }
        for (name, text) in files {
            self.put(name, text.as_bytes())?;
        }
        self.changed = files.keys().cloned().collect();
        Ok(())
    }

    /// Builds the tests of the library, or asks whether they would compile.
    fn build(&self, ask: Ask) -> Result<Built, String> {
        let verb: &[&str] = if ask == Ask::Check { &["check", "--profile", "test"] } else { &["test", "--no-run"] };
        let mut command = under(&self.under, "timeout");
        command.args(["-k", "10", LIMIT, "cargo"]).args(verb).args([
            "--locked",
            "--package",
            "securereg",
            "--lib",
            "--message-format",
            "json",
        ]);
        command.current_dir(&self.dir).env("CARGO_TARGET_DIR", &self.target).env("RUSTFLAGS", "--cap-lints warn");
        let out = command.output().map_err(|e| format!("cargo: {e}"))?;
        let (mut faults, mut program) = (Vec::new(), None);
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
            if message["reason"] == "compiler-message" && message["message"]["level"] == "error" {
                faults.extend(fault(&message["message"]));
            }
            if let (Some(path), Some("securereg")) =
                (message["executable"].as_str(), message["target"]["name"].as_str())
            {
                program = Some(PathBuf::from(path));
            }
        }
        match out.status.success() {
            true => Ok(Built::Good(program)),
            false if out.status.code() == Some(124) => Ok(Built::Endless),
            false if faults.is_empty() => Err(format!("cargo failed: {}", String::from_utf8_lossy(&out.stderr))),
            false => Ok(Built::Failed(faults)),
        }
    }

    /// The program of the tests with one mutant by an edit of the text, or why there is none.
    pub(crate) fn with(
        &mut self,
        sources: &BTreeMap<String, String>,
        mutant: &Mutant,
    ) -> Result<Result<PathBuf, Verdict>, String> {
        let text = edited(&sources[&mutant.file], mutant);
        self.change(sources, &BTreeMap::from([(mutant.file.clone(), text)]))?;
        match self.build(Ask::Tests)? {
            Built::Good(program) => program.map(Ok).ok_or_else(|| "cargo named no program".to_owned()),
            Built::Failed(_) => Ok(Err(Verdict::Uncompilable)),
            Built::Endless => Ok(Err(Verdict::TimedOut)),
        }
    }
}

/// A program, run by another one that waits or makes room for it.
pub(crate) fn under(words: &[String], program: impl AsRef<OsStr>) -> Command {
    let Some((first, rest)) = words.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// The places that an error names; none if it only says that there were others.
fn fault(message: &Value) -> Option<Fault> {
    let mut places = Vec::new();
    let parts = std::iter::once(message).chain(message["children"].as_array().into_iter().flatten());
    for span in parts.flat_map(|part| part["spans"].as_array().into_iter().flatten()) {
        let mut span = span;
        while span.is_object() {
            let end = |key: &str| span[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let place = (span["file_name"].as_str().unwrap_or_default().to_owned(), end("byte_start")..end("byte_end"));
            if span["is_primary"] == true {
                places.insert(0, place)
            } else {
                places.push(place)
            }
            span = &span["expansion"]["span"];
        }
    }
    let words = message["rendered"].as_str().unwrap_or_default().to_owned();
    (!places.is_empty()).then_some(Fault { places, words })
}

/// Files of a copy with the places in them that belong to mutants.
type Regions = BTreeMap<String, rewrite::Regions>;

/// The mutants of the smallest region in which a place of the error lies; the first place that lies in one decides.
fn owners<'a>(fault: &Fault, regions: &'a Regions) -> Option<&'a [u32]> {
    fault.places.iter().find_map(|(file, place)| {
        let around = regions.get(file)?.iter().filter(|(r, _)| r.start <= place.start && place.end <= r.end);
        around.min_by_key(|(r, _)| r.len()).map(|(_, numbers)| numbers.as_slice())
    })
}

/// Puts all mutants into the copy, but for those in `left`, and builds it. Those that can't be there are handed back: they have no such form, or it
/// does not compile (a constant, a function that gives `impl Trait`), whether or not they themselves would.
pub(crate) fn all_at_once(
    copy: &mut Copy,
    sources: &BTreeMap<String, String>,
    mutants: &[Mutant],
    mut left: BTreeSet<u32>,
) -> Result<(PathBuf, BTreeSet<u32>), String> {
    let mut ask = Ask::Check;
    loop {
        let mut files = BTreeMap::from([("src/lib.rs".to_owned(), format!("{}{CHOOSER}", sources["src/lib.rs"]))]);
        let mut regions = Regions::new();
        for (name, source) in sources {
            let here: Vec<&Mutant> = mutants.iter().filter(|m| m.file == *name && !left.contains(&m.number)).collect();
            if !here.is_empty() {
                let made = rewrite::rewrite(source, &here).map_err(|e| format!("{name}: {e}"))?;
                left.extend(made.left);
                files.insert(name.clone(), made.text);
                regions.insert(name.clone(), made.regions);
            }
        }
        copy.change(sources, &files)?;
        match copy.build(ask)? {
            Built::Good(Some(program)) => return Ok((program, left)),
            Built::Good(None) => ask = Ask::Tests,
            Built::Endless => return Err("the build of all did not end".to_owned()),
            Built::Failed(faults) => {
                let before = left.len();
                left.extend(faults.iter().filter_map(|f| owners(f, &regions)).flatten());
                eprintln!(
                    "{} of {} are not built with the others, for {} errors",
                    left.len(),
                    mutants.len(),
                    faults.len()
                );
                if left.len() == before {
                    return Err(format!("an error that is no mutant's:\n{}", faults[0].words));
                }
            }
        }
    }
}

/// From how many answers on another question in one go is cheaper than a build each.
const WORTHWHILE: usize = 10;

/// Mutants that do not compile as edits of the text. Many are asked about in one go, but only one a function. Not all are
/// found: what the compiler does not say of many it says of one, when that is built.
pub(crate) fn uncompilable(
    copy: &mut Copy,
    sources: &BTreeMap<String, String>,
    mutants: &[&Mutant],
) -> Result<BTreeSet<u32>, String> {
    let (mut pending, mut bad) = (mutants.to_vec(), BTreeSet::new());
    while !pending.is_empty() {
        let mut taken: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
        for mutant in &pending {
            let area = |m: &Mutant| m.function.clone().unwrap_or(m.span.clone());
            let there = taken.entry(&mutant.file).or_default();
            if there.iter().all(|m| area(m).end <= area(mutant).start || area(mutant).end <= area(m).start) {
                there.push(mutant);
            }
        }
        let (mut files, mut regions) = (BTreeMap::new(), Regions::new());
        for (name, there) in &mut taken {
            there.sort_by_key(|m| m.span.start);
            let (mut text, mut done) = (String::new(), 0);
            let mut places = Vec::new();
            // Where in the file that is written something stands which stood here.
            let mut moved = Vec::new();
            for mutant in there.iter() {
                text += &sources[*name][done..mutant.span.start];
                let from = text.len();
                text += &format!(" {} ", mutant.replacement);
                done = mutant.span.end;
                moved.push((mutant, from..text.len()));
            }
            text += &sources[*name][done..];
            for (mutant, own) in moved {
                let area = mutant.function.clone().unwrap_or(mutant.span.clone());
                let (before, after) = (mutant.span.start - area.start, area.end - mutant.span.end);
                // Only this mutant's edit lies in the area.
                places.push((own.start - before..own.end + after, vec![mutant.number]));
            }
            files.insert((*name).to_owned(), text);
            regions.insert((*name).to_owned(), places);
        }
        copy.change(sources, &files)?;
        let found: BTreeSet<u32> = match copy.build(Ask::Check)? {
            Built::Good(_) => break,
            Built::Endless => return Err("a check did not end".to_owned()),
            Built::Failed(faults) => faults.iter().filter_map(|f| owners(f, &regions)).flatten().copied().collect(),
        };
        pending.retain(|m| !found.contains(&m.number));
        bad.extend(&found);
        eprintln!("{} do not compile, {} to be asked", bad.len(), pending.len());
        if found.len() < WORTHWHILE {
            break;
        }
    }
    Ok(bad)
}
