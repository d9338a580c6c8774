//! What the C ABI costs, measured from C by benches/abi.c: reads beside pread(2), sealed memory beside `cat` into a tmpfs and
//! `b3sum`, lookups beside stat(2).

use crate::{Figure, RUNS, make_cold, model_file, quiet, row, table, take_in, timed};
use securereg::Registry;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file that is sealed.
const SEALED_GIB: u64 = 4;
/// Each takes half a minute.
const SEAL_RUNS: usize = 3;
/// The file that is read in pieces.
const READ: u64 = 256 << 20;
const CALLS: &str = "200000";

struct Abi(PathBuf);

impl Abi {
    fn build(dir: &Path) -> Abi {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        // Beside the benchmark itself: cargo builds each kind of a library that something depends on.
        let exe = std::env::current_exe().unwrap();
        let lib =
            exe.ancestors().skip(1).find(|d| d.join("libsecurereg.so").exists()).expect("libsecurereg.so").to_owned();
        let program = dir.join("abi");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-std=gnu11", "-o"]).arg(&program).arg(here.join("benches/abi.c"));
        cc.arg("-I").arg(here.join("include")).arg("-L").arg(&lib).arg("-lsecurereg");
        cc.arg(format!("-Wl,-rpath,{}", lib.display()));
        assert!(cc.status().unwrap().success(), "benches/abi.c needs a C compiler");
        Abi(program)
    }

    fn run(&self, args: &[&str]) -> Vec<f64> {
        let out = Command::new(&self.0).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().lines().map(|l| l.parse().unwrap()).collect()
    }
}

pub(crate) fn measure(dir: &Path) {
    let abi = Abi::build(dir);
    let root = dir.join("abi-root");
    let registry = Registry::open_or_create(&root).unwrap();
    let at = root.to_str().unwrap();
    reads(dir, &abi, &registry, at);
    calls(&abi, at);
    seal(dir, &abi, &registry, at);
}

fn reads(dir: &Path, abi: &Abi, registry: &Registry, root: &str) {
    let source = dir.join("abi-read.gguf");
    model_file(&source, READ, 5);
    let blob = take_in(registry, "read", &source);
    let path = blob.to_str().unwrap();
    table(
        "securereg_read_at of 256 MiB, cached by the kernel, one thread",
        &["", "read_at", "pread(2)", "ratio (throughput)"],
    );
    for (piece, order) in [("1048576", "front"), ("4096", "front"), ("4096", "random")] {
        let (mut ours, mut native) = (Vec::new(), Vec::new());
        quiet(Command::new("cat").arg(&blob));
        for _ in 0..RUNS {
            let seconds = abi.run(&["read", root, "read", path, piece, order]);
            ours.push(READ as f64 / seconds[0] / 1e9);
            native.push(READ as f64 / seconds[1] / 1e9);
        }
        let (ours, native) = (Figure(ours), Figure(native));
        let ratio = format!("{:.2}", ours.median() / native.median());
        row(&[format!("{piece} bytes, {order}"), ours.show("GB/s"), native.show("GB/s"), ratio]);
    }
    std::fs::remove_file(source).unwrap();
}

fn calls(abi: &Abi, root: &str) {
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..RUNS {
        let ns = abi.run(&["lookup", root, "read", CALLS]);
        times.iter_mut().zip(ns).for_each(|(all, ns)| all.push(ns));
    }
    table("Calls", &["", "a call", "ratio to stat(2) (time)"]);
    let [lookup, generation, size, stat] = times.map(Figure);
    for (what, figure) in [
        (
            "securereg_lookup and securereg_model_free (asks the manifest's inode, as every call that needs the catalog)",
            &lookup,
        ),
        ("securereg_generation (the same, without a handle)", &generation),
        ("securereg_file_size (the boundary alone)", &size),
        ("stat(2) on manifest.yaml", &stat),
    ] {
        row(&[what.into(), figure.show("ns"), format!("{:.2}", figure.median() / stat.median())]);
    }
}

fn seal(dir: &Path, abi: &Abi, registry: &Registry, root: &str) {
    let source = dir.join("abi-seal.gguf");
    let len = SEALED_GIB << 30;
    model_file(&source, len, 6);
    let blob = take_in(registry, "seal", &source);
    std::fs::remove_file(source).unwrap();
    let copy = tempfile::Builder::new().prefix("securereg-bench").tempfile_in("/dev/shm").unwrap();
    table(
        &format!("{SEALED_GIB} GiB into sealed memory, verified; medians of {SEAL_RUNS} runs"),
        &["", "securereg_open_sealed", "cat into tmpfs, then b3sum", "ratio (time)"],
    );
    for cache in ["cold", "warm"] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let prepare = || if cache == "cold" { make_cold(&[&blob]) } else { quiet(Command::new("cat").arg(&blob)) };
        for _ in 0..SEAL_RUNS {
            prepare();
            ours.push(abi.run(&["seal", root, "seal"])[0]);
            prepare();
            theirs.push(timed(|| {
                let script = "cat \"$1\" >\"$2\" && b3sum \"$2\"";
                quiet(Command::new("sh").args(["-c", script, "sh"]).arg(&blob).arg(copy.path()));
            }));
            copy.as_file().set_len(0).unwrap();
        }
        let (ours, theirs) = (Figure(ours), Figure(theirs));
        let ratio = format!("{:.2}", ours.median() / theirs.median());
        row(&[cache.into(), ours.show("s"), theirs.show("s"), ratio]);
    }
}
