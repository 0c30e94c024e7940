//! The stages of a write, one at a time and without devices: what each costs by itself, in nanoseconds.
//! Run with `cargo bench --bench stages`; docs/benchmarks.md says what each case is. What a pair does as a whole is in `benches/pair`.

mod arena_copy;
mod cp_list;
mod crc32c_page;
mod fixture;
mod frame_parse;
mod frontend_write;
mod index_insert;
mod log_append;
mod mirror_place;
mod report_parse;

use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

/// Short enough that no group takes 5 s: these are for comparing two commits, not for publishing.
fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(900))
        .sample_size(30)
}

criterion_group! {
    name = stages;
    config = quick();
    targets =
        frontend_write::bench,
        crc32c_page::bench,
        log_append::bench,
        index_insert::bench,
        frame_parse::bench,
        arena_copy::bench,
        mirror_place::bench,
        report_parse::bench,
        cp_list::bench,
}
criterion_main!(stages);
