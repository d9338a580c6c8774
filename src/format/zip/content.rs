//! The bytes of an archive's members.
//!
//! Owns: unpacking. Promises: what is given out piece by piece has the member's size and CRC, or that it has not is found; no
//! more than the member's size is unpacked, and never more than a piece of it is held. Leaves out: what the bytes mean.

use super::{CRC, Member, Method, SIZE};
use crate::digest::shorten;
use crate::format::finding::{Halt, Parsed, Place};
use crate::format::input::{Input, Reader};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};
use std::io::Read;

/// Bytes unpacked at once.
const STEP: u64 = 64 << 10;

/// Passes all bytes of a member to `sink`, and checks them. A defect is found after what came before it was passed.
pub(crate) fn contents(input: &dyn Input, member: &Member, sink: &mut dyn FnMut(&[u8])) -> Parsed<()> {
    let mut reader = Reader::new(input, member.data_at, member.data_at.saturating_add(member.packed));
    let mut check = Check { crc: crc32fast::Hasher::new(), size: 0, sink };
    match member.method {
        Method::Stored => {
            let mut piece = vec![0; member.size.clamp(1, STEP) as usize];
            while let n @ 1.. = read(&mut reader, &mut piece)? {
                check.pass(&piece[..n]);
            }
        }
        Method::Deflated => unpack(&mut reader, member, &mut check)?,
    }
    let (size, crc) = (check.size, check.crc.finalize());
    if size != member.size {
        return Err(defect(&SIZE, member, format!("unpacks to {size} bytes and claims {}", member.size)));
    }
    if crc != member.crc {
        let why = format!(
            "has the CRC-32 {crc:08x} and claims {:08x}: some readers would refuse it, PyTorch's loads it",
            member.crc
        );
        return Err(defect(&CRC, member, why));
    }
    Ok(())
}

struct Check<'a> {
    crc: crc32fast::Hasher,
    size: u64,
    sink: &'a mut dyn FnMut(&[u8]),
}

impl Check<'_> {
    fn pass(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.size += bytes.len() as u64;
        (self.sink)(bytes);
    }
}

fn defect(rule: &'static crate::format::finding::Rule, member: &Member, why: String) -> Halt {
    Halt::found(rule, Place::part(&member.name), format!("{:?} {why}", shorten(&member.name)))
}

fn read(reader: &mut Reader<'_>, piece: &mut [u8]) -> Parsed<usize> {
    reader.read(piece).map_err(|e| match e.downcast::<crate::error::Error>() {
        Ok(e) => Halt::Failed(e),
        Err(e) => Halt::Failed(crate::error::Error::new(crate::error::ErrorKind::Io, e.to_string())),
    })
}

fn unpack(reader: &mut Reader<'_>, member: &Member, check: &mut Check<'_>) -> Parsed<()> {
    let mut state = InflateState::new_boxed(DataFormat::Raw);
    let step = |bytes: u64| vec![0; bytes.clamp(1, STEP) as usize];
    let (mut packed, mut plain) = (step(member.packed), step(member.size));
    let (mut have, mut used) = (0, 0);
    loop {
        if used == have {
            (have, used) = (read(reader, &mut packed)?, 0);
        }
        let step = inflate(&mut state, &packed[used..have], &mut plain, MZFlush::None);
        used += step.bytes_consumed;
        let left = member.size - check.size;
        if step.bytes_written as u64 > left {
            return Err(defect(&SIZE, member, format!("unpacks to more than the {} bytes it claims", member.size)));
        }
        check.pass(&plain[..step.bytes_written]);
        match step.status {
            Ok(MZStatus::StreamEnd) if used == have && reader.left() == 0 => return Ok(()),
            Ok(MZStatus::StreamEnd) => {
                return Err(defect(&SIZE, member, "has bytes behind its packed data".into()));
            }
            Ok(_) if step.bytes_consumed > 0 || step.bytes_written > 0 => {}
            _ => {
                return Err(defect(
                    &SIZE,
                    member,
                    "does not unpack: its deflate stream is damaged or cut short".into(),
                ));
            }
        }
    }
}
