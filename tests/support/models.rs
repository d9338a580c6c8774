//! Sound model files, made from nothing: what promotion admits when it looks at every byte.
//!
//! Owns: builders of GGUF and safetensors files. Promises: what they make is sound by its format's specification (nothing
//! between, below or after the tensors, padding of zeros) and is the same for the same arguments. Leaves out: what no engine
//! needs to load it (an architecture, a vocabulary): the inspectors warn of that, and refuse nothing. Taken by `#[path]` into
//! the tests and benches of several crates, so it stands on the standard library alone.
//!
//! ```text
//! gguf(len, seed): 24 "GGUF" 3, 1 tensor, 0 pairs | 33 "t" I8 [len - 64] at 0 | 7 zeros | len - 64 bytes of the seed
//! ```
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each user takes its own part")]

/// ggml's numbers for the types of tensors.
pub const F32: u32 = 0;
pub const F16: u32 = 1;
pub const I8: u32 = 24;

/// GGUF's alignment where the file names none.
const ALIGNMENT: usize = 32;
/// The bytes of a [`gguf`] before its tensor.
pub const GGUF_START: usize = 64;

/// A metadata value of a GGUF.
#[derive(Debug, Clone, Copy)]
pub enum Meta<'a> {
    U16(u16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    U64(u64),
    I32s(&'a [i32]),
    F32s(&'a [f32]),
    Strs(&'a [&'a str]),
}

/// A tensor of a GGUF: name, ggml type, dimensions (ne0 first), bytes.
pub type Tensor<'a> = (&'a str, u32, &'a [u64], &'a [u8]);

/// `len` bytes that do not compress and are other ones for each `seed`.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A GGUF of exactly `len` bytes: one tensor of I8 whose bytes depend on `seed`. 24 is the empty GGUF, the same for each seed.
///
/// # Panics
/// For the lengths that no such file can have: those below 24, and 25 to 64.
pub fn gguf(len: usize, seed: u64) -> Vec<u8> {
    if len == 24 {
        return gguf_with(&[], &[]);
    }
    let mut bytes = gguf_start(len as u64);
    bytes.extend(noise(len - GGUF_START, seed));
    bytes
}

/// The first [`GGUF_START`] bytes of a GGUF of `len`: any bytes may follow, so many that it has its length.
pub fn gguf_start(len: u64) -> Vec<u8> {
    let elements =
        len.checked_sub(GGUF_START as u64).filter(|n| *n > 0).expect("a GGUF of one tensor has 65 bytes or more");
    let mut bytes = head(&[], 1);
    describe(&mut bytes, "t", I8, &[elements], 0);
    pad(&mut bytes);
    assert_eq!(bytes.len(), GGUF_START);
    bytes
}

/// A GGUF with these metadata pairs and tensors, in this order. Alignment is 32: a pair that says otherwise makes it unsound.
pub fn gguf_with(pairs: &[(&str, Meta<'_>)], tensors: &[Tensor<'_>]) -> Vec<u8> {
    let mut bytes = head(pairs, tensors.len());
    let mut offset = 0;
    for (name, kind, shape, data) in tensors {
        describe(&mut bytes, name, *kind, shape, offset as u64);
        offset += data.len().next_multiple_of(ALIGNMENT);
    }
    for (_, _, _, data) in tensors {
        pad(&mut bytes);
        bytes.extend_from_slice(data);
    }
    bytes
}

/// A split set of two shards: [`split_of`]`("m", 2, seed)`.
pub fn split(seed: u64) -> Vec<(String, Vec<u8>)> {
    split_of("m", 2, seed)
}

/// The file names and bytes of a GGUF split into `count` shards, with what llama.cpp's gguf-split writes into each: its
/// number from 0, how many there are, how many tensors all have. Each shard has one tensor, of a name of its own.
pub fn split_of(base: &str, count: u16, seed: u64) -> Vec<(String, Vec<u8>)> {
    let shard = |no: u16| {
        let pairs = [
            ("split.no", Meta::U16(no)),
            ("split.count", Meta::U16(count)),
            ("split.tensors.count", Meta::I32(i32::from(count))),
        ];
        let data = noise(64, seed.wrapping_mul(1 << 16).wrapping_add(u64::from(no)));
        let bytes = gguf_with(&pairs, &[(&format!("blk.{no}.weight"), I8, &[64], &data)]);
        (format!("{base}-{:05}-of-{count:05}.gguf", no + 1), bytes)
    };
    (0..count).map(shard).collect()
}

/// A safetensors file of these tensors (name, dtype, shape, bytes), in this order, one after the other, up to the end.
pub fn safetensors(tensors: &[(&str, &str, &[u64], &[u8])]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut end = 0;
    for (name, dtype, shape, data) in tensors {
        let start = end;
        end += data.len();
        entries.push(format!(r#"{name:?}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
    }
    let mut header = format!("{{{}}}", entries.join(","));
    // As the reference writes it: spaces up to a multiple of eight, so that the data is aligned.
    while header.len() % 8 != 0 && !tensors.is_empty() {
        header.push(' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    tensors.iter().for_each(|(_, _, _, data)| bytes.extend_from_slice(data));
    bytes
}

fn head(pairs: &[(&str, Meta<'_>)], tensors: usize) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        string(&mut out, key);
        meta(&mut out, *value);
    }
    out
}

fn describe(out: &mut Vec<u8>, name: &str, kind: u32, shape: &[u64], offset: u64) {
    string(out, name);
    out.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
}

fn meta(out: &mut Vec<u8>, value: Meta<'_>) {
    let scalar = |out: &mut Vec<u8>, kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    let array = |out: &mut Vec<u8>, kind: u32, len: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Meta::U16(n) => scalar(out, 2, &n.to_le_bytes()),
        Meta::U32(n) => scalar(out, 4, &n.to_le_bytes()),
        Meta::I32(n) => scalar(out, 5, &n.to_le_bytes()),
        Meta::F32(n) => scalar(out, 6, &n.to_le_bytes()),
        Meta::Bool(b) => scalar(out, 7, &[u8::from(b)]),
        Meta::Str(text) => {
            out.extend(8u32.to_le_bytes());
            string(out, text);
        }
        Meta::U64(n) => scalar(out, 10, &n.to_le_bytes()),
        Meta::I32s(all) => {
            array(out, 5, all.len());
            all.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Meta::F32s(all) => {
            array(out, 6, all.len());
            all.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Meta::Strs(all) => {
            array(out, 8, all.len());
            all.iter().for_each(|text| string(out, text));
        }
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}
