//! `list`, `show`, `path`, `status`: the verbs that change nothing.
//!
//! Owns: how models and the registry are shown. Promises: the JSON of `list` and `show` is that of the HTTP API. Leaves
//! out: the values (`securereg::Registry::describe`).

use super::{Context, name};
use crate::exit::Code;
use crate::text::{self, Cell, Color, Paint, Side, Table};
use securereg::{
    Artifact, Blocked, Catalog, Error, ErrorKind, MonitorState, MountRecord, Registry, Result, VerifyAll, VerifyStatus,
};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn list(context: &mut Context) -> Result<Code> {
    let registry = context.registry()?;
    let catalog = registry.catalog()?;
    let values = match context.form() {
        crate::out::Form::Json => registry.describe_all()?,
        crate::out::Form::Text => Vec::new(),
    };
    let mut table = Table::new(&[
        ("NAME", Side::Left),
        ("STATUS", Side::Left),
        ("SIZE", Side::Right),
        ("FILES", Side::Right),
        ("FORMAT", Side::Left),
        ("SHA256", Side::Left),
        ("PROMOTED", Side::Left),
    ]);
    for artifact in catalog.artifacts() {
        table.row([
            Cell::new(artifact.name.as_str()),
            Cell::painted(artifact.status(), paint(artifact)),
            Cell::new(&text::size(artifact.size_bytes)),
            Cell::new(&artifact.files.len().to_string()),
            Cell::new(artifact.format.as_str()),
            Cell::new(&artifact.sha256.to_string()[..12]),
            Cell::new(&artifact.promoted_at),
        ]);
    }
    context.out.table(&values, &table, catalog.len(), "no models; `securereg promote PATH --name NAME` adds one")?;
    Ok(Code::Done)
}

pub(crate) fn list_blocked(context: &mut Context) -> Result<Code> {
    let catalog = context.registry()?.catalog()?;
    let blocked: Vec<&Blocked> = catalog.blocked().map(Arc::as_ref).collect();
    let mut table = Table::new(&[
        ("NAME", Side::Left),
        ("INCIDENT", Side::Left),
        ("SINCE", Side::Left),
        ("DELETED", Side::Left),
        ("FILES", Side::Right),
        ("REASON", Side::Left),
    ]);
    for one in &blocked {
        table.row([
            Cell::new(one.name.as_str()),
            Cell::new(one.quarantine.incident_id.as_deref().unwrap_or("-")),
            Cell::new(&one.quarantine.at),
            Cell::new(&one.deleted_at),
            Cell::new(&one.weights.len().to_string()),
            Cell::new(&one.quarantine.reason),
        ]);
    }
    context.out.table(&blocked, &table, blocked.len(), "nothing that was deleted is blocked")?;
    Ok(Code::Done)
}

pub(crate) fn show(context: &mut Context, wanted: &str) -> Result<Code> {
    let registry = context.registry()?;
    let artifact = find(&registry, wanted)?;
    let value = registry.describe(&artifact)?;
    context.out.print(&value, |color| sheet(&artifact, &value, color))?;
    Ok(Code::Done)
}

pub(crate) fn path(context: &mut Context, wanted: &str) -> Result<Code> {
    let path = context.registry()?.path(&name(wanted)?)?;
    context.out.print(&json!({ "path": path }), |_| format!("{}\n", text::plain(&path.to_string_lossy())))?;
    Ok(Code::Done)
}

pub(crate) fn status(context: &mut Context) -> Result<Code> {
    let registry = context.registry()?;
    let catalog = registry.catalog()?;
    let (mounts, last) = (registry.mounts()?, registry.last_verify_all()?);
    let monitor = registry.monitor_state()?;
    let count = Count::of(&catalog);
    let shown = mounts.iter().map(mounted).collect::<Result<Vec<_>>>()?;
    let value = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "root": registry.root(),
        "staging": registry.staging(),
        "generation": catalog.generation(),
        "models": catalog.len(),
        "promoted": count.promoted,
        "quarantined": catalog.len() - count.promoted,
        "blocked": catalog.blocked().count(),
        "size_bytes": count.bytes,
        "mounts": shown,
        "last_verify_all": last,
        "last_verify_all_age_seconds": last.as_ref().and_then(VerifyAll::age).map(|age| age.as_secs()),
        "monitor": monitor,
    });
    context.out.print(&value, |color| {
        overview(&registry, &catalog, &count, &mounts, last.as_ref(), monitor.as_ref(), color)
    })?;
    Ok(Code::Done)
}

/// A mount's record, and what the kernel says its process has given up; null where this process may not see it.
fn mounted(record: &MountRecord) -> Result<Value> {
    let mut value = serde_json::to_value(record).map_err(|e| Error::new(ErrorKind::InvalidInput, e.to_string()))?;
    value["hardening"] = json!(securereg_sandbox::Look::at(record.pid));
    Ok(value)
}

struct Count {
    promoted: usize,
    bytes: u64,
}

impl Count {
    fn of(catalog: &Catalog) -> Count {
        Count {
            promoted: catalog.artifacts().filter(|a| a.is_promoted()).count(),
            bytes: catalog.artifacts().fold(0, |sum, a| sum.saturating_add(a.size_bytes)),
        }
    }
}

fn overview(
    registry: &Registry,
    catalog: &Catalog,
    count: &Count,
    mounts: &[MountRecord],
    last: Option<&VerifyAll>,
    monitor: Option<&MonitorState>,
    color: Color,
) -> String {
    let bad = catalog.len() - count.promoted;
    let mut sheet = Sheet::default();
    sheet.line("root", &registry.root().to_string_lossy());
    sheet.line("staging", &registry.staging().to_string_lossy());
    sheet.line("generation", &catalog.generation().to_string());
    sheet.line("models", &format!("{}, {}", catalog.len(), text::size(count.bytes)));
    sheet.line("promoted", &count.promoted.to_string());
    sheet.painted("quarantined", &bad.to_string(), if bad == 0 { Paint::None } else { Paint::Bad }, color);
    let blocked = catalog.blocked().count();
    if blocked > 0 {
        let what = format!("{blocked} deleted under an incident; `securereg list --blocked` names them");
        sheet.painted("blocked", &what, Paint::Bad, color);
    }
    if mounts.is_empty() {
        sheet.line("mounted", "nowhere; `securereg mount DIR` or `securereg up` mounts");
    }
    for mount in mounts {
        sheet
            .line("mounted", &format!("{} (process {}, since {})", mount.mountpoint.display(), mount.pid, mount.since));
    }
    match last {
        None => sheet.line("last verify --all", "never"),
        Some(all) => {
            let failed = all.models.iter().filter(|m| m.status != VerifyStatus::Verified).count();
            let what = format!("{}: {} checked, {failed} not verified", all.verified_at, all.checked);
            sheet.painted("last verify --all", &what, if failed == 0 { Paint::Good } else { Paint::Bad }, color);
        }
    }
    match monitor.filter(|monitor| monitor.alive) {
        None => sheet.painted("monitor", "none; `securereg up`, `serve` and `mount` run one", Paint::Bad, color),
        Some(monitor) => {
            let interval = Duration::from_secs(monitor.interval_seconds);
            let late = last.is_none_or(|all| all.age().is_some_and(|age| age > 2 * interval));
            let pass = match &monitor.pass_began {
                Some(began) => format!(
                    "a pass since {began}, {} of {}",
                    text::size(monitor.pass_done_bytes),
                    text::size(monitor.pass_total_bytes)
                ),
                None if late => "the last full pass is older than it should be".to_owned(),
                None => "no pass under way".to_owned(),
            };
            let what = format!(
                "process {}, every {} s, watching by {}; {pass}",
                monitor.pid, monitor.interval_seconds, monitor.watching
            );
            sheet.painted("monitor", &what, if late { Paint::Bad } else { Paint::Good }, color);
        }
    }
    sheet.text
}

/// The model called `wanted`.
pub(crate) fn find(registry: &Registry, wanted: &str) -> Result<Arc<Artifact>> {
    let name = name(wanted)?;
    let catalog = registry.catalog()?;
    let found = catalog.artifact(&name).map(Arc::clone);
    found.ok_or_else(|| {
        let deleted = match catalog.blocked_as(&name).count() {
            0 => "",
            _ => "; one that was is deleted and blocked, see `securereg list --blocked`",
        };
        let why = format!("no model is called {name}; `securereg list` names them{deleted}");
        Error::new(ErrorKind::NotFound, why).on(&name)
    })
}

pub(crate) fn paint(artifact: &Artifact) -> Paint {
    if artifact.is_promoted() { Paint::Good } else { Paint::Bad }
}

/// `key: value` lines, the values in one column.
#[derive(Default)]
pub(crate) struct Sheet {
    pub(crate) text: String,
}

impl Sheet {
    pub(crate) fn line(&mut self, key: &str, value: &str) {
        self.painted(key, value, Paint::None, Color::Off);
    }

    pub(crate) fn painted(&mut self, key: &str, value: &str, paint: Paint, color: Color) {
        let value = paint.on(&text::plain(value), color);
        writeln!(self.text, "{:18} {value}", format!("{}:", text::plain(key)))
            .expect("writing to a String never fails");
    }
}

/// What the sheet of a model says by itself; whatever else the API tells is appended.
const SAID: [&str; 14] = [
    "name",
    "status",
    "format",
    "size_bytes",
    "sha256",
    "source",
    "promoted_at",
    "files",
    "quarantine_reason",
    "quarantined_at",
    "incident_id",
    "path",
    "mounted",
    "filename",
];

fn sheet(artifact: &Artifact, value: &Value, color: Color) -> String {
    let mut sheet = Sheet::default();
    sheet.line("name", artifact.name.as_str());
    sheet.painted("status", artifact.status(), paint(artifact), color);
    if let Some(quarantine) = &artifact.quarantine {
        let cause = match quarantine.cause {
            securereg::Cause::Integrity => "integrity",
            securereg::Cause::Incident => "incident",
        };
        sheet.line("quarantined", &format!("{} ({cause}): {}", quarantine.at, quarantine.reason));
        if let Some(incident) = &quarantine.incident_id {
            sheet.line("incident", incident);
        }
    }
    sheet.line("format", artifact.format.as_str());
    sheet.line("size", &format!("{} ({} bytes)", text::size(artifact.size_bytes), artifact.size_bytes));
    sheet.line("sha256", &artifact.sha256.to_string());
    if !artifact.source.is_empty() {
        sheet.line("source", &artifact.source);
    }
    sheet.line("promoted", &artifact.promoted_at);
    if let Some(path) = value["path"].as_str() {
        let mounted = value["mounted"].as_bool().unwrap_or(false);
        sheet.line("path", &format!("{path}{}", if mounted { "" } else { " (not mounted now)" }));
    }
    for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| !SAID.contains(&key.as_str())) {
        sheet.line(key, &brief(value));
    }
    let mut table = Table::new(&[("SIZE", Side::Right), ("SHA256", Side::Left), ("FILE", Side::Left)]);
    for file in &artifact.files {
        table.row([
            Cell::new(&text::size(file.size_bytes)),
            Cell::new(&file.sha256.to_string()),
            Cell::new(file.path.as_str()),
        ]);
    }
    sheet.text + "\n" + &table.render(color)
}

/// A value on one line; what is long is left to `--json`.
fn brief(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(200) {
        Some((cut, _)) => format!("{}... (all of it with --json)", &text[..cut]),
        None => text,
    }
}
