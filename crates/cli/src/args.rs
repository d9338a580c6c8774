//! The words of the command line.
//!
//! Owns: every verb, option and help text. Promises: `--root`, `--json`, `--log` and `--log-format` are taken before or after the verb; text
//! that names models is kept as text here, so that what is wrong with a name is said in one place and one way. Leaves out:
//! what the verbs do (`verbs`), and the exit codes (`exit`), which `--help` prints.

mod upkeep;

pub(crate) use upkeep::{Fsck, Gc, Repair};

use crate::log::LogFormat;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use std::time::Duration;

/// Promotes AI models into a registry and serves them read-only, every byte checked.
#[derive(Debug, Parser)]
#[command(name = "securereg", version, after_help = crate::exit::help(), subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The registry's folder [env: REGISTRY_DIR] [default: /var/lib/secure-ai/registry as root, else
    /// $XDG_DATA_HOME/securereg]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,
    /// Print JSON on standard output (and an error as one line of JSON on standard error)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to log on standard error: a tracing filter such as `info` or `securereg=debug` [env: RUST_LOG]
    /// [default: warn]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How to write the log: lines for people, or a JSON object a line [env: SECUREREG_LOG_FORMAT] [default: text]
    #[arg(long, global = true, value_name = "FORMAT", value_enum, hide_possible_values = true)]
    pub(crate) log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run everything in one process: the registry, the mount and the HTTP API
    Up(Up),
    /// Show promoted models as a read-only, verified folder, until stopped
    Mount(MountArgs),
    /// Serve the HTTP API alone, until stopped
    Serve(Serve),
    /// Copy a model into the registry, hash it, check it and register it
    Promote(Promote),
    /// Publish a promoted model in an OCI registry
    Push(Push),
    /// Fetch a model from an OCI registry, check it and register it
    Pull(Pull),
    /// Sign a file, a folder or a split set with a private key; the registry is not needed
    Sign(Sign),
    /// Say whether a signature of a key is over these very files; the registry is not needed
    VerifySignature(VerifySignature),
    /// Say what a file, a folder or a split set is, what is wrong with it, and whether the policy admits it; changes nothing
    Inspect(Inspect),
    /// Print the policy in force: each rule, and what follows from it; or check a policy file
    Policy(PolicyArgs),
    /// List the models
    List(List),
    /// Show one model in full
    Show(Named),
    /// Print where a live mount shows a model
    Path(Named),
    /// Hash stored models anew and compare with what was promoted; a mismatch quarantines
    Verify(Verify),
    /// Stop serving a model, for a reason
    Quarantine(Quarantine),
    /// Serve a quarantined model again, after a verification that passes; or let the bytes of one that was deleted under an
    /// incident be promoted again
    Release(Release),
    /// Remove a model, and its bytes when no other model holds them; under an incident they stay blocked until a release
    Delete(Named),
    /// Look over the whole registry and say what is wrong in it, and what helps; changes nothing
    Fsck(Fsck),
    /// Remove what nothing refers to: bytes of no model and no repository, and what crashes left behind
    Gc(Gc),
    /// Write the damaged parts of a model anew from another copy of it, each checked, and serve it again
    Repair(Repair),
    /// Print the audit log, or check its chain
    Audit(Audit),
    /// Put right a registry whose records do not hold: says what is wrong and what it would do, and does it when told so
    Recover(Recover),
    /// The key that manifest and audit log are signed with
    Key(Key),
    /// Say how the registry stands
    Status,
    /// Say of a GGUF file what gguf-guard says: its output, its exit codes; the registry is not needed
    Guard(Guard),
    /// Look at the server's settings
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Write the man pages
    #[command(hide = true)]
    Man(Man),
    /// What a daemon starts to unmount for it
    #[command(hide = true)]
    Detach(Detach),
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The model's name, such as `llama-3` or `org/llama-3:v1`
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// List what models that were deleted under an incident left blocked instead
    #[arg(long)]
    pub(crate) blocked: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where to show the models [default: /var/lib/secure-ai/models as root, else $XDG_DATA_HOME/securereg/models]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "no_mount")]
    pub(crate) mount: Option<PathBuf>,
    /// Serve HTTP only
    #[arg(long)]
    pub(crate) no_mount: bool,
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(flatten)]
    pub(crate) http: Http,
    /// Try it out: a temporary registry with a sample model, removed at the end
    #[arg(long, conflicts_with = "immutable")]
    pub(crate) demo: bool,
    #[command(flatten)]
    pub(crate) monitor: Monitor,
}

#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Who may read the mount: owner, group:NAME or all [default: all as root, else owner]
    #[arg(long, value_name = "WHO")]
    pub(crate) allow: Option<String>,
    /// Set the immutable flag on stored files (chattr +i; needs root and ext4, XFS or btrfs)
    #[arg(long)]
    pub(crate) immutable: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Monitor {
    /// From the begin of one pass over every stored byte to that of the next, such as `15m` or `1h`
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = interval)]
    pub(crate) verify_interval: Duration,
    /// Read no faster than so many MiB a second for it [default: as fast as the interval asks for]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..1 << 24))]
    pub(crate) verify_rate: Option<u64>,
}

/// A time for `--verify-interval`: a pass that begins all the time would leave no disk to read from, one a year verifies nothing.
fn interval(text: &str) -> Result<Duration, String> {
    let time: jiff::SignedDuration = text.parse().map_err(|e| format!("{e}; `15m` and `1h 30m` are times"))?;
    let time = Duration::try_from(time).map_err(|_| "it must lie ahead".to_owned())?;
    if (Duration::from_secs(10)..=Duration::from_secs(31 * 24 * 3600)).contains(&time) {
        Ok(time)
    } else {
        Err("it must be from 10s to 31 days".to_owned())
    }
}

#[derive(Debug, Args)]
pub(crate) struct Http {
    /// The settings [env: SECUREREG_CONFIG] [default: registry.yaml in the root, if it is there]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// The address to listen on [env: BIND_ADDR] [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// A further folder that a promotion over HTTP may take its source from (may be repeated)
    #[arg(long, value_name = "DIR", action = ArgAction::Append, value_hint = ValueHint::DirPath)]
    pub(crate) staging: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Say whether `serve` and `up` would take the settings: those of FILE, of SECUREREG_CONFIG, or of registry.yaml in the root, with what
    /// the environment says
    Check {
        /// The settings
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// Where to show the models [default: /var/lib/secure-ai/models as root, else $XDG_DATA_HOME/securereg/models]
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(flatten)]
    pub(crate) monitor: Monitor,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) http: Http,
    #[command(flatten)]
    pub(crate) monitor: Monitor,
}

#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// A model file, a folder (Hugging Face layout), or the first shard of a split GGUF set
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// The name to register it under, such as `llama-3` or `org/llama-3:v1`
    #[arg(long)]
    pub(crate) name: String,
    /// The SHA-256 that it must have (of a folder: that of the sorted `sha256sum` lines)
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    /// The format that it must have: gguf, safetensors, pytorch or onnx [default: what its bytes say]
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Where it came from, for the record
    #[arg(long, default_value = "")]
    pub(crate) source: String,
    /// The file name to show it under in the mount [default: the source's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) filename: Option<String>,
    /// Take the source over instead of copying it, where that is provably safe; it is gone from its place afterwards
    #[arg(long = "move")]
    pub(crate) take: bool,
    /// Its signature [default: model.sig in the folder, FILE.sig beside the file, if it is there]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) signature: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// A model file, a folder, or the first shard of a split GGUF set
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// The private key: PEM, ECDSA (P-256, P-384, P-521) or Ed25519, not encrypted
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key: PathBuf,
    /// Where to write the signature [default: model.sig in the folder, FILE.sig beside the file]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: Option<PathBuf>,
    /// Write over a signature that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifySignature {
    /// A model file, a folder, or the first shard of a split GGUF set
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// The public key: PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key: PathBuf,
    /// The signature [default: model.sig in the folder, FILE.sig beside the file]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) signature: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The model's name here, such as `llama-3` or `org/llama-3:v1`
    pub(crate) name: String,
    /// Where it goes
    #[arg(value_name = "HOST/REPO:TAG")]
    pub(crate) to: String,
    /// Whose media types it is written in
    #[arg(long = "as", value_name = "TYPES", value_enum, default_value_t)]
    pub(crate) types: PushTypes,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum PushTypes {
    /// application/vnd.hanzo.model.v1
    #[default]
    Hanzo,
    /// CNCF ModelPack
    Modelpack,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Where it is: a tag, or a digest after `@`
    #[arg(value_name = "HOST/REPO:TAG")]
    pub(crate) from: String,
    /// The name to register it under [default: REPO:TAG]
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Remote {
    /// Speak HTTP without TLS; to this machine itself that is the default
    #[arg(long, conflicts_with = "ca")]
    pub(crate) plain_http: bool,
    /// Trust these certificates too (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A model file, a folder (Hugging Face layout), or the first shard of a split GGUF set
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// Show every tensor and every key
    #[arg(long)]
    pub(crate) all: bool,
    /// Judge by this policy file [default: policy.yaml in the registry's root, else the built-in policy]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) policy: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// A policy file to check and print [default: policy.yaml in the registry's root, else the built-in policy]
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Verify {
    /// The model's name
    pub(crate) name: Option<String>,
    /// Verify every model
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Quarantine {
    /// The model's name
    pub(crate) name: String,
    /// Why, for the record
    #[arg(long)]
    pub(crate) reason: String,
    /// The incident that asks for it
    #[arg(long, value_name = "ID")]
    pub(crate) incident: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    /// The model's name
    pub(crate) name: String,
    /// Why, for the record
    #[arg(long)]
    pub(crate) reason: String,
    /// Release what deleted models of this name left blocked, also when a model has the name now
    #[arg(long)]
    pub(crate) deleted: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Check the hash chain from the first line to the last instead of printing the log
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print only the last N lines
    #[arg(long, value_name = "N", conflicts_with = "verify")]
    pub(crate) last: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// Take over what a person wrote into manifest.yaml, if every byte that it names is stored and good
    #[arg(long)]
    pub(crate) accept_edit: bool,
    /// Do it without asking
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    pub(crate) verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Make a key in the registry's root; from then on nothing is served that is not signed by it
    New,
    /// Print the public key
    Show,
}

#[derive(Debug, Args)]
pub(crate) struct Guard {
    #[command(subcommand)]
    pub(crate) verb: GuardVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GuardVerb {
    /// Print a structural fingerprint: the hashes of the file and of its tensors' names, shapes and types
    Fingerprint(GuardFile),
    /// Print a manifest: the hash of each tensor's bytes, and a Merkle root over them
    Manifest(GuardFile),
    /// Compare a file with a manifest in everything that the manifest says; ends with 2 when they differ
    VerifyManifest(VerifyManifest),
    /// Print the structural policy and how well known families of models match; ends with 2 on any violation
    Inspect(GuardFile),
}

#[derive(Debug, Args)]
pub(crate) struct GuardFile {
    /// The GGUF file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyManifest {
    /// The GGUF file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The manifest, as `guard manifest` or gguf-guard wrote it
    #[arg(value_name = "MANIFEST", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write one page per verb into this folder [default: print the main page]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Detach {
    /// Where the mount is
    pub(crate) mountpoint: PathBuf,
    /// Its device number
    pub(crate) device: String,
    /// What becomes of the folder
    #[arg(value_parser = ["remove", "leave"])]
    pub(crate) folder: String,
}
