//! Fuzz targets: scripts of hosts, right and wrong, against the real target of the engine, with invariants checked behind every step.
//! A script is a sequence of bytes, so that libFuzzer can make up others (`cargo xtask fuzz`); each that is worth keeping lies in
//! `corpus/` and is run by an ordinary test. See docs/fuzzing.md.

pub mod auth;
pub mod fabrics;
pub mod host;
pub mod input;
pub mod io;
pub mod log_pages;
pub mod pdu_stream;
pub mod seeds;
pub mod shard;
pub mod world;
mod heap;

/// A target: takes a script, panics if something is wrong.
pub type Script = fn(&[u8]);

/// The targets and their names.
pub const TARGETS: &[(&str, Script)] = &[
    ("pdu_stream", pdu_stream::script),
    ("fabrics", fabrics::script),
    ("log_pages", log_pages::script),
    ("auth", auth::script),
    ("io", io::script),
];

/// Runs a script and looks whether memory is left over.
///
/// # Panics
/// If what the script checks does not hold, or memory leaks.
pub fn run(script: Script, bytes: &[u8]) {
    let before = heap::live();
    script(bytes);
    let left = heap::live() - before;
    assert!(left == 0, "{left} bytes of heap are left over");
}
