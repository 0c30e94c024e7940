//! Finds libdpdk with pkg-config, generates the bindings and compiles the shim and the wrappers of inline functions.
//! Takes the installed headers; gives `bindings.rs` and two small objects. Builds nothing of DPDK itself.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The libraries whose functions are called. Drivers are plug-ins in Debian's DPDK: the EAL loads them by itself.
const LIBRARIES: [&str; 9] =
    ["eal", "mempool", "mbuf", "ring", "ethdev", "kvargs", "telemetry", "meter", "net"];

const FUNCTIONS: [&str; 34] = [
    "ibid_.*",
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_hotplug_add",
    "rte_eal_hotplug_remove",
    "rte_log_set_global_level",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_intr_callback_register",
    "rte_intr_callback_unregister_sync",
    "rte_intr_instance_alloc",
    "rte_intr_instance_free",
    "rte_intr_fd_set",
    "rte_intr_type_set",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_info_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_macaddr_get",
    "rte_eth_link_get_nowait",
    "rte_eth_allmulticast_enable",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_burst",
    "rte_eth_tx_burst",
    "rte_pktmbuf_pool_create",
    "rte_pktmbuf_alloc_bulk",
    "rte_pktmbuf_free_bulk",
    "rte_mempool_free",
];

const CONSTANTS: [&str; 12] = [
    "RTE_MBUF_F_RX_VLAN_STRIPPED",
    "RTE_MBUF_F_RX_L4_CKSUM_MASK",
    "RTE_MBUF_F_RX_L4_CKSUM_GOOD",
    "RTE_MBUF_F_RX_L4_CKSUM_NONE",
    "RTE_MBUF_F_TX_IPV4",
    "RTE_MBUF_F_TX_IPV6",
    "RTE_MBUF_F_TX_UDP_CKSUM",
    "RTE_PKTMBUF_HEADROOM",
    "RTE_ETH_TX_OFFLOAD_UDP_CKSUM",
    "RTE_ETH_RX_OFFLOAD_UDP_CKSUM",
    "RTE_ETH_LINK_UP",
    "RTE_LOG_WARNING",
];

const TYPES: [&str; 6] = [
    "rte_mbuf",
    "rte_mempool",
    "rte_eth_dev_info",
    "rte_eth_conf",
    "rte_intr_handle_type",
    "rte_iova_mode",
];

fn main() {
    for file in ["build.rs", "wrapper.h", "shim.h", "shim.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let library = match pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(false)
        .probe("libdpdk")
    {
        Ok(library) => library,
        Err(error) => panic!(
            "DPDK 22.11 or later was not found. On Debian: apt-get install libdpdk-dev pkg-config clang libclang-dev\n{error}"
        ),
    };
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for name in LIBRARIES {
        println!("cargo:rustc-link-lib=dylib=rte_{name}");
    }

    let mut flags: Vec<String> =
        library.include_paths.iter().map(|path| format!("-I{}", path.display())).collect();
    flags.extend(other_flags());

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let wrappers = out.join("wrappers.c");
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(&flags)
        // DPDK's comments would be compiled as doctests.
        .generate_comments(false)
        // Sizes and offsets are compared with the headers by assertions at compile time.
        .layout_tests(true)
        .derive_default(true)
        .prepend_enum_name(false)
        .wrap_static_fns(true)
        .wrap_static_fns_path(&wrappers)
        // RTE_BIT64 and casts in macros need the compiler to evaluate them.
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(&out)
        .opaque_type("rte_flow.*")
        .opaque_type("rte_arp_.*")
        .opaque_type("rte_l2tpv2_.*")
        .opaque_type("rte_gtp_.*")
        .no_copy("rte_mbuf")
        .no_copy("rte_mempool")
        .no_copy("rte_ring")
        .rust_edition(bindgen::RustEdition::Edition2024);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for constant in CONSTANTS {
        builder = builder.allowlist_var(constant);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    builder
        .generate()
        .expect("clang reads the headers that pkg-config named")
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR can be written");

    let mut objects = cc::Build::new();
    objects.file("shim.c").file(&wrappers).include(".").warnings(false);
    for flag in &flags {
        objects.flag(flag);
    }
    objects.compile("ibid_dpdk_shim");
}

/// `-include rte_config.h` and `-march=…`: DPDK's headers don't compile without them, and the crate pkg-config drops them.
fn other_flags() -> Vec<String> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(program)
        .args(["--cflags-only-other", "libdpdk"])
        .output()
        .expect("pkg-config ran a moment ago");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}
