//! DPDK's environment layer: started once, told to leave nothing behind, cleaned up when its last user goes.
//! Takes how much memory and of which kind; gives [`Eal`], which ports hold on to, and warnings as values.
//! Prints nothing: DPDK's log goes to the caller's function, or nowhere.
//!
//! EAL-1  `rte_eal_init` is called at most once in a process.
//! EAL-2  No file is made: `--in-memory` with huge pages, `--no-shconf` without. So a killed process leaves nothing that the
//!        next start could trip over, and two nodes on one machine don't meet.

use std::ffi::{CString, c_char, c_int};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ibid_dpdk_sys as sys;

use crate::error::EalError;
use crate::hugepages;

/// How to start the EAL.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// MiB for packet buffers and the drivers' own structures. One virtual port needs about 20 MiB.
    pub memory_mib: usize,
    /// From where that memory is taken.
    pub memory: EalMemory,
    /// The NUMA node that it is to be of, where there are huge pages enough.
    pub numa_node: Option<u32>,
    /// Receives DPDK's own log, warnings and worse, a line at a time, on whichever thread logs. `None` discards it.
    pub log: Option<fn(&str)>,
    /// The one NIC that DPDK may touch, by its PCI address (`0000:3b:00.0`); it must be bound to vfio-pci. All others stay the
    /// kernel's, and without this DPDK doesn't look at PCI at all.
    pub pci: Option<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self { memory_mib: 64, memory: EalMemory::Auto, numa_node: None, log: None, pci: None }
    }
}

/// The kind of memory that packet buffers lie in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EalMemory {
    /// Huge pages where enough are free, ordinary memory and a warning where not.
    Auto,
    /// Huge pages, or no start.
    HugePages,
    /// Ordinary memory.
    Ordinary,
}

/// What the caller should tell the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EalWarning {
    /// Real NICs can't be used, and address translation costs more.
    #[error(
        "packet buffers lie in ordinary memory: {need_mib} MiB of huge pages wanted, {free_mib} MiB free; see hugepages/README.md"
    )]
    OrdinaryMemory {
        /// What was wanted.
        need_mib: usize,
        /// What was free.
        free_mib: usize,
    },
    /// Frames cross between NUMA nodes.
    #[error(
        "packet buffers lie on any NUMA node: {need_mib} MiB of huge pages wanted on node {node}, {free_mib} MiB free there (hugepages/reserve.sh --node {node})"
    )]
    AnyNode {
        /// Where they were wanted.
        node: u32,
        /// What was wanted.
        need_mib: usize,
        /// What was free there.
        free_mib: usize,
    },
}

/// The running EAL. Clones are handles to the same one; when the last is dropped, DPDK is cleaned up.
#[derive(Clone)]
pub struct Eal {
    _inner: Arc<Inner>,
}

/// DPDK, running.
struct Inner;

static STARTED: AtomicBool = AtomicBool::new(false);
static LOG: OnceLock<fn(&str)> = OnceLock::new();

impl Eal {
    /// Starts DPDK. The caller's CPU affinity stays as it is.
    pub fn init(config: EalConfig) -> Result<(Eal, Option<EalWarning>), EalError> {
        let need_mib = config.memory_mib;
        let free_mib = hugepages::free_mib();
        let huge = match config.memory {
            EalMemory::Auto => free_mib >= need_mib,
            EalMemory::HugePages if free_mib < need_mib => {
                return Err(EalError::HugePages { need_mib, free_mib });
            }
            EalMemory::HugePages => true,
            EalMemory::Ordinary => false,
        };
        let pci = match &config.pci {
            Some(address) => {
                Some(CString::new(format!("--allow={address}")).map_err(|_| EalError::Pci)?)
            }
            None => None,
        };
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(EalError::AlreadyStarted);
        }
        if let Some(log) = config.log {
            LOG.set(log).expect("EAL-1: set only behind STARTED");
        }
        // DPDK does not start where it is told of a node that has too little; so it is told only of one that has enough.
        let on_node =
            config.numa_node.filter(|_| huge).map(|node| (node, hugepages::free_mib_on(node)));
        let node = on_node.filter(|(_, free_mib)| *free_mib >= need_mib).map(|it| it.0);
        let arguments = arguments(huge, need_mib, node, &allowed_cpus(), pci);
        // rte_eal_init pins its caller to the main lcore, and threads started later would inherit that: so it runs on a
        // thread of its own that ends at once.
        std::thread::Builder::new()
            .name("dpdk-init".into())
            .spawn(move || start(arguments))
            .map_err(|_| EalError::Thread)?
            .join()
            .map_err(|_| EalError::Thread)??;
        let warning = match on_node {
            _ if !huge && config.memory == EalMemory::Auto => {
                Some(EalWarning::OrdinaryMemory { need_mib, free_mib })
            }
            Some((wanted, free_mib)) if node.is_none() => {
                Some(EalWarning::AnyNode { node: wanted, need_mib, free_mib })
            }
            _ => None,
        };
        Ok((Eal { _inner: Arc::new(Inner) }, warning))
    }

    /// Makes the calling thread an lcore until what is returned is dropped. Ports work without it; with it, freeing a packet
    /// buffer goes to a cache of the thread instead of to the shared ring (about 20 ns less for each).
    pub fn register_thread(&self) -> Result<RegisteredThread, EalError> {
        // SAFETY: `rte_thread_register` wants a running EAL, which `self` proves; a thread already registered is accepted.
        if unsafe { sys::rte_thread_register() } != 0 {
            return Err(EalError::Register(errno()));
        }
        Ok(RegisteredThread { _eal: self.clone(), _here: PhantomData })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: wants an initialised EAL that nobody uses any more: this is the last handle, and ports and registered
        // threads hold handles.
        unsafe { sys::rte_eal_cleanup() };
    }
}

/// The calling thread as an lcore of DPDK. Bound to its thread.
pub struct RegisteredThread {
    _eal: Eal,
    _here: PhantomData<*const ()>,
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: wants to be called on the registered thread: this type is not `Send`.
        unsafe { sys::rte_thread_unregister() };
    }
}

/// DPDK's error number of the calling thread.
pub(crate) fn errno() -> i32 {
    // SAFETY: reads a thread-local variable of DPDK; no precondition.
    unsafe { sys::ibid_rte_errno() }
}

fn start(arguments: Vec<CString>) -> Result<(), EalError> {
    // SAFETY: wants a function that may be called from any thread for the rest of the process: `log_line` is one.
    if unsafe { sys::ibid_log_to(Some(log_line)) } != 0 {
        return Err(EalError::Log(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)));
    }
    // SAFETY: no precondition; sets the level of log types without one of their own.
    unsafe { sys::rte_log_set_global_level(sys::RTE_LOG_WARNING) };
    // DPDK keeps pointers into its arguments, so they live for good. It happens once (EAL-1).
    let mut pointers: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
    let count = c_int::try_from(pointers.len()).expect("a dozen arguments");
    pointers.push(std::ptr::null_mut());
    // SAFETY: wants argc C strings that stay valid and a process in which it was not called yet: see the line above and
    // EAL-1. The array itself is only permuted during the call; DPDK copies it.
    let code = unsafe { sys::rte_eal_init(count, pointers.leak().as_mut_ptr()) };
    if code < 0 { Err(EalError::Init(errno())) } else { Ok(()) }
}

fn arguments(
    huge: bool,
    memory_mib: usize,
    node: Option<u32>,
    cpus: &str,
    pci: Option<CString>,
) -> Vec<CString> {
    // One lcore that floats over the CPUs this process may use: DPDK's interrupt thread inherits that set.
    let mut arguments = vec![
        "ibid".to_owned(),
        "--lcores".to_owned(),
        format!("0@({cpus})"),
        "--no-telemetry".to_owned(),
        // Addresses that the IOMMU translates: without one no NIC is driven.
        "--iova-mode=va".to_owned(),
    ];
    if huge {
        // All of it at once, while the pages are known to be free: a pool that finds none later would end the start.
        arguments.push("--in-memory".to_owned());
        match node {
            // A number for each node up to this one.
            Some(node) => {
                let zeroes = "0,".repeat(node as usize);
                arguments.push(format!("--socket-mem={zeroes}{memory_mib}"));
            }
            None => arguments.extend(["-m".to_owned(), memory_mib.to_string()]),
        }
    } else {
        // --in-memory is refused together with --no-huge; --no-shconf alone also keeps every file away.
        arguments.extend(["--no-huge".to_owned(), "--no-shconf".to_owned()]);
        arguments.extend(["-m".to_owned(), memory_mib.to_string()]);
    }
    let mut arguments: Vec<CString> = arguments
        .into_iter()
        .map(|argument| CString::new(argument).expect("made above without a NUL"))
        .collect();
    arguments.push(pci.unwrap_or_else(|| c"--no-pci".to_owned()));
    arguments
}

/// The CPUs this process may run on, as DPDK writes sets.
fn allowed_cpus() -> String {
    // SAFETY: a cpu_set_t is an array of integers; all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: wants a pointer to as many bytes as it is told, which `set` is. On failure the set stays empty.
    unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    let cpus: Vec<String> = (0..LCORES_MAX)
        // SAFETY: reads a bit of the set; the index is below CPU_SETSIZE (1024) by LCORES_MAX.
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .map(|cpu| cpu.to_string())
        .collect();
    if cpus.is_empty() { "0".to_owned() } else { cpus.join(",") }
}

unsafe extern "C" fn log_line(text: *const c_char, len: usize) {
    let Some(log) = LOG.get() else { return };
    // SAFETY: the shim passes the buffer that stdio hands to the stream's write function: `len` readable bytes for the call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        log(&String::from_utf8_lossy(line));
    }
}

/// CPUs that Debian's DPDK is built for (RTE_MAX_LCORE).
const LCORES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_huge_pages_no_file_is_made_either() {
        let on = |huge, node| {
            let all = arguments(huge, 64, node, "0,1", None);
            all.iter().map(|a| a.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        let text = |huge| on(huge, None);
        assert!(on(true, Some(2)).contains("--in-memory --socket-mem=0,0,64 "));
        assert!(text(true).contains("--in-memory -m 64 "));
        assert!(text(true).contains("--in-memory") && !text(true).contains("--no-huge"));
        assert!(text(false).contains("--no-huge --no-shconf -m 64"));
        assert!(text(false).contains("--lcores 0@(0,1)"));
    }

    #[test]
    fn one_nic_is_allowed_or_none_is_looked_at() {
        let last = |pci| arguments(true, 64, None, "0", pci).pop().unwrap();
        assert_eq!(last(None).as_c_str(), c"--no-pci");
        assert_eq!(
            last(Some(c"--allow=0000:3b:00.0".to_owned())).as_c_str(),
            c"--allow=0000:3b:00.0"
        );
    }

    #[test]
    fn the_allowed_cpus_are_those_of_this_process() {
        let count = std::thread::available_parallelism().unwrap().get();
        assert!(allowed_cpus().split(',').count() >= count.min(LCORES_MAX));
    }
}
