//! `registry-bench SECTION HOST:PORT [USER:PASSWORD]`: one section of a benchmark in the shape of zot's, against a registry on this
//! machine.
//!
//! Owns: what each section does, and its figures. Promises: blobs are new to the registry, made and hashed before the clock runs; each answer is
//! checked. Leaves out: starting registries, repeating, tables (run.sh, table.py).
//!
//! | section | |
//! |---|---|
//! | `push-monolithic SIZE`, `push-streamed SIZE` | images of one layer each: layer, config and manifest |
//! | `pull SIZE` | the same, fetched: manifest, config and layer; pushed before the clock runs |
//! | `mixed` | 3 pulls to 1 push (streamed); of both, 6 of 10 are of 1 MB, 3 of 10 MB, 1 of 100 MB |
//!
//! Prints one line of JSON: operations, seconds, bytes, and each operation's milliseconds at the 50th and 99th percentile and at worst.

mod client;
mod payload;

use client::{Client, Error, Image, MANIFEST, Style, Target};
use payload::{Pool, digest_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

type Result<T = ()> = std::result::Result<T, Error>;

const MB: u64 = 1_000_000;
const USAGE: &str = "registry-bench [--connections N] [--count N] SECTION HOST:PORT [USER:PASSWORD]\n\
    SECTION: push-monolithic:SIZE, push-streamed:SIZE, pull:SIZE (SIZE: 1MB, 10MB, 100MB, 1GiB) or mixed";

#[derive(Clone)]
enum Step {
    Push(Image, Style),
    Pull(Image),
}

#[derive(Clone, Copy)]
enum Section {
    Push(Style, u64),
    Pull(u64),
    Mixed,
}

struct Plan {
    section: String,
    target: Target,
    connections: usize,
    count: Option<usize>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result {
    let plan = arguments(std::env::args().skip(1))?;
    let section = plan.section.parse::<Section>()?;
    let steps = prepare(section, &plan).await?;
    let bytes: u64 = steps.iter().map(|step| step.image().layer.size).sum();
    let started = Instant::now();
    let mut times = run(Arc::new(steps), &plan).await?;
    let seconds = started.elapsed().as_secs_f64();
    times.sort();
    println!(
        "{{\"section\":\"{}\",\"connections\":{},\"operations\":{},\"seconds\":{seconds:.4},\"bytes\":{bytes},\
         \"p50_ms\":{:.3},\"p99_ms\":{:.3},\"worst_ms\":{:.3}}}",
        plan.section,
        plan.connections,
        times.len(),
        at_percentile(&times, 50),
        at_percentile(&times, 99),
        at_percentile(&times, 100),
    );
    Ok(())
}

fn arguments(args: impl Iterator<Item = String>) -> Result<Plan> {
    let (mut connections, mut count, mut rest) = (4, None, Vec::new());
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--connections" => connections = args.next().ok_or(USAGE)?.parse()?,
            "--count" => count = Some(args.next().ok_or(USAGE)?.parse()?),
            _ => rest.push(arg),
        }
    }
    let (section, address, credentials) = match rest.as_slice() {
        [section, address] => (section, address, None),
        [section, address, credentials] => (section, address, Some(credentials.as_str())),
        _ => return Err(USAGE.into()),
    };
    if connections == 0 || connections > 64 || count.is_some_and(|count| count == 0 || count > 10_000) {
        return Err("1 to 64 connections, 1 to 10,000 operations".into());
    }
    Ok(Plan { section: section.clone(), target: Target::new(address, credentials)?, connections, count })
}

impl std::str::FromStr for Section {
    type Err = Error;

    fn from_str(text: &str) -> Result<Section> {
        let (kind, size) = text.split_once(':').unwrap_or((text, ""));
        let bytes = || match size {
            "1MB" => Ok(MB),
            "10MB" => Ok(10 * MB),
            "100MB" => Ok(100 * MB),
            "1GiB" => Ok(1 << 30),
            _ => Err(USAGE),
        };
        Ok(match kind {
            "push-monolithic" => Section::Push(Style::Monolithic, bytes()?),
            "push-streamed" => Section::Push(Style::Streamed, bytes()?),
            "pull" => Section::Pull(bytes()?),
            "mixed" => Section::Mixed,
            _ => return Err(USAGE.into()),
        })
    }
}

impl Step {
    fn image(&self) -> &Image {
        match self {
            Step::Push(image, _) | Step::Pull(image) => image,
        }
    }
}

/// So many that the smallest section takes seconds and the largest stays within a few gigabytes.
fn usual_count(size: u64) -> usize {
    [(MB, 600), (10 * MB, 150), (100 * MB, 24)].iter().find(|(most, _)| size <= *most).map_or(4, |(_, count)| *count)
}

/// Makes what is needed, and pushes what will be pulled.
async fn prepare(section: Section, plan: &Plan) -> Result<Vec<Step>> {
    let pool = Pool::new();
    // Of no earlier run against the same registry.
    let run = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
    let image = |number: usize, size: u64| image(&pool, run.wrapping_add(number as u64), size);
    let count = |size| plan.count.unwrap_or(usual_count(size));
    let (pushed, steps): (Vec<Image>, Vec<Step>) = match section {
        Section::Push(style, size) => {
            (Vec::new(), (0..count(size)).map(|n| Step::Push(image(n, size), style)).collect())
        }
        Section::Pull(size) => {
            // Each is pulled three times: one that was just written is not the only kind there is.
            let images: Vec<Image> = (0..count(size).div_ceil(3)).map(|n| image(n, size)).collect();
            let steps = images.iter().cycle().take(count(size)).cloned().map(Step::Pull).collect();
            (images, steps)
        }
        Section::Mixed => {
            let size_of = |n: usize| [1, 10, 1, 1, 10, 1, 100, 1, 10, 1][n % 10] * MB;
            let images: Vec<Image> = (0..20).map(|n| image(n, size_of(n))).collect();
            let steps = (0..plan.count.unwrap_or(320)).map(|n| match n % 4 {
                1 => Step::Push(image(1000 + n, size_of(n / 4)), Style::Streamed),
                _ => Step::Pull(images[(n * 7) % images.len()].clone()),
            });
            let steps = steps.collect();
            (images, steps)
        }
    };
    let mut client = Client::new(plan.target.clone());
    for image in &pushed {
        client.push("bench/images", image, Style::Monolithic).await?;
    }
    Ok(steps)
}

fn image(pool: &Pool, number: u64, size: u64) -> Image {
    let layer = pool.blob(number, size);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","number":{number},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        layer.digest
    );
    let config_digest = digest_of(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{size}}}]}}"#,
        config.len(),
        layer.digest
    );
    Image { layer, config: config.into(), config_digest, manifest: manifest.into(), tag: format!("image-{number}") }
}

/// All steps, by so many connections, each taking the next one; gives how long each took.
async fn run(steps: Arc<Vec<Step>>, plan: &Plan) -> Result<Vec<Duration>> {
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..plan.connections)
        .map(|_| {
            let (steps, next, mut client) = (Arc::clone(&steps), Arc::clone(&next), Client::new(plan.target.clone()));
            tokio::spawn(async move {
                let mut times = Vec::new();
                while let Some(step) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    match step {
                        Step::Push(image, style) => client.push("bench/images", image, *style).await?,
                        Step::Pull(image) => client.pull("bench/images", image).await?,
                    }
                    times.push(started.elapsed());
                }
                Ok::<_, Error>(times)
            })
        })
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await??);
    }
    Ok(all)
}

/// The nearest-rank percentile, in milliseconds.
fn at_percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
