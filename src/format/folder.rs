//! A candidate as a whole: what its files say of each other, and how they lie in the source.
//!
//! Owns: [`check`], over the files as they were described, and [`check_source`], over names and modes. Promises: an index leads
//! only to weights that are there, inside its folder, and that hold what it says; a name means the same on every file system.
//! Time follows the number of files and tensors. Leaves out: finding the files and opening them (`source`), the contents of one
//! file (its own module), shards of GGUF (`gguf`).
//!
//! ```text
//! FOLDER/model.safetensors.index.json     {"metadata": {"total_size": BYTES}, "weight_map": {"TENSOR": "FILE", ...}}
//! FOLDER/model-00001-of-00002.safetensors FILE: its name is below FOLDER, its tensors are those of the map
//! ```
//! Source: `transformers/utils/hub.py` (`get_checkpoint_shard_files`), which joins FILE to FOLDER as it stands.

mod index;
mod source;

use super::finding::{Findings, Place, rules};
use super::{Candidate, Kind};
use crate::artifact::{Format, Layout};
use crate::name::RelPath;
pub(crate) use source::{Entry, check_source};
use std::collections::{BTreeMap, BTreeSet};

rules! {
    INDEX_OUTSIDE "index.outside" Critical "an index names a file outside its folder: a loader would read what is there"
    INDEX_MISSING "index.missing" Critical "an index names a file that is not there"
    INDEX_NO_WEIGHTS "index.not-weights" Critical "an index names a file that is no weights"
    INDEX_FORMAT "index.other-format" High "an index of safetensors names weights of another format, which is loaded with less care"
    INDEX_TENSOR "index.tensor-missing" High "an index places a tensor in a file that does not hold it"
    INDEX_UNLISTED "index.tensor-unlisted" High "a shard holds a tensor that the index does not name"
    INDEX_TWICE "index.tensor-twice" High "a tensor is in two shards: loaders differ in which they take"
    INDEX_SHARD "index.shard-unlisted" High "a shard lies beside the others that the index does not name"
    INDEX_SIZE "index.total-size" Warning "an index's total_size is not the size of its tensors"
    INDEX_DISAGREE "index.disagree" Warning "two indexes in a folder name different tensors: the loader decides which model it is"
    NO_INDEX "folder.no-index" Warning "shards without an index, which loaders need"
    SHADOWED "folder.shadowed" Warning "two sets of weights for one model: the loader decides which it takes"
    ADAPTER_ALONE "folder.adapter-config" Warning "an adapter's configuration without its weights, or the reverse"
    HIDDEN "folder.hidden" High "a hidden file, which no list of the folder shows and which is not promoted"
    HARD_LINK "folder.hard-link" Critical "a file with a second name: it can be changed, or is somebody's secret, under the other"
    SPECIAL "folder.special" Critical "neither a file nor a folder: a link, a pipe, a device or a socket"
    SET_ID "folder.set-id" High "a file that runs with its owner's rights"
    OUTSIDE "folder.outside" Critical "a path that leads out of the folder"
    DEEP "folder.deep" Critical "folders nested deeper than any model's"
    CASE "folder.case" High "two names that differ only by case are one file on some file systems"
    HOSTILE_NAME "folder.hostile-name" High "a name with control or direction characters: people and programs see different names"
    DOUBLE_EXTENSION "folder.double-extension" High "a program whose name makes it look like a model's file"
    ODD_NAME "folder.odd-name" Warning "a name that Windows cannot hold or takes for a device"
    RUNNABLE "folder.executable-bit" Warning "a file that is marked as a program"
    WRITABLE "folder.world-writable" Warning "a file that everybody can change"
}

/// Holds a candidate's files against each other.
pub(crate) fn check(shape: Layout, files: &[Candidate], findings: &mut Findings) {
    index::check_indexes(files, findings);
    if shape == Layout::Folder {
        check_weights(files, findings);
        check_adapters(files, findings);
    }
}

/// The folder that a path lies in; empty at the top.
fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// `stem-00001-of-00002.ext` as its stem and extension.
fn shard(name: &str) -> Option<(&str, &str)> {
    let (rest, extension) = name.rsplit_once('.')?;
    let (rest, of) = rest.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    (digits(of) && digits(number)).then_some((stem, extension))
}

/// Kinds of sets of weights, by stem, extension and whether they are shards: one file of each.
type Kinds<'a> = BTreeMap<(&'a str, &'a str, bool), &'a RelPath>;

/// Weights that a loader could take for each other.
fn check_weights(files: &[Candidate], findings: &mut Findings) {
    // By folder and by what the weights are of: the kinds of sets that there are, each by one file of it.
    let mut sets: BTreeMap<(&str, &str), Kinds<'_>> = BTreeMap::new();
    let indexed: BTreeSet<&str> = files
        .iter()
        .filter(|file| super::companion::is_index(file.path.file_name()))
        .map(|file| folder_of(file.path.as_str()))
        .collect();
    for Candidate { path, description: about, .. } in files {
        if !matches!(about.kind, Kind::Model(format) if format != Format::Gguf) {
            continue;
        }
        let (folder, name) = (folder_of(path.as_str()), path.file_name());
        let whole = name.rsplit_once('.').unwrap_or((name, ""));
        let (stem, extension) = shard(name).unwrap_or(whole);
        let is_shard = shard(name).is_some();
        // Each framework's name for the same model.
        let model =
            if ["pytorch_model", "consolidated", "tf_model", "flax_model"].contains(&stem) { "model" } else { stem };
        sets.entry((folder, model)).or_default().entry((stem, extension, is_shard)).or_insert(path);
        if is_shard && !indexed.contains(folder) {
            let message = format!("{name:?} is one of several shards and no index says which tensor is where");
            findings.add(path, &NO_INDEX, Place::whole(), message);
        }
    }
    for kinds in sets.values() {
        let mut paths = kinds.values();
        let Some(first) = paths.next() else { continue };
        for other in paths {
            let message = format!(
                "{:?} and {:?} are weights for one model: which is loaded depends on the loader",
                first.as_str(),
                other.as_str()
            );
            findings.add(other, &SHADOWED, Place::whole(), message);
        }
    }
}

fn check_adapters(files: &[Candidate], findings: &mut Findings) {
    let is_config = |path: &RelPath| path.file_name() == "adapter_config.json";
    let is_weights =
        |path: &RelPath| path.file_name().rsplit_once('.').is_some_and(|(stem, _)| stem == "adapter_model");
    let folders = |wanted: &dyn Fn(&RelPath) -> bool| -> BTreeSet<&str> {
        files.iter().map(|file| &file.path).filter(|path| wanted(path)).map(|path| folder_of(path.as_str())).collect()
    };
    let (configs, weights) = (folders(&is_config), folders(&is_weights));
    for Candidate { path, .. } in files {
        let folder = folder_of(path.as_str());
        let name = path.file_name();
        if is_config(path) && !weights.contains(folder) {
            findings.add(
                path,
                &ADAPTER_ALONE,
                Place::whole(),
                format!("{name:?} describes an adapter whose weights are not beside it"),
            );
        }
        if is_weights(path) && !configs.contains(folder) {
            findings.add(
                path,
                &ADAPTER_ALONE,
                Place::whole(),
                format!("{name:?} is an adapter and no adapter_config.json says of what"),
            );
        }
    }
}

#[cfg(test)]
mod tests;
