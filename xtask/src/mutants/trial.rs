//! Running the tests against a mutant.
//!
//! Owns: which tests are run, in which order, and what their end means. Promises: a mutant is tried by every test of
//! [`PARTS`] that comes by it, until one fails; a mutant that no test comes by has survived; what never ends, or eats
//! memory, is ended. Leaves out: tests of other modules.

use super::build::{CHOSEN, REACHED, under};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The tests that are run.
pub(crate) const PARTS: [&str; 2] = ["format::", "policy::"];
/// Address space of one process, in KiB: far over what the tests take.
const MEMORY: u64 = 6 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Caught,
    Survived,
    /// It did not end in ten times the usual time and some seconds.
    TimedOut,
    /// The edited source does not compile.
    Uncompilable,
}

/// The tests that are meant: first the quick ones are tried with all mutants, then the slow ones with those that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Quick,
    Slow,
}

/// From how many seconds on a test is a slow one.
const SLOW: f64 = 0.5;

/// A program with tests, and what is known of them.
pub(crate) struct Tests {
    pub(crate) program: PathBuf,
    dir: PathBuf,
    under: Vec<String>,
    all: Vec<Test>,
}

#[derive(Clone)]
struct Test {
    name: String,
    seconds: f64,
    /// The mutants that it comes by; of a program that can't tell, nothing is known.
    reached: Option<BTreeSet<u32>>,
}

impl Tests {
    /// Runs each test by itself without a mutant, twice: how long it takes, and which mutants it comes by.
    pub(crate) fn survey(program: &Path, dir: &Path, scratch: &Path, under: &[String]) -> Result<Tests, String> {
        let listed = super::build::under(under, program).args(PARTS).args(["--list", "--format", "terse"]).output();
        let listed = listed.map_err(|e| format!("the tests: {e}"))?.stdout;
        let names: Vec<String> = String::from_utf8_lossy(&listed)
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            // Named `..::format::..` elsewhere.
            .filter(|name| PARTS.iter().any(|part| name.starts_with(part)))
            .map(str::to_owned)
            .collect();
        // Its own copy: another build may replace it.
        let own = scratch.join("tests");
        fs::copy(program, &own).map_err(|e| format!("the tests: {e}"))?;
        let mut tests = Tests { program: own, dir: dir.to_owned(), under: under.to_vec(), all: Vec::new() };
        let names = Mutex::new(names.into_iter().enumerate());
        let look = || -> Result<Vec<Test>, String> {
            let mut seen = Vec::new();
            while let Some((i, name)) = names.lock().map_err(|e| e.to_string())?.next() {
                seen.push(tests.looked_at(name, &scratch.join(format!("reached-{i}")))?);
            }
            Ok(seen)
        };
        let halves = std::thread::scope(|scope| {
            let other = scope.spawn(look);
            [look(), other.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))]
        });
        for half in halves {
            tests.all.extend(half?);
        }
        if tests.all.len() < 100 {
            return Err(format!("only {} tests were found", tests.all.len()));
        }
        Ok(tests)
    }

    /// What is known of a test that has run twice.
    fn looked_at(&self, name: String, file: &Path) -> Result<Test, String> {
        let mut test = Test { name, seconds: 60.0, reached: None };
        for (variable, value) in [(CHOSEN, Path::new("0")), (REACHED, file)] {
            let (end, seconds) = self.process(&[&test], variable, value)?;
            if end != End::Passed {
                return Err(format!("without a mutant, {} ends as {end:?}", test.name));
            }
            if variable == CHOSEN {
                test.seconds = seconds;
            }
        }
        let lines = fs::read_to_string(file).unwrap_or_default();
        let _ = fs::remove_file(file);
        test.reached =
            Some(lines.lines().map(|n| n.parse().map_err(|e| format!("{n}: {e}"))).collect::<Result<_, _>>()?);
        Ok(test)
    }

    /// The same tests in another program, of which nothing is known but how long they take.
    pub(crate) fn of(&self, program: PathBuf, dir: &Path) -> Tests {
        let all = self.all.iter().map(|t| Test { reached: None, ..t.clone() }).collect();
        Tests { program, dir: dir.to_owned(), under: self.under.clone(), all }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.all.iter().map(|t| t.seconds).sum()
    }

    /// How many tests come by each mutant.
    pub(crate) fn reach(&self) -> BTreeMap<u32, usize> {
        let mut reach = BTreeMap::new();
        for number in self.all.iter().flat_map(|t| t.reached.iter().flatten()) {
            *reach.entry(*number).or_insert(0) += 1;
        }
        reach
    }

    /// Tries a mutant: quick tests and those of its own module first, in ever larger heaps, until one fails.
    pub(crate) fn judge(&self, number: u32, file: &str, pace: Pace) -> Result<Verdict, String> {
        let own = module(file);
        let wanted = |t: &&Test| match pace {
            Pace::Quick => t.seconds < SLOW,
            Pace::Slow => t.seconds >= SLOW,
        };
        let comes_by = |t: &&Test| t.reached.as_ref().is_none_or(|reached| reached.contains(&number));
        let mut tests: Vec<&Test> = self.all.iter().filter(wanted).filter(comes_by).collect();
        let cost = |t: &Test| t.seconds + if t.name.starts_with(&own) { 0.0 } else { 0.2 };
        tests.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        let (mut rest, mut budget) = (tests.as_slice(), 0.1);
        while !rest.is_empty() {
            let mut sum = 0.0;
            let fits = |t: &&&Test| {
                sum += t.seconds;
                sum <= budget
            };
            let (heap, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            match self.process(heap, CHOSEN, Path::new(&number.to_string()))?.0 {
                End::Passed => {}
                End::Failed => return Ok(Verdict::Caught),
                End::Endless => return Ok(Verdict::TimedOut),
            }
            (rest, budget) = (later, budget * 4.0);
        }
        Ok(Verdict::Survived)
    }

    /// Some tests, one after the other, in a process that is ended when it takes too much; and how long they say they took.
    fn process(&self, tests: &[&Test], variable: &str, value: &Path) -> Result<(End, f64), String> {
        let usual: f64 = tests.iter().map(|t| t.seconds).sum();
        let seconds = 5 + (usual * 10.0) as u64;
        // Waiting costs no time of the processor: that bound is a wide one.
        let bounds = format!("ulimit -v {MEMORY}; ulimit -t {seconds}; exec timeout -k 1 {} \"$@\"", 60 + seconds * 4);
        let mut command = under(&self.under, "sh");
        command.args(["-c", &bounds, "sh"]).arg(&self.program).args(["-q", "--test-threads", "1", "--exact"]);
        command.args(tests.iter().map(|t| &t.name)).current_dir(&self.dir);
        // The same cases each time: or chance would decide about a mutant.
        command.env(variable, value).env("PROPTEST_RNG_SEED", "1").env("RUST_BACKTRACE", "0");
        let out = command.output().map_err(|e| format!("the tests: {e}"))?;
        let said = String::from_utf8_lossy(&out.stdout);
        if !said.contains(&format!("running {} test", tests.len())) {
            return Err(format!("not the {} tests that were asked for: {out:?}", tests.len()));
        }
        let took = said.rsplit_once("finished in ").and_then(|(_, after)| after.split_once('s'));
        Ok((end(out.status)?, took.and_then(|(n, _)| n.parse().ok()).unwrap_or(0.0)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Endless,
}

/// What an exit means. A shell, `timeout` and what else stands between make 128 + n of a signal.
fn end(status: std::process::ExitStatus) -> Result<End, String> {
    use std::os::unix::process::ExitStatusExt;
    const KILLED: i32 = 9;
    const CPU: i32 = 24;
    let signal = status.signal().or(status.code().and_then(|code| code.checked_sub(128)).filter(|n| *n > 0));
    match (status.code(), signal) {
        (Some(0), _) => Ok(End::Passed),
        // A test that failed.
        (Some(101), _) => Ok(End::Failed),
        (Some(124), _) | (_, Some(KILLED | CPU)) => Ok(End::Endless),
        // Out of memory, out of stack.
        (_, Some(_)) => Ok(End::Failed),
        _ => Err(format!("the tests ended with {status}")),
    }
}

/// The tests of a file's own module: of the second part of its path.
fn module(file: &str) -> String {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').take(2).collect::<Vec<_>>().join("::")
}
