//! `cargo xtask mutants`: what tests of src/format and src/policy miss.
//!
//! ```text
//! cargo mutants --list -> all in one copy, chosen by a variable -> survey -> each: tests that come by it -> a verdict
//!                          |  can't be there, but compiles       -> an edit of the text, a build         -> a verdict
//!                          `  does not compile as an edit        -> a verdict
//! ```
//! Owns: the course of it, and the figures. Promises: every mutant of the list ends with one verdict, or the run fails; the
//! sources are not touched. Leaves out: other modules (`.ci/long mutants`), and judging survivors (docs/mutants.md).

mod build;
mod list;
mod rewrite;
#[cfg(test)]
mod tests;
mod trial;

use build::Copy;
use list::{Genre, Mutant};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use trial::{Pace, Tests, Verdict};

/// The files whose mutants are tried.
const FILES: [&str; 3] = ["src/format/**", "src/policy.rs", "src/policy/**"];
/// It is compiled for fuzzing only, so no test comes by it.
const NOT: &str = "src/format/fuzzing.rs";

/// What was asked for.
#[derive(Default)]
struct Options {
    only: Option<BTreeSet<String>>,
    again: usize,
    under: Vec<String>,
    /// Only those that must be built alone.
    alone: bool,
}

/// Tries the mutants, and writes what became of each to `mutants/` in the target folder.
pub(crate) fn run(words: &[&str]) -> ExitCode {
    match parse(words).and_then(|options| whole(&crate::root(), &options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("mutants: {why}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[&str]) -> Result<Options, String> {
    let mut options = Options::default();
    for pair in words.chunks(2) {
        match *pair {
            ["--only", file] => {
                let names = fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
                options.only = Some(names.lines().map(str::to_owned).collect());
            }
            ["--again", count] => options.again = count.parse().map_err(|e| format!("{count}: {e}"))?,
            ["--under", command] => options.under = command.split_whitespace().map(str::to_owned).collect(),
            ["--alone", "only"] => options.alone = true,
            _ => return Err(format!("{pair:?} is no option: see `cargo xtask`")),
        }
    }
    Ok(options)
}

fn whole(root: &Path, options: &Options) -> Result<(), String> {
    let started = std::time::Instant::now();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let scratch = std::path::absolute(target.join("mutants")).map_err(|e| e.to_string())?;
    fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let (mut mutants, sources) = listed(root)?;
    if let Some(only) = &options.only {
        mutants.retain(|m| only.contains(&m.name));
        if mutants.len() < only.len() {
            return Err(format!("only {} of the {} names are in the list", mutants.len(), only.len()));
        }
    }
    let copy = |name: &str| Copy::of(root, &sources, scratch.join(name), scratch.join("target"), &options.under);
    let (mut chosen, mut plain) = (copy("all")?, copy("one")?);
    let mut known = Known::of(&scratch, &sources);
    let known_bad: BTreeSet<u32> = mutants.iter().filter(|m| known.names.contains(&m.name)).map(|m| m.number).collect();
    let (program, left) = build::all_at_once(&mut chosen, &sources, &mutants, known_bad.clone())?;
    if options.alone {
        mutants.retain(|m| left.contains(&m.number));
    }
    let of_left: Vec<&Mutant> = mutants.iter().filter(|m| left.contains(&m.number)).collect();
    let bad = match known_bad.is_empty() {
        true => build::uncompilable(&mut plain, &sources, &of_left)?,
        false => known_bad,
    };
    known.keep(&mutants, bad.iter().copied())?;
    let tests = Tests::survey(&program, chosen.dir(), &scratch, &options.under)?;
    eprintln!(
        "{} mutants: {} do not compile, {} are built one at a time; {} tests, {:.0} s; no test comes by {}",
        mutants.len(),
        bad.len(),
        left.len() - bad.len(),
        tests.len(),
        tests.seconds(),
        mutants.len().saturating_sub(left.len() + tests.reach().len()),
    );

    let verdicts = Verdicts::begin(&scratch.join("verdicts"))?;
    for number in &bad {
        verdicts.add(&mutants, *number, Verdict::Uncompilable)?;
    }
    // Two at a time. What must be built is tried beside the slow tests.
    let queue = |of: Vec<_>| Mutex::new(of.into_iter());
    let together = queue(mutants.iter().filter(|m| !left.contains(&m.number)).collect());
    let alone = of_left.iter().copied().filter(|m| !bad.contains(&m.number)).collect();
    let passed = Mutex::new(Vec::new());
    let try_quick = || -> Result<(), String> {
        while let Some(mutant) = next(&together)? {
            match tests.judge(mutant.number, &mutant.file, Pace::Quick)? {
                Verdict::Survived => {
                    eprintln!("passes the quick tests: {}", mutant.name);
                    passed.lock().map_err(|e| e.to_string())?.push(mutant);
                }
                verdict => verdicts.add(&mutants, mutant.number, verdict)?,
            }
        }
        Ok(())
    };
    two_threads(try_quick, try_quick)?;
    let passed = queue(passed.into_inner().map_err(|e| e.to_string())?);
    let try_slow = || -> Result<(), String> {
        while let Some(mutant) = next(&passed)? {
            verdicts.add(&mutants, mutant.number, tests.judge(mutant.number, &mutant.file, Pace::Slow)?)?;
        }
        Ok(())
    };
    two_threads(try_slow, || {
        for mutant in Vec::into_iter(alone) {
            verdicts.add(&mutants, mutant.number, edited(&mut plain, &sources, &tests, mutant)?)?;
        }
        try_slow()
    })?;

    let verdicts = verdicts.all(&mutants)?;
    known.keep(&mutants, verdicts.iter().filter(|(_, v)| **v == Verdict::Uncompilable).map(|(number, _)| *number))?;
    report(&scratch, &mutants, &verdicts)?;
    println!("{} s", started.elapsed().as_secs());
    let doubted = again(&mutants, options.again, |m| !left.contains(&m.number));
    for mutant in &doubted {
        let (first, second) = (verdicts[&mutant.number], edited(&mut plain, &sources, &tests, mutant)?);
        println!("again, as an edit: {first:?}, {second:?}: {}", mutant.name);
        if first != second {
            return Err("the two verdicts differ".to_owned());
        }
    }
    Ok(())
}

/// The list, and the text of each file in it and of src/lib.rs.
fn listed(root: &Path) -> Result<(Vec<Mutant>, BTreeMap<String, String>), String> {
    let mut command = Command::new("cargo");
    command.args(["mutants", "--list", "--json", "--package", "securereg"]).current_dir(root);
    command.args(FILES.iter().flat_map(|file| ["--file", file])).args(["--exclude", NOT]);
    let out = command.output().map_err(|e| format!("cargo mutants: {e}"))?;
    if !out.status.success() {
        return Err(format!("cargo mutants: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let json = String::from_utf8_lossy(&out.stdout);
    let mut sources = BTreeMap::new();
    let names: Vec<serde_json::Value> = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    for name in names.iter().filter_map(|m| m["file"].as_str()).chain(["src/lib.rs"]) {
        if !sources.contains_key(name) {
            let text = fs::read_to_string(root.join(name)).map_err(|e| format!("{name}: {e}"))?;
            sources.insert(name.to_owned(), text);
        }
    }
    let mutants = list::parse(&json, &sources)?;
    Ok((mutants, sources))
}

/// The mutants that an earlier run found not to compile, of the very same sources.
struct Known {
    path: PathBuf,
    names: BTreeSet<String>,
}

impl Known {
    fn of(scratch: &Path, sources: &BTreeMap<String, String>) -> Known {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        sources.hash(&mut hasher);
        let path = scratch.join(format!("uncompilable-{:016x}", hasher.finish()));
        let text = fs::read_to_string(&path).unwrap_or_default();
        Known { path, names: text.lines().map(str::to_owned).collect() }
    }

    fn keep(&mut self, mutants: &[Mutant], numbers: impl Iterator<Item = u32>) -> Result<(), String> {
        let numbers: BTreeSet<u32> = numbers.collect();
        self.names.extend(mutants.iter().filter(|m| numbers.contains(&m.number)).map(|m| m.name.clone()));
        let text: String = self.names.iter().map(|name| format!("{name}\n")).collect();
        fs::write(&self.path, text).map_err(|e| format!("{}: {e}", self.path.display()))
    }
}

fn two_threads(
    one: impl FnOnce() -> Result<(), String> + Send,
    here: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        here().and(one.join().map_err(|_| "a thread panicked".to_owned())?)
    })
}

fn next<'a>(queue: &Mutex<std::vec::IntoIter<&'a Mutant>>) -> Result<Option<&'a Mutant>, String> {
    queue.lock().map(|mut queue| queue.next()).map_err(|e| e.to_string())
}

/// The verdict about a mutant as an edit of the text.
fn edited(
    copy: &mut Copy,
    sources: &BTreeMap<String, String>,
    tests: &Tests,
    mutant: &Mutant,
) -> Result<Verdict, String> {
    match copy.with(sources, mutant)? {
        Ok(program) => {
            let tests = tests.of(program, copy.dir());
            match tests.judge(0, &mutant.file, Pace::Quick)? {
                Verdict::Survived => tests.judge(0, &mutant.file, Pace::Slow),
                verdict => Ok(verdict),
            }
        }
        Err(verdict) => Ok(verdict),
    }
}

/// Some of each genre, from all over the list.
fn again(mutants: &[Mutant], count: usize, may: impl Fn(&Mutant) -> bool) -> Vec<&Mutant> {
    let mut genres: BTreeMap<Genre, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants.iter().filter(|m| may(m)) {
        genres.entry(mutant.genre).or_default().push(mutant);
    }
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs() as usize);
    let some = |of: Vec<_>| (0..count.min(of.len())).map(move |i| of[(seed + i * of.len() / count) % of.len()]);
    genres.into_values().flat_map(some).collect()
}

/// What became of each mutant, also in a file that grows.
struct Verdicts(Mutex<(fs::File, BTreeMap<u32, Verdict>)>);

impl Verdicts {
    fn begin(path: &Path) -> Result<Verdicts, String> {
        let file = fs::File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Verdicts(Mutex::new((file, BTreeMap::new()))))
    }

    fn add(&self, mutants: &[Mutant], number: u32, verdict: Verdict) -> Result<(), String> {
        let mut inner = self.0.lock().map_err(|e| e.to_string())?;
        let name = mutants.iter().find(|m| m.number == number).map_or("", |m| &m.name);
        writeln!(inner.0, "{verdict:?}\t{name}").map_err(|e| e.to_string())?;
        match inner.1.insert(number, verdict) {
            None => Ok(()),
            Some(_) => Err(format!("two verdicts about mutant {number}")),
        }
    }

    /// All, if none is missing.
    fn all(self, mutants: &[Mutant]) -> Result<BTreeMap<u32, Verdict>, String> {
        let verdicts = self.0.into_inner().map_err(|e| e.to_string())?.1;
        let missing: Vec<&str> =
            mutants.iter().filter(|m| !verdicts.contains_key(&m.number)).map(|m| m.name.as_str()).collect();
        if missing.is_empty() && verdicts.len() == mutants.len() {
            return Ok(verdicts);
        }
        Err(format!("{} verdicts about {} mutants; none about {missing:?}", verdicts.len(), mutants.len()))
    }
}

const VERDICTS: [Verdict; 4] = [Verdict::Caught, Verdict::Survived, Verdict::TimedOut, Verdict::Uncompilable];

/// The table by module, printed, and a file with the names of the survivors.
fn report(scratch: &Path, mutants: &[Mutant], verdicts: &BTreeMap<u32, Verdict>) -> Result<(), String> {
    let mut modules: BTreeMap<String, [usize; 4]> = BTreeMap::new();
    let mut sum = [0; 4];
    for mutant in mutants {
        let row = modules.entry(module(&mutant.file)).or_default();
        for (i, _) in VERDICTS.iter().enumerate().filter(|(_, v)| **v == verdicts[&mutant.number]) {
            row[i] += 1;
            sum[i] += 1;
        }
    }
    println!("| module | mutants | caught | survived | timed out | did not compile |\n|---|---|---|---|---|---|");
    for (name, row) in modules.iter().map(|(name, row)| (name.as_str(), row)).chain([("all", &sum)]) {
        println!("| {name} | {} | {} | {} | {} | {} |", row.iter().sum::<usize>(), row[0], row[1], row[2], row[3]);
    }
    let survivors = mutants.iter().filter(|m| verdicts[&m.number] == Verdict::Survived);
    let survivors: String = survivors.map(|m| format!("{}\n", m.name)).collect();
    fs::write(scratch.join("survivors"), survivors).map_err(|e| format!("survivors: {e}"))
}

/// A file, or the folder of a format's parts with the file beside it.
fn module(file: &str) -> String {
    let mut parts = file.trim_end_matches(".rs").splitn(4, '/');
    parts
        .by_ref()
        .take(if file.starts_with("src/format/") { 3 } else { 2 })
        .map(|p| format!("{p}/"))
        .collect::<String>()
        .trim_end_matches('/')
        .to_owned()
}
