//! The C functions and structures of DPDK that ibid uses, generated at build time from the installed headers.
//! Takes Debian's libdpdk (22.11 or later), found with pkg-config; gives raw declarations and nothing else.
//! The safe face is the crate above this one. Inline functions of DPDK appear here through generated wrappers, and what
//! bindgen can't reach (thread-local `rte_errno`, `fopencookie`) through `shim.c`.
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::ptr_as_ptr,
    reason = "generated from C headers: names, documentation and shape are DPDK's"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
