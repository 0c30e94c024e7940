//! libFuzzer's program for the target `io`; built and run by `cargo xtask fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ibid_fuzz::run(ibid_fuzz::io::script, data));
