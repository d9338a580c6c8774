//! Where promotions may take their sources from.
//!
//! Owns: the list of staging folders and how a request's path is found below one of them. Promises: nothing outside the
//! folders is opened, by whatever spelling or link; a path outside is refused without a look at whether it exists.
//! Leaves out: reading the source, and how a link is refused (`securereg::Source::open_beneath`).

use securereg::{Error, ErrorKind, Result, Source};
use std::path::{Component, Path, PathBuf};

/// A path is at most this long, in bytes (PATH_MAX).
pub(crate) const MAX_PATH: usize = 4096;

/// The staging folders, in the order they are searched.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    folders: Vec<PathBuf>,
}

impl Staging {
    pub(crate) fn new(folders: Vec<PathBuf>) -> Self {
        Staging { folders }
    }

    /// The source that `wanted` names: an absolute path below a staging folder, or one relative to the first staging
    /// folder that has it.
    pub(crate) fn open(&self, wanted: &Path) -> Result<Source> {
        for (folder, below) in self.places(wanted)? {
            match Source::open_beneath(&folder, &below) {
                // It may be in the next one; every other failure is final, so that a link in one folder cannot hide
                // behind a file of the same name in another.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!("no staged file {wanted:?}: put it into a staging folder first, and name it relative to that"),
        ))
    }

    /// Folder and path below it, for each place `wanted` may be at; never empty.
    fn places(&self, wanted: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::Refused, format!("source {wanted:?} is refused: {why}")));
        // `..` is refused even where it would stay inside: whoever sends it wants something else.
        if wanted.components().any(|c| matches!(c, Component::ParentDir)) {
            return refuse("it contains '..'");
        }
        let places: Vec<(PathBuf, PathBuf)> = if wanted.is_absolute() {
            let below = |folder: &PathBuf| {
                // The folder may be configured through a link of the administrator's; both spellings name it.
                let real = folder.canonicalize().ok();
                let rest = wanted.strip_prefix(folder).ok().or_else(|| wanted.strip_prefix(real?).ok());
                rest.map(|rest| (folder.clone(), plain(rest)))
            };
            self.folders.iter().filter_map(below).collect()
        } else {
            self.folders.iter().map(|folder| (folder.clone(), plain(wanted))).collect()
        };
        if places.is_empty() {
            return refuse("it is not below a staging folder");
        }
        if places.iter().any(|(_, below)| below.as_os_str().is_empty()) {
            return refuse("it is a staging folder itself");
        }
        Ok(places)
    }
}

/// The path without `.` and doubled slashes.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|c| matches!(c, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_a_staging_folder_are_looked_for() {
        let staging = Staging::new(vec!["/srv/q".into(), "/srv/q2".into()]);
        let places = |p: &str| {
            let all = staging.places(Path::new(p))?;
            Ok::<_, Error>(all.iter().map(|(f, b)| format!("{}|{}", f.display(), b.display())).collect::<Vec<_>>())
        };
        assert_eq!(places("/srv/q/a/b").expect("below"), ["/srv/q|a/b"]);
        assert_eq!(places("/srv/q2//./a").expect("below"), ["/srv/q2|a"]);
        assert_eq!(places("a/./b").expect("relative"), ["/srv/q|a/b", "/srv/q2|a/b"]);
        for bad in [
            "/etc/passwd",
            "/srv/q",
            "/srv/q/",
            "/srv/qq/x",
            "/srv",
            "/",
            "..",
            "../x",
            "a/../b",
            "/srv/q/../x",
            "/srv/q/a/..",
            ".",
            "",
            "./.",
        ] {
            assert_eq!(places(bad).expect_err(bad).kind(), ErrorKind::Refused, "{bad:?}");
        }
    }
}
