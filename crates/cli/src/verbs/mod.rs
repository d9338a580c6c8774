//! What each verb does, one file a kind.
//!
//! Owns: the table from verb to function, and what they share. Promises: a verb parses its words, calls the core and prints;
//! it decides nothing about models. Leaves out: the daemons' work (`daemon`).

mod audit;
mod change;
mod daemon;
mod demo;
mod generate;
mod guard;
mod inspect;
mod look;
mod promote;
mod records;
mod remote;
mod sample;
mod sign;
mod upkeep;
mod verify;

pub(crate) use daemon::spawn;

use crate::args::{Cli, ConfigVerb, Verb};
use crate::exit::Code;
use crate::harden;
use crate::out::{Form, Out};
use securereg::{Actor, ModelName, Registry, Result, VerifyReport, VerifyStatus};
use securereg_server::Config;
use std::path::PathBuf;

/// What every verb has at hand.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) out: Out,
    /// `--root`.
    root: Option<PathBuf>,
}

impl Context {
    /// The context of a command line, and its verb.
    pub(crate) fn new(cli: Cli) -> (Context, Verb) {
        let form = if cli.global.json { Form::Json } else { Form::Text };
        (Context { out: Out::new(form), root: cli.global.root }, cli.verb)
    }

    fn form(&self) -> Form {
        self.out.form()
    }

    /// `--root`, else `REGISTRY_DIR`, else this user's.
    fn root(&self) -> PathBuf {
        self.root.clone().or_else(Config::root_from_env).unwrap_or_else(Registry::default_root)
    }

    /// The registry, which must exist.
    fn registry(&self) -> Result<Registry> {
        Registry::open(&self.root())
    }

    /// The registry, to look at only.
    fn registry_read_only(&self) -> Result<Registry> {
        Registry::open_read_only(&self.root())
    }

    /// The registry, made if there is none.
    fn registry_or_new(&self) -> Result<Registry> {
        Registry::open_or_create(&self.root())
    }

    /// This user at the command line, for the audit log.
    fn actor() -> Actor {
        Actor::this_process("cli")
    }
}

/// Runs `verb`. `Ok` says how it went, once everything has been printed.
pub(crate) fn run(context: &mut Context, verb: Verb) -> Result<Code> {
    match verb {
        Verb::Up(args) if args.demo => demo::up(context, args),
        Verb::Up(args) => daemon::up(context, args),
        Verb::Mount(args) => daemon::mount(context, args),
        Verb::Serve(args) => daemon::serve(context, args),
        Verb::Promote(args) => promote::promote(context, args),
        Verb::Push(args) => remote::push(context, args),
        Verb::Pull(args) => remote::pull(context, args),
        Verb::Sign(args) => sign::sign(context, &args),
        Verb::VerifySignature(args) => sign::verify(context, &args),
        Verb::Inspect(args) => inspect::inspect(context, &args),
        Verb::Policy(args) => inspect::policy(context, &args),
        Verb::List(args) if args.blocked => look::list_blocked(context),
        Verb::List(_) => look::list(context),
        Verb::Show(args) => look::show(context, &args.name),
        Verb::Path(args) => look::path(context, &args.name),
        Verb::Verify(args) => verify::verify(context, args),
        Verb::Quarantine(args) => change::quarantine(context, args),
        Verb::Release(args) => change::release(context, args),
        Verb::Delete(args) => change::delete(context, &args.name),
        Verb::Fsck(args) => upkeep::fsck(context, &args),
        Verb::Gc(args) => upkeep::gc(context, &args),
        Verb::Repair(args) => upkeep::repair(context, &args),
        Verb::Audit(args) => audit::audit(context, args),
        Verb::Recover(args) => records::recover(context, args),
        Verb::Key(args) => records::key(context, args.verb),
        Verb::Status => look::status(context),
        Verb::Guard(args) => guard::guard(context, args),
        Verb::Config(args) => match args.verb {
            ConfigVerb::Check { file } => daemon::check_config(context, file.as_deref()),
        },
        Verb::Completions(args) => generate::completions(context, args),
        Verb::Man(args) => generate::man(context, args),
        Verb::Detach(args) => harden::detach(context, &args),
    }
}

fn name(text: &str) -> Result<ModelName> {
    text.parse()
}

/// A verification's result as the API words it, for one line.
fn word(status: VerifyStatus) -> &'static str {
    match status {
        VerifyStatus::Verified => "verified",
        VerifyStatus::Failed => "failed",
        VerifyStatus::Unreadable => "unreadable",
    }
}

/// The code for a verification's result.
fn code(report: &VerifyReport) -> Code {
    match report.status {
        VerifyStatus::Verified => Code::Done,
        VerifyStatus::Failed | VerifyStatus::Unreadable => Code::Unverified,
    }
}
