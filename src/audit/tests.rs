//! The log: changed, cut, torn, grown, read from either end.

use super::segments::{LOG, PIECE};
use super::*;
use crate::layout::Access;

fn root() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().expect("a folder");
    let layout = Layout::open(&dir.path().join("r"), Access::Create).expect("a root");
    (dir, layout)
}

fn say(layout: &Layout, why: &str) {
    let event = Event { event: "refuse", phase: "noted", name: "m", why, generation: 1 };
    append(layout, &Actor::new("test", "x"), &[event], |_| {}).expect("appended");
}

#[test]
fn any_change_to_the_log_shows_and_is_named() {
    let (_dir, layout) = root();
    for why in ["one", "two\nline", "three"] {
        say(&layout, why);
    }
    assert_eq!(verify(&layout, None).expect("whole").lines, 3);
    let path = layout.path().join(LOG);
    let good = std::fs::read_to_string(&path).expect("read");
    let lines: Vec<&str> = good.lines().collect();
    assert_eq!(lines.len(), 3, "a newline in a reason stays inside its line");
    for (bad, number) in [
        (good.replace("\"one\"", "\"uno\""), 2),
        (format!("{}\n{}\n", lines[0], lines[2]), 2),
        (format!("{}\n{}\n", lines[1], lines[2]), 1),
        (format!("{}\n{}\n{}\n", lines[0], lines[0], lines[1]), 2),
        (format!("{good}junk\n"), 4),
    ] {
        std::fs::write(&path, bad).expect("written");
        let e = verify(&layout, None).expect_err("changed");
        assert_eq!(e.kind(), ErrorKind::Audit);
        assert!(e.to_string().contains(&format!("line {number} ")), "{e}");
    }
}

#[test]
fn a_log_cut_short_is_known_by_the_line_remembered_apart_from_it() {
    let (_dir, layout) = root();
    let event = |why| Event { event: "refuse", phase: NOTED, name: "m", why, generation: 1 };
    let (events, mut last) = ([event("one"), event("two"), event("three")], None);
    append(&layout, &Actor::new("test", "x"), &events, |anchor| last = Some(anchor.clone())).expect("appended");
    let anchor = last.expect("told of");
    assert_eq!((anchor.seq, verify(&layout, Some(&anchor)).expect("whole").lines), (3, 3));
    let path = layout.path().join(LOG);
    let good = std::fs::read_to_string(&path).expect("read");
    for kept in [0, 1, 2] {
        let cut: String = good.lines().take(kept).map(|l| format!("{l}\n")).collect();
        std::fs::write(&path, cut).expect("written");
        assert_eq!(verify(&layout, Some(&anchor)).expect_err("cut").kind(), ErrorKind::Audit, "{kept} lines kept");
    }
    std::fs::remove_file(&path).expect("removed");
    assert!(verify(&layout, Some(&anchor)).is_err());
}

#[test]
fn a_torn_last_line_is_set_aside_and_the_chain_goes_on() {
    let (_dir, layout) = root();
    say(&layout, "one");
    let path = layout.path().join(LOG);
    let mut torn = std::fs::read(&path).expect("read");
    torn.extend_from_slice(&br#"{"seq":2,"time":"2026"#.repeat(20));
    std::fs::write(&path, torn).expect("written");
    assert_eq!(verify(&layout, None).expect("the torn line was never acknowledged").lines, 1);
    say(&layout, "two");
    assert_eq!(verify(&layout, None).expect("whole again").lines, 2);
    assert_eq!(lines(&layout).expect("read").last().map(|l| l.why.as_str()), Some("two"));
}

/// Blocks reach the disk in any order: of an append the first may be missing, and what follows it be there.
#[test]
fn t06_lines_whose_beginning_never_came_to_the_disk_are_set_aside_and_the_chain_goes_on() {
    let (_dir, layout) = root();
    say(&layout, "one");
    let path = layout.path().join(LOG);
    let good = std::fs::read(&path).expect("read");
    say(&layout, &"y".repeat(2000));
    say(&layout, "three");
    let three = std::fs::read(&path).expect("read");
    for hole in [good.len()..good.len() + 1, good.len()..good.len() + 700, good.len() + 300..good.len() + 2100] {
        let mut torn = three.clone();
        torn[hole].fill(0);
        std::fs::write(&path, torn).expect("written");
        assert_eq!(verify(&layout, None).expect("no torn line was acknowledged").lines, 1);
        say(&layout, "two");
        assert_eq!(verify(&layout, None).expect("whole again").lines, 2);
        assert_eq!(lines(&layout).expect("read").last().map(|l| l.why.as_str()), Some("two"));
    }
}

/// No append is longer than what is looked at for a hole, so one before that was made by another hand.
#[test]
fn zeros_further_back_than_an_append_reaches_are_no_torn_line() {
    let (_dir, layout) = root();
    let long = "y".repeat(2000);
    let events: Vec<Event<'_>> =
        (0..40).map(|_| Event { event: "refuse", phase: NOTED, name: "m", why: &long, generation: 1 }).collect();
    append(&layout, &Actor::new("test", "x"), &events, |_| {}).expect("appended");
    assert_eq!(verify(&layout, None).expect("whole").lines, 40);
    let path = layout.path().join(LOG);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[5000] = 0;
    std::fs::write(&path, bytes).expect("written");
    let e = verify(&layout, None).expect_err("changed");
    assert!(e.to_string().contains("line 3 "), "{e}");
}

#[test]
fn a_long_append_is_written_in_pieces_of_whole_lines() {
    let line = |len: usize| "z".repeat(len - 1) + "\n";
    let text = [line(MAX_LINE - 10), line(10), line(11), line(MAX_LINE + 5), line(1)].concat();
    let lengths: Vec<usize> = pieces(&text).map(<[u8]>::len).collect();
    assert_eq!(lengths, [MAX_LINE, 11, MAX_LINE + 5, 1]);
    assert_eq!(pieces(&text).collect::<Vec<_>>().concat(), text.as_bytes());
}

#[test]
fn a_quarantine_is_found_behind_any_number_of_refusals_and_an_aborted_one_is_not() {
    let (_dir, layout) = root();
    let tester = Actor::new("test", "x");
    let line = |event, phase, name, generation| {
        append(&layout, &tester, &[Event { event, phase, name, why: "w", generation }], |_| {}).expect("appended");
    };
    let change = |event, name, generation| {
        line(event, INTENT, name, generation);
        line(event, APPLIED, name, generation);
    };
    change("promote", "a", 1);
    change("quarantine", "a", 2);
    line("quarantine", INTENT, "b", 3);
    line("quarantine", ABORTED, "b", 2);
    change("promote", "c", 3);
    // Of a crash: the outcome is written by the next start.
    line("quarantine", INTENT, "d", 4);
    line("open", APPLIED, "d", 4);
    change("quarantine", "e", 5);
    let long = "y".repeat(2048);
    let events: Vec<Event<'_>> =
        (0..1000).map(|_| Event { event: "refuse", phase: NOTED, name: "m", why: &long, generation: 5 }).collect();
    append(&layout, &tester, &events, |_| {}).expect("appended");
    assert!(std::fs::metadata(layout.path().join(LOG)).expect("there").len() > 2 * PIECE);
    let found = |after, until| {
        let mut names: Vec<String> = quarantined_between(&layout, after, until).expect("read").into_iter().collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(found(0, u64::MAX), "a d e");
    assert_eq!(
        (found(1, 5), found(2, 5), found(3, 4), found(2, 3)),
        ("a d e".into(), "d e".into(), "d".into(), "".into())
    );
    assert_eq!(found(5, u64::MAX), "");
    assert_eq!(last_change(&layout).expect("read").map(|l| l.name).as_deref(), Some("e"));
    // A line without end is no line of ours.
    let path = layout.path().join(LOG);
    let mut torn = std::fs::read(&path).expect("read");
    let whole = torn.len();
    torn.truncate(whole - 3 * PIECE as usize / 2);
    let junk = vec![b'x'; 3 * PIECE as usize];
    let last = std::fs::read(&path).expect("read")[whole - 3000..].to_vec();
    std::fs::write(&path, [torn, junk, last].concat()).expect("written");
    assert_eq!(quarantined_between(&layout, 0, 9).expect_err("altered").kind(), ErrorKind::Audit);
}

#[test]
fn a_hostile_reason_stays_inside_one_bounded_line() {
    let (_dir, layout) = root();
    say(&layout, &"\u{1}\"\\\u{202e}é".repeat(5000));
    say(&layout, "after");
    assert_eq!(verify(&layout, None).expect("whole").lines, 2);
    assert!(std::fs::metadata(layout.path().join(LOG)).expect("there").len() < 2 * MAX_LINE as u64);
}

#[test]
fn a_log_that_has_grown_goes_on_in_a_new_file_and_is_one_chain() {
    let (_dir, layout) = root();
    let why = "w".repeat(100);
    let say = |n: usize| {
        let event = Event { event: "refuse", phase: NOTED, name: "m", why: &format!("{n} {why}"), generation: 1 };
        append_rotating(&layout, &Actor::new("test", "x"), &[event], 1000, |_| {}).expect("appended");
    };
    (0..20).for_each(say);
    let files = || {
        let entries = std::fs::read_dir(layout.path()).expect("listed").flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with("audit"));
        names.sort();
        names
    };
    let names = files();
    assert!(names.len() > 3 && names.last().map(String::as_str) == Some(LOG), "{names:?}");
    assert_eq!((verify(&layout, None).expect("one chain").lines, lines(&layout).expect("read").len()), (20, 20));
    let mut seen = Vec::new();
    backwards(&layout, |line| {
        seen.push(line.seq);
        ControlFlow::Continue(())
    })
    .expect("read");
    assert_eq!(seen, (1..=20).rev().collect::<Vec<u64>>());

    // The power went between the rename and the first line of the new file; then another hand takes a file away.
    let (path, full) = (|name: &str| layout.path().join(name), names[names.len() - 2].clone());
    std::fs::remove_file(path(LOG)).expect("removed");
    let left = verify(&layout, None).expect("whole files").lines;
    say(21);
    assert_eq!(verify(&layout, None).expect("it goes on").lines, left + 1);
    std::fs::write(path(LOG), "").expect("emptied");
    say(22);
    assert_eq!(verify(&layout, None).expect("it goes on").lines, left + 1);
    for (gone, line) in [(&names[0], "begins with line"), (&full, "does not follow")] {
        let kept = std::fs::read(path(gone)).expect("read");
        std::fs::remove_file(path(gone)).expect("removed");
        let e = verify(&layout, None).expect_err("a file is missing");
        assert!(e.kind() == ErrorKind::Audit && e.to_string().contains(line), "{gone}: {e}");
        std::fs::write(path(gone), kept).expect("back");
    }
    verify(&layout, None).expect("as before");
}

#[test]
fn who_reads_while_a_file_is_full_misses_no_line_and_sees_none_twice() {
    let (_dir, layout) = root();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut counts = vec![0];
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                counts.push(verify(&layout, None).expect("one chain").lines);
            }
            counts
        });
        for n in 0..200 {
            let event = Event { event: "refuse", phase: NOTED, name: "m", why: &n.to_string(), generation: 1 };
            append_rotating(&layout, &Actor::new("test", "x"), &[event], 700, |_| {}).expect("appended");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let counts = reader.join().expect("every chain was whole");
        assert!(counts.is_sorted() && counts.len() > 2, "{counts:?}");
    });
    assert_eq!(verify(&layout, None).expect("whole").lines, 200);
}
