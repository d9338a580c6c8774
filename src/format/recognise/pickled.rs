//! Whether bytes look like a pickle, most of all one of protocol 0 or 1, which have no magic number.
//!
//! Owns: a short walk over the opcodes of the start. Promises: linear in the head; what it takes for a pickle has opcodes
//! with arguments that fit them, so that ordinary words are not taken for one. Leaves out: what the pickle does (`pickle`).
//!
//! ```text
//! 'c' module "\n" name "\n"   GLOBAL        'S' quoted "\n"  STRING     'I' 'L' 'F' 'p' 'g' ...  a line of digits
//! 'K' u8   'M' u16   'J' i32  numbers       'X' u32 bytes    text       '.'                      STOP
//! ```
//! Source: CPython, Lib/pickletools.py.

/// The number that `torch.save` writes first, as a pickle: LONG1 of ten bytes (torch/serialization.py, MAGIC_NUMBER).
const TORCH_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The first pickle of PyTorch's format before 1.6.
pub(super) fn is_torch_magic(head: &[u8]) -> bool {
    let [0x80, 2..=5, rest @ ..] = head else { return false };
    // Protocol 4 puts a frame around it.
    let rest = match rest {
        [0x95, _, _, _, _, _, _, _, _, inner @ ..] => inner,
        other => other,
    };
    rest.starts_with(TORCH_MAGIC)
}

/// Nothing but printable characters: a text that only happens to begin with a magic number.
pub(super) fn printable(head: &[u8]) -> bool {
    head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..))
}

/// What an opcode is followed by.
enum Argument {
    None,
    /// So many bytes.
    Bytes(usize),
    /// A length of so many bytes, and as many bytes as it says.
    Counted(usize),
    /// Lines, each of which passes.
    Lines(usize, fn(&[u8]) -> bool),
}

fn name(line: &[u8]) -> bool {
    !line.is_empty()
        && line.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'<' | b'>') || *b >= 0x80)
}

fn number(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"L").unwrap_or(line);
    let digits = line.strip_prefix(b"-").unwrap_or(line);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn float(line: &[u8]) -> bool {
    let word = line.strip_prefix(b"-").unwrap_or(line);
    matches!(word, b"inf" | b"nan") || number(line) || std::str::from_utf8(line).is_ok_and(|t| t.parse::<f64>().is_ok())
}

fn quoted(line: &[u8]) -> bool {
    matches!(line, [b'\'', .., b'\''] | [b'"', .., b'"'])
}

fn any(_: &[u8]) -> bool {
    true
}

fn argument(opcode: u8) -> Option<Argument> {
    Some(match opcode {
        b'(' | b'.' | b'0' | b'1' | b'2' | b'N' | b'R' | b'Q' | b']' | b'}' | b')' => Argument::None,
        b'a' | b'b' | b'd' | b'e' | b'l' | b'o' | b's' | b't' | b'u' => Argument::None,
        b'c' | b'i' => Argument::Lines(2, name),
        b'I' | b'L' | b'p' | b'g' => Argument::Lines(1, number),
        b'F' => Argument::Lines(1, float),
        b'S' => Argument::Lines(1, quoted),
        b'V' | b'P' => Argument::Lines(1, any),
        b'K' | b'q' | b'h' => Argument::Bytes(1),
        b'M' => Argument::Bytes(2),
        b'J' | b'r' | b'j' => Argument::Bytes(4),
        b'G' => Argument::Bytes(8),
        b'U' => Argument::Counted(1),
        b'T' | b'X' | b'B' => Argument::Counted(4),
        b'C' => Argument::Counted(1),
        // Later protocols' opcodes are in use without PROTO before them.
        0x80 | 0x82 => Argument::Bytes(1),
        0x83 => Argument::Bytes(2),
        0x84 => Argument::Bytes(4),
        0x81 | 0x85..=0x89 | 0x8f..=0x94 => Argument::None,
        0x8a | 0x8c => Argument::Counted(1),
        0x8b => Argument::Counted(4),
        0x8d | 0x8e | 0x96 => Argument::Counted(8),
        0x95 => Argument::Bytes(8),
        _ => return None,
    })
}

/// Whether the start of a file reads as a pickle's. `whole`: it is all of the file.
pub(super) fn looks_like(head: &[u8], whole: bool) -> bool {
    let mut rest = head;
    // A stack as high as the opcodes make it, as far as that is easily told: nothing takes from an empty one.
    let (mut height, mut with_argument, mut lines, mut globals) = (0i64, 0, 0, 0);
    while let Some((&opcode, after)) = rest.split_first() {
        let Some(argument) = argument(opcode) else { return false };
        height += match opcode {
            b'.' | b'0' | b'a' | b'b' | b'R' | 0x81 | 0x93 => -1,
            b's' => -2,
            b'1' | b'2' | b'd' | b'e' | b'l' | b'o' | b't' | b'u' | 0x85..=0x87 | 0x90..=0x92 | 0x94 => 0,
            b'p' | b'q' | b'r' | b'Q' | 0x80 | 0x95 | 0x8f => 0,
            _ => 1,
        };
        if height < 0 {
            return false;
        }
        let (argued, lined) = (!matches!(argument, Argument::None), matches!(argument, Argument::Lines(..)));
        if opcode == b'.' {
            // "MIT." is no pickle of a number, though it would load as one.
            let read = head.get(..head.len() - after.len()).unwrap_or_default();
            return lines > 0
                || (with_argument > 0 && !printable(read))
                || (whole && after.is_empty() && head.len() <= 2);
        }
        let next = match argument {
            Argument::None => Some(after),
            Argument::Bytes(n) => after.get(n..),
            Argument::Counted(n) => after.split_at_checked(n).and_then(|(length, body)| {
                let length =
                    length.iter().rev().try_fold(0usize, |sum, b| sum.checked_mul(256)?.checked_add(usize::from(*b)));
                body.get(length?..)
            }),
            Argument::Lines(count, fits) => {
                let mut text = Some(after);
                for _ in 0..count {
                    let Some(now) = text else { break };
                    let Some(end) = now.iter().position(|b| *b == b'\n') else {
                        text = None;
                        break;
                    };
                    let (line, more) = now.split_at(end);
                    if !fits(line) {
                        return false;
                    }
                    text = more.get(1..);
                }
                text
            }
        };
        // The argument reaches beyond the head.
        let Some(next) = next else { break };
        with_argument += usize::from(argued);
        lines += usize::from(lined);
        globals += usize::from(matches!(opcode, b'c' | b'i' | 0x82..=0x84));
        rest = next;
    }
    // No STOP in sight: enough that text does not have by chance.
    globals > 0 || with_argument >= 8
}
