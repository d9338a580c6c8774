//! The figures of docs/benchmarks.md: `cargo bench -p securereg-cli [-- SECTION...]`, sections `open read promote many
//! inspect abi`; the last needs `b3sum`.
//!
//! Each figure stands beside a baseline taken in the same run, the two interleaved, because the disk of a shared machine
//! swings more than the thing measured: medians, the spread (least to most), and the ratio of the medians. Nothing here
//! passes or fails. `SECUREREG_BENCH_GIB` sets the size of the large files (default 2), `SECUREREG_BENCH_DIR` where they lie.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark: what fails ends it")]

mod abi;
mod inspect;
mod model;
#[path = "../tests/support/models.rs"]
mod models;

use model::model_file;
use nix::sys::resource::{UsageWho, getrusage};
use securereg::{Actor, ModelName, PromoteRequest, Registry, Source, Task};
use securereg_fusefs::{Mount, MountOptions};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 7;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wants = |section: &str| asked.is_empty() || asked.iter().any(|a| a == section);
    let top = std::env::var_os("SECUREREG_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix("securereg-bench").tempdir_in(top).unwrap();
    let tools = Tools::build(dir.path());
    println!("{}", machine());
    if wants("promote") {
        promote(dir.path());
    }
    if wants("read") {
        read(dir.path(), &tools);
    }
    if wants("open") {
        open(dir.path(), &tools);
    }
    if wants("many") {
        many(dir.path(), &tools);
    }
    if wants("inspect") {
        inspect::measure(dir.path());
    }
    if wants("abi") {
        abi::measure(dir.path());
    }
}

/// A median and the spread around it.
struct Figure(Vec<f64>);

impl Figure {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * q) as usize]
    }

    fn show(&self, unit: &str) -> String {
        format!("{:.2} {unit} ({:.2} to {:.2})", self.median(), self.quantile(0.0), self.quantile(1.0))
    }
}

fn table(title: &str, columns: &[&str]) {
    println!("\n### {title}\n\n| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
}

fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("?", |l| l.trim_start_matches([' ', '\t', ':']));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Machine: {model}, {cores} cores, Linux {}; medians of {RUNS} interleaved runs (least to most).",
        kernel.trim()
    )
}

struct Tools {
    mapread: PathBuf,
}

impl Tools {
    fn build(dir: &Path) -> Tools {
        let mapread = dir.join("mapread");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/mapread.c");
        let compiled = Command::new("cc").args(["-O2", "-o"]).arg(&mapread).arg(source).status().unwrap();
        assert!(compiled.success(), "benches/mapread.c needs a C compiler");
        Tools { mapread }
    }

    fn run(&self, args: &[&str]) -> Vec<f64> {
        let out = Command::new(&self.mapread).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().lines().map(|l| l.parse().unwrap()).collect()
    }
}

fn gib() -> u64 {
    std::env::var("SECUREREG_BENCH_GIB").ok().and_then(|v| v.parse().ok()).unwrap_or(2)
}

fn me() -> Actor {
    Actor::this_process("library")
}

fn take_in(registry: &Registry, model: &str, path: &Path) -> PathBuf {
    let request = PromoteRequest::new(model.parse().unwrap());
    let promotion = registry.promote(request, Source::open(path).unwrap(), &me(), &Task::unattended()).unwrap();
    registry.root().join("blobs/sha256").join(promotion.artifact.files[0].sha256.to_hex())
}

/// Drops what the kernel has cached of a file, through whatever path.
fn make_cold(paths: &[&Path]) {
    rustix::fs::sync();
    for path in paths {
        let file = File::open(path).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

fn promote(dir: &Path) {
    let len = gib() << 30;
    let path = dir.join("promote.gguf");
    model_file(&path, len, 1);
    let registry = Registry::open_or_create(&dir.join("promote")).unwrap();
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut cpu: [Vec<f64>; 3] = Default::default();
    // What the run before wrote and removed is done with, so that none pays for another.
    let cached = || {
        rustix::fs::sync();
        std::io::copy(&mut File::open(&path).unwrap(), &mut std::io::sink()).unwrap();
    };
    for run in 0..RUNS {
        cached();
        let before = cpu_seconds(UsageWho::RUSAGE_SELF);
        times[0].push(timed(|| take_in(&registry, &format!("m{run}"), &path)));
        cpu[0].push(cpu_seconds(UsageWho::RUSAGE_SELF) - before);
        registry.delete(&format!("m{run}").parse().unwrap(), &me()).unwrap();
        cached();
        let before = cpu_seconds(UsageWho::RUSAGE_CHILDREN);
        times[1].push(timed(|| quiet(Command::new("openssl").args(["dgst", "-sha256"]).arg(&path))));
        cpu[1].push(cpu_seconds(UsageWho::RUSAGE_CHILDREN) - before);
        cached();
        let copy = dir.join("copy");
        let before = cpu_seconds(UsageWho::RUSAGE_CHILDREN);
        times[2].push(timed(|| {
            quiet(Command::new("cp").arg("--reflink=never").arg(&path).arg(&copy));
            File::open(&copy).unwrap().sync_all().unwrap();
        }));
        cpu[2].push(cpu_seconds(UsageWho::RUSAGE_CHILDREN) - before);
        std::fs::remove_file(copy).unwrap();
    }
    let [ours, openssl, cp] = times.map(Figure);
    let [our_cpu, openssl_cpu, cp_cpu] = cpu.map(Figure);
    table(
        &format!("Promotion of {} GiB, source cached, durable", gib()),
        &["", "seconds", "GB/s", "ratio to openssl (time)", "CPU, user and system"],
    );
    for (what, f, cpu) in [
        ("securereg promote (copy, SHA-256 of the file and of each tensor, BLAKE3 tree, fsync)", &ours, our_cpu),
        ("openssl dgst -sha256 (hash only)", &openssl, openssl_cpu),
        ("cp, then fsync", &cp, cp_cpu),
    ] {
        let rate = len as f64 / f.median() / 1e9;
        let ratio = format!("{:.2}", f.median() / openssl.median());
        row(&[what.into(), f.show("s"), format!("{rate:.2}"), ratio, cpu.show("s")]);
    }
    std::fs::remove_file(path).unwrap();
}

fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    drop(work());
    start.elapsed().as_secs_f64()
}

/// What this process, or the children it has waited for, have used of the cores so far.
fn cpu_seconds(who: UsageWho) -> f64 {
    let usage = getrusage(who).unwrap();
    let time = usage.user_time() + usage.system_time();
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

fn quiet(command: &mut Command) {
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
}

fn mounted(registry: &Registry, dir: &Path) -> Mount {
    std::fs::create_dir_all(dir).unwrap();
    Mount::new(registry.clone(), dir, MountOptions::default()).unwrap()
}

fn read(dir: &Path, tools: &Tools) {
    let len = gib() << 30;
    let source = dir.join("read.gguf");
    model_file(&source, len, 2);
    let registry = Registry::open_or_create(&dir.join("read")).unwrap();
    let native = take_in(&registry, "m", &source);
    std::fs::remove_file(&source).unwrap();
    let mount = mounted(&registry, &dir.join("read-mnt"));
    let ours = mount.mountpoint().join("read.gguf");
    table(
        &format!("Reading {} GiB through the mount, beside the same file on the native file system", gib()),
        &["", "mount", "native", "ratio (throughput)"],
    );
    for (what, how, cold) in [
        ("cold, read(2)", "read", true),
        ("cold, mmap", "map", true),
        ("warm, read(2)", "read", false),
        ("warm, mmap", "map", false),
    ] {
        let mut rates: [Vec<f64>; 2] = Default::default();
        for run in 0..=RUNS {
            for (rates, path) in rates.iter_mut().zip([&ours, &native]) {
                if cold {
                    make_cold(&[&ours, &native]);
                }
                let seconds = tools.run(&[how, path.to_str().unwrap()])[0];
                // The first run of each warms up.
                if run > 0 {
                    rates.push(len as f64 / seconds / 1e9);
                }
            }
        }
        let [ours, native] = rates.map(Figure);
        row(&[what.into(), ours.show("GB/s"), native.show("GB/s"), format!("{:.2}", ours.median() / native.median())]);
    }
    make_cold(&[&ours, &native]);
    let [ours, native] = [&ours, &native].map(|path| {
        make_cold(&[path]);
        Figure(tools.run(&["random", path.to_str().unwrap(), "2000"]))
    });
    table("4 KiB at random through a mapping, MADV_RANDOM, cold", &["", "mount", "native"]);
    row(&["p50".into(), format!("{:.0} us", ours.median()), format!("{:.0} us", native.median())]);
    row(&["p99".into(), format!("{:.0} us", ours.quantile(0.99)), format!("{:.0} us", native.quantile(0.99))]);
    mount.unmount().unwrap();
}

fn open(dir: &Path, tools: &Tools) {
    let registry = Registry::open_or_create(&dir.join("open")).unwrap();
    let mut native = Vec::new();
    for (model, len) in [("small", 1 << 20), ("large", 8u64 << 30)] {
        let path = dir.join(format!("{model}.gguf"));
        model_file(&path, len, 3);
        native.push(take_in(&registry, model, &path));
        std::fs::remove_file(path).unwrap();
    }
    let mount = mounted(&registry, &dir.join("open-mnt"));
    let at = |file: &str| mount.mountpoint().join(file).to_str().unwrap().to_owned();
    let (small, large) = (at("small.gguf"), at("large.gguf"));
    let baseline = native[1].to_str().unwrap().to_owned();
    let mut figures: [Vec<f64>; 3] = Default::default();
    for _ in 0..RUNS {
        for (figure, path) in figures.iter_mut().zip([&small, &large, &baseline]) {
            figure.extend(tools.run(&["open", path, "2000"]));
        }
    }
    let [small, large, baseline] = figures.map(Figure);
    table("open(2) and close(2)", &["", "p50", "p99"]);
    for (what, f) in [("mount, 1 MiB", &small), ("mount, 8 GiB", &large), ("native, 8 GiB", &baseline)] {
        row(&[what.into(), format!("{:.2} us", f.median()), format!("{:.2} us", f.quantile(0.99))]);
    }
    mount.unmount().unwrap();
}

/// Writes a manifest of `count` models by hand, in canonical form: promoting them one by one would only measure the disk.
fn write_manifest(root: &Path, count: usize) {
    let digest = |seed: &str| blake3::hash(seed.as_bytes()).to_hex().to_string();
    let generation = std::fs::read_to_string(root.join("manifest.yaml")).unwrap();
    let (head, entry) = generation.split_once("models:\n").unwrap();
    let entry = &entry[..entry.rfind("# end").unwrap()];
    let mut body = format!("{head}models:\n");
    let mut entries: Vec<String> = (0..count)
        .map(|i| {
            let name = format!("org/model-{i:05}");
            format!(
                "- name: \"{name}\"\n  sha256: \"{0}\"\n  layout: \"file\"\n  format: \"gguf\"\n  source: \"bench\"\n  promoted_at: \"2026-01-01T00:00:00Z\"\n  \
                 size_bytes: 1048576\n  files:\n  - path: \"model-{i:05}.gguf\"\n    size_bytes: 1048576\n    sha256: \"{0}\"\n    blake3: \"{1}\"\n",
                digest(&name),
                digest(&format!("b{name}"))
            )
        })
        .collect();
    entries.push(entry.to_owned());
    entries.sort();
    body.extend(entries);
    let generation: u64 = head.lines().find_map(|l| l.strip_prefix("generation: ")).unwrap().parse().unwrap();
    let seal = format!(
        "# end generation={generation} entries={} blake3={}\n",
        count + 1,
        blake3::hash(body.as_bytes()).to_hex()
    );
    std::fs::write(root.join("manifest.yaml"), body + &seal).unwrap();
}

fn many(dir: &Path, tools: &Tools) {
    const COUNT: usize = 10_000;
    let root = dir.join("many");
    let source = dir.join("victim.gguf");
    model_file(&source, 1 << 20, 4);
    take_in(&Registry::open_or_create(&root).unwrap(), "victim", &source);
    write_manifest(&root, COUNT);
    let size = std::fs::metadata(root.join("manifest.yaml")).unwrap().len();
    let mut load: Vec<f64> = (0..RUNS).map(|_| 1e3 * timed(|| Registry::open(&root).unwrap())).collect();
    let registry = Registry::open(&root).unwrap();
    load.push(1e3 * timed(|| Registry::open(&root).unwrap()));
    let list: Vec<f64> =
        (0..RUNS).map(|_| 1e3 * timed(|| serde_json::to_string(&registry.describe_all().unwrap()).unwrap())).collect();
    let mount = mounted(&registry, &dir.join("many-mnt"));
    let native = dir.join("many-native");
    std::fs::create_dir(&native).unwrap();
    for i in 0..COUNT {
        File::create(native.join(format!("model-{i:05}.gguf"))).unwrap();
    }
    let listing = |path: &Path| -> Vec<f64> {
        (0..RUNS).map(|_| 1e3 * timed(|| assert!(std::fs::read_dir(path).unwrap().count() >= COUNT))).collect()
    };
    let (readdir, readdir_native) = (listing(mount.mountpoint()), listing(&native));

    // Another process quarantines; a third one opens the file over and over until it is refused.
    let victim: ModelName = "victim".parse().unwrap();
    let other = Registry::open(&root).unwrap();
    let (mut refused, mut wrote) = (Vec::new(), Vec::new());
    for _ in 0..21 {
        let mut reader = Command::new(&tools.mapread)
            .args(["refused", mount.mountpoint().join("victim.gguf").to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        std::thread::sleep(Duration::from_millis(20));
        let start = monotonic();
        other.quarantine(&victim, "bench", None, &me()).unwrap();
        let written = monotonic();
        let at: f64 = lines.next().unwrap().unwrap().parse().unwrap();
        reader.wait().unwrap();
        wrote.push((written - start) / 1e6);
        refused.push(((at - start) / 1e6).max(0.0));
        other.release(&victim, "bench", &me(), &Task::unattended()).unwrap();
    }
    let [load, list, readdir, readdir_native, refused, wrote] =
        [load, list, readdir, readdir_native, refused, wrote].map(Figure);
    table(&format!("{COUNT} models (manifest of {:.1} MB)", size as f64 / 1e6), &["", "milliseconds"]);
    row(&["open the registry (load and check the manifest)".into(), load.show("ms")]);
    row(&["list all as JSON".into(), list.show("ms")]);
    row(&["readdir, mount".into(), readdir.show("ms")]);
    row(&["readdir, native".into(), readdir_native.show("ms")]);
    row(&["quarantine call, start to durable (21 runs)".into(), wrote.show("ms")]);
    row(&["from that call's start to refusal in another process (21 runs)".into(), refused.show("ms")]);
    mount.unmount().unwrap();
}

fn monotonic() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as f64 * 1e9 + t.tv_nsec as f64
}
