//! A fuzz target: the parser that the binary is named after.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| match env!("CARGO_BIN_NAME") {
    name if name.starts_with("oci-") => securereg_oci::fuzzing::run(name, bytes),
    name => securereg::fuzzing::run(name, bytes),
});
