//! How much huge-page memory is free right now, from sysfs. Reads only; reserving is the operator's (hugepages/).

use std::fs;
use std::path::Path;

const POOLS: &str = "/sys/kernel/mm/hugepages";
const NODES: &str = "/sys/devices/system/node";

/// MiB in free, unreserved huge pages of all sizes.
pub(crate) fn free_mib() -> usize {
    free_mib_under(Path::new(POOLS))
}

/// The same of one NUMA node. What is promised to others is not told by node.
pub(crate) fn free_mib_on(node: u32) -> usize {
    free_mib_under(&Path::new(NODES).join(format!("node{node}/hugepages")))
}

fn free_mib_under(pools: &Path) -> usize {
    let Ok(entries) = fs::read_dir(pools) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let page_kib: usize =
                name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let number = |file: &str| -> Option<usize> {
                fs::read_to_string(entry.path().join(file)).ok()?.trim().parse().ok()
            };
            // Reserved pages are counted as free by the kernel until they are touched.
            let free =
                number("free_hugepages")?.saturating_sub(number("resv_hugepages").unwrap_or(0));
            Some(free.saturating_mul(page_kib) / 1024)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_pages_are_not_free_and_strange_folders_are_skipped() {
        let root = std::env::temp_dir().join(format!("ibid-dpdk-pages-{}", std::process::id()));
        let make = |dir: &str, free: &str, reserved: &str| {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("free_hugepages"), free).unwrap();
            fs::write(dir.join("resv_hugepages"), reserved).unwrap();
        };
        make("hugepages-2048kB", "100\n", "40\n");
        make("hugepages-1048576kB", "1\n", "2\n");
        make("something", "9\n", "0\n");
        // As under a NUMA node, which knows no promises.
        make("hugepages-65536kB", "2\n", "0\n");
        fs::remove_file(root.join("hugepages-65536kB/resv_hugepages")).unwrap();
        assert_eq!(free_mib_under(&root), 120 + 128);
        assert_eq!(free_mib_under(&root.join("absent")), 0);
        fs::remove_dir_all(&root).unwrap();
    }
}
