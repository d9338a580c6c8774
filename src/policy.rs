//! The judge between a candidate and the catalog.
//!
//! Owns: [`Policy`] (which findings refuse, which scanners must have run, who must have signed), [`Evidence`] (what was found, by what), the
//! [`Verdict`], and [`Cleared`], the proof of it. Promises: `Cleared` is made only here, by [`Policy::judge`], from evidence
//! about every file of the candidate; nothing inspected is a refusal, not a pass; no policy can allow what is malformed or
//! runs code when it is loaded. Leaves out: finding the evidence (`format`), writing the catalog (`promote`).
//!
//! A finding's verdict is that of its rule's own line in `rules`, else of the longest line that ends in `.*` and fits, else of
//! its severity. A critical finding is a refusal whatever stands there.

mod kept;
mod sent;
mod signers;
mod text;

pub(crate) use sent::{compare_guard, scanners as sent};
pub(crate) use text::MAX_BYTES;

use crate::artifact::{FileEntry, Format, Layout};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::format::finding::{Finding, Findings, Place, Rule, Severity, rules};
use crate::format::{self, Kind};
use crate::name::{ModelName, RelPath};
use crate::signing::{Over, SignatureFile, Signed, check};
use sent::Sent;
use serde::{Deserialize, Serialize};
pub(crate) use signers::KeyFile;
pub use signers::Signers;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

/// The registry's own inspection, by its name among the scanners.
pub const SCANNER: &str = "format";

/// What follows from a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is kept with the model, nothing more.
    Allow,
    /// The promoter is told.
    Warn,
    /// The model is not promoted.
    Refuse,
}

impl Action {
    /// The action's name in policy.yaml and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Warn => "warn",
            Action::Refuse => "refuse",
        }
    }
}

rules! {
    UNINSPECTED "policy.not-inspected" Critical "a scanner that the policy names has not run: nothing is known of what it would have found"
    SCAN_FAILED "policy.scan-failed" High "a scanner's result, as it was sent along, says that it found something"
    NO_MODEL "policy.no-model" Critical "the candidate holds no model: nothing could be loaded"
    MIXED "policy.mixed-formats" High "the candidate holds models of several formats: which one is loaded depends on who loads it"
    GUARD "policy.guard-mismatch" High "the gguf-guard fingerprint or manifest that was sent along is of another file: what was scanned is not what would be promoted"
    FORMAT "policy.format" Critical "the candidate's format is not one that the policy allows, or not the one that was claimed"
}

/// What is refused, what is told, and what must have run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Scanners that must have run; [`SCANNER`] always is among them.
    scanners: Vec<String>,
    formats: Vec<Format>,
    severities: Severities,
    /// Rule ids, or their beginnings with `*`, and what follows.
    rules: BTreeMap<String, Action>,
    /// Who is trusted to sign which names.
    signers: Vec<Signers>,
    /// The digest of policy.yaml; none of the built-in policy.
    sha256: Option<Sha256Digest>,
}

/// What follows from findings that no line of `rules` speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Severities {
    high: Action,
    warning: Action,
    info: Action,
}

impl Default for Severities {
    fn default() -> Self {
        Severities { high: Action::Refuse, warning: Action::Warn, info: Action::Allow }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy::built_in()
    }
}

/// What was found of a candidate, and by what.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// What each file is, as the registry's own inspection saw it.
    pub(crate) kinds: Vec<(RelPath, Kind)>,
    /// What it found.
    pub(crate) findings: Findings,
    /// The scanners whose results were sent along, each with its version and, of one that found something, its word for it.
    pub(crate) sent: BTreeMap<String, Sent>,
    /// The signature that was found or given: checked by the judge.
    pub(crate) signature: Option<SignatureFile>,
}

/// What the policy says of a candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The worst of all findings' actions.
    pub action: Action,
    /// The digest of the policy that judged, none of the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_sha256: Option<Sha256Digest>,
    /// The scanners that had to run, with their versions.
    pub scanners: BTreeMap<String, String>,
    /// Every finding with what follows from it, the worst first.
    pub findings: Vec<Judged>,
    /// How many more there were than are listed, each of a rule that is.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A finding and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// What follows.
    pub action: Action,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Verdict {
    /// The findings of one action.
    pub fn with_action(&self, action: Action) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |j| j.action == action).map(|j| &j.finding)
    }

    /// In a line, for the audit log: how many of what, and the worst rules by name.
    pub fn summary(&self) -> String {
        let mut ids: Vec<&str> = Vec::new();
        for judged in self.findings.iter().filter(|j| j.action >= Action::Warn) {
            if !ids.contains(&judged.finding.rule) {
                ids.push(judged.finding.rule);
            }
        }
        let policy = self.policy_sha256.map_or_else(|| "built-in".into(), |d| d.to_hex()[..12].to_owned());
        match ids.as_slice() {
            [] => format!("policy {policy}: nothing to object"),
            ids => format!("policy {policy}: {} of {}", self.action.as_str(), ids.join(", ")),
        }
    }

    /// The refusal, as an error that carries the findings; `Ok` when the verdict is none.
    pub fn admit(self) -> Result<Verdict> {
        if self.action < Action::Refuse {
            return Ok(self);
        }
        let refused: Vec<&Finding> = self.with_action(Action::Refuse).collect();
        let mut why = String::new();
        for (n, finding) in refused.iter().take(SAID).enumerate() {
            if n > 0 {
                why.push_str("; ");
            }
            write!(why, "{}: {} [{}]", finding.file, finding.message, finding.rule).expect("a String takes it");
        }
        let more = refused.len().saturating_sub(SAID) as u64 + self.more;
        if more > 0 {
            write!(why, "; and {more} more: `securereg inspect` lists them").expect("a String takes it");
        }
        let findings = self.findings.into_iter().filter(|j| j.action == Action::Refuse).map(|j| j.finding).collect();
        Err(Error::new(ErrorKind::Refused, why).with_findings(findings))
    }
}

/// Findings that an error's message names; all are with it.
const SAID: usize = 3;

/// Proof that policy admitted these very files: only [`Policy::judge`] makes it, only publishing consumes it.
#[derive(Debug)]
pub(crate) struct Cleared {
    files: Vec<FileEntry>,
    format: Format,
    verdict: Verdict,
    signed: Option<Signed>,
}

impl Cleared {
    pub(crate) fn into_parts(self) -> (Vec<FileEntry>, Format) {
        (self.files, self.format)
    }

    /// What it was cleared by.
    pub(crate) fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Who signed it, when somebody did whom the policy trusts with its name.
    pub(crate) fn signed(&self) -> Option<&Signed> {
        self.signed.as_ref()
    }
}

impl Policy {
    /// The policy of a root that has none of its own.
    pub fn built_in() -> Policy {
        Policy {
            scanners: vec![SCANNER.to_owned()],
            formats: vec![Format::Gguf, Format::Safetensors, Format::Pytorch, Format::Onnx],
            severities: Severities::default(),
            rules: BTreeMap::new(),
            signers: Vec::new(),
            sha256: None,
        }
    }

    /// Reads a policy from the text of a policy.yaml that names no file.
    ///
    /// # Errors
    /// `Manifest`, with what is wrong, where, and the nearest word that is known.
    pub fn parse(text: &[u8]) -> Result<Policy> {
        let alone =
            |_: &str| Err(Error::new(ErrorKind::NotFound, "this policy stands alone: write the key into it as PEM"));
        text::parse(text, &alone)
    }

    /// The same of a text that lies in `folder`, where the key files lie that it names.
    ///
    /// # Errors
    /// As [`Policy::parse`].
    pub fn parse_in(folder: &std::path::Path, text: &[u8]) -> Result<Policy> {
        text::parse(text, &|name| signers::read_beside(folder, name))
    }

    /// The same; `key_file` reads what it names.
    pub(crate) fn parse_with(text: &[u8], key_file: &KeyFile<'_>) -> Result<Policy> {
        text::parse(text, key_file)
    }

    /// The digest of the file it was read from; none of the built-in one.
    pub fn sha256(&self) -> Option<&Sha256Digest> {
        self.sha256.as_ref()
    }

    /// The scanners that must have run.
    pub fn scanners(&self) -> &[String] {
        &self.scanners
    }

    /// The formats that may be promoted.
    pub fn formats(&self) -> &[Format] {
        &self.formats
    }

    /// Who is trusted to sign which names.
    pub fn signers(&self) -> &[Signers] {
        &self.signers
    }

    /// What follows from a finding of this rule.
    pub fn action(&self, id: &str, severity: Severity) -> Action {
        if severity == Severity::Critical {
            return Action::Refuse;
        }
        let exact = self.rules.get(id);
        let group = || {
            let fits = self.rules.iter().filter(|(key, _)| key.strip_suffix('*').is_some_and(|p| id.starts_with(p)));
            fits.max_by_key(|(key, _)| key.len()).map(|(_, action)| action)
        };
        exact.or_else(group).copied().unwrap_or(match severity {
            Severity::Critical | Severity::High => self.severities.high,
            Severity::Warning => self.severities.warning,
            Severity::Info => self.severities.info,
        })
    }

    /// What this policy says of findings.
    fn verdict(&self, findings: &Findings, scanners: BTreeMap<String, String>) -> Verdict {
        let judge = |f: &Finding| Judged { action: self.action(f.rule, f.severity), finding: f.clone() };
        let mut judged: Vec<Judged> = findings.list().iter().map(judge).collect();
        judged.sort_by_key(|j| std::cmp::Reverse((j.action, j.finding.severity)));
        let action = judged.first().map_or(Action::Allow, |j| j.action);
        Verdict { action, policy_sha256: self.sha256, scanners, findings: judged, more: findings.dropped() }
    }

    /// Judges a candidate for a name. `claimed` is what the promoter says its format is.
    ///
    /// # Errors
    /// `Refused`, with every finding that refuses.
    pub(crate) fn judge(
        &self,
        name: &ModelName,
        layout: Layout,
        files: Vec<FileEntry>,
        mut evidence: Evidence,
        claimed: Option<Format>,
    ) -> Result<Cleared> {
        let paths: Vec<&RelPath> = files.iter().map(|f| &f.path).collect();
        let signed = paths.first().and_then(|whole| {
            let over = Over { whole, files: Some((layout, &files)) };
            check(&signers::trusted(&self.signers, name), evidence.signature.as_ref(), over, &mut evidence.findings)
        });
        let (format, verdict) = self.look(layout, &paths, &mut evidence, claimed)?;
        let verdict = verdict.admit()?;
        // Without one there was a finding that refused.
        let format = format.ok_or_else(|| Error::new(ErrorKind::Refused, NO_MODEL.summary))?;
        Ok(Cleared { files, format, verdict, signed })
    }

    /// Looks at the candidate as a whole, adding findings of its own to the evidence. Its format where it has one, and what
    /// this policy says of it: a verdict that refuses is no error here.
    pub(crate) fn look(
        &self,
        layout: Layout,
        files: &[&RelPath],
        evidence: &mut Evidence,
        claimed: Option<Format>,
    ) -> Result<(Option<Format>, Verdict)> {
        let whole = *files.first().ok_or_else(|| Error::new(ErrorKind::Refused, "it holds no files"))?;
        let Evidence { kinds, findings, sent, .. } = evidence;
        let mut found =
            |rule: &'static Rule, file: &RelPath, why: String| findings.add(file, rule, Place::whole(), why);
        let inspected: HashSet<&RelPath> = kinds.iter().map(|(path, _)| path).collect();
        for file in files.iter().filter(|file| !inspected.contains(**file)) {
            found(&UNINSPECTED, file, format!("{file} was not inspected"));
        }
        let mut scanners = BTreeMap::new();
        for name in &self.scanners {
            if name == SCANNER {
                scanners.insert(name.clone(), env!("CARGO_PKG_VERSION").to_owned());
                continue;
            }
            match sent.get(name).and_then(|s| s.version.as_ref()) {
                Some(version) => drop(scanners.insert(name.clone(), version.clone())),
                None => found(
                    &UNINSPECTED,
                    whole,
                    format!("the policy wants the scanner {name:?} to have run, and scanner_versions does not name it"),
                ),
            }
        }
        for (name, word) in sent.iter().filter_map(|(name, sent)| Some((name, sent.bad.as_ref()?))) {
            let (name, word) = (crate::digest::shorten(name), crate::digest::shorten(word));
            found(&SCAN_FAILED, whole, format!("the result of the scanner {name:?} is {word:?}"));
        }
        let models = kinds.iter().filter_map(|(path, kind)| match kind {
            Kind::Model(format) => Some((path, *format)),
            Kind::Companion | Kind::Other => None,
        });
        let models: Vec<(&RelPath, Format)> = models.collect();
        let Some((first, format)) = models.first().copied() else {
            // A file that is refused for what it is says more.
            let other = kinds.iter().any(|(_, kind)| *kind == Kind::Other);
            if !other || findings.list().iter().all(|f| self.action(f.rule, f.severity) != Action::Refuse) {
                let why = "it holds no model: no GGUF, safetensors, PyTorch or ONNX file".to_owned();
                findings.add(whole, &NO_MODEL, Place::whole(), why);
            }
            return Ok((None, self.verdict(findings, scanners)));
        };
        if let Some((other, its)) = models.iter().find(|(_, f)| *f != format) {
            let why = format!("it mixes formats: {first} is {}, {other} is {}", format.as_str(), its.as_str());
            found(&MIXED, other, why);
        }
        if layout == Layout::Split && format != Format::Gguf {
            found(&FORMAT, first, format!("a split set must be GGUF, and {first} is {}", format.as_str()));
        }
        if !self.formats.contains(&format) {
            let allowed: Vec<&str> = self.formats.iter().map(|f| f.as_str()).collect();
            let why = format!("{first} is {}, and the policy allows {}", format.as_str(), allowed.join(", "));
            found(&FORMAT, first, why);
        }
        if let Some(claim) = claimed.filter(|claim| *claim != format) {
            let why = format!("it is claimed to be {}, its content is {}", claim.as_str(), format.as_str());
            found(&FORMAT, first, why);
        }
        Ok((Some(format), self.verdict(findings, scanners)))
    }

    /// Refuses what can be refused for these findings alone, before more is read.
    pub(crate) fn admit_so_far(&self, findings: &Findings) -> Result<()> {
        self.verdict(findings, BTreeMap::new()).admit().map(drop)
    }

    /// Refuses what a signature, or the want of one, can be refused for before the files are hashed.
    pub(crate) fn admit_signature(
        &self,
        name: &ModelName,
        whole: &RelPath,
        signature: Option<&SignatureFile>,
    ) -> Result<()> {
        let mut findings = Findings::new();
        check(&signers::trusted(&self.signers, name), signature, Over { whole, files: None }, &mut findings);
        self.admit_so_far(&findings)
    }

    /// Every rule there is, with what this policy makes of it, by id.
    pub fn table(&self) -> Vec<(&'static Rule, Action)> {
        let mut table: Vec<_> = format::rules().map(|rule| (rule, self.action(rule.id, rule.severity))).collect();
        table.sort_by_key(|(rule, _)| rule.id);
        table
    }
}

#[cfg(test)]
mod tests;
