//! Hands libFuzzer's inputs to the target that `FUZZ_TARGET` names. One program for all of them: it is linked once.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidestream_fuzz::run(data));
