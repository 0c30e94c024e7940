//! Why DPDK could not be started or a port not be opened. Facts as fields, no text but what `Display` makes of them.

use std::io;

/// Why the EAL did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EalError {
    /// The EAL starts once in a process, ever, also after it was cleaned up.
    #[error("DPDK was already started in this process; it can be started only once")]
    AlreadyStarted,
    /// Huge pages were demanded, and too few of them are free.
    #[error(
        "{need_mib} MiB of huge pages are needed and {free_mib} MiB are free; see hugepages/README.md"
    )]
    HugePages {
        /// What was asked for.
        need_mib: usize,
        /// What `free_hugepages` less `resv_hugepages` comes to.
        free_mib: usize,
    },
    /// No log stream could be made.
    #[error("no stream for DPDK's log: {}", io::Error::from_raw_os_error(*.0))]
    Log(i32),
    /// The thread that starts the EAL could not be made, or died.
    #[error("the thread that starts DPDK failed")]
    Thread,
    /// A PCI address with a NUL in it.
    #[error("that is no PCI address")]
    Pci,
    /// `rte_eal_init` refused; its log says why.
    #[error("DPDK did not start: {}", io::Error::from_raw_os_error(*.0))]
    Init(i32),
    /// The thread could not become an lcore.
    #[error("DPDK did not register the thread: {}", io::Error::from_raw_os_error(*.0))]
    Register(i32),
}

/// Why a link port could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The MTU is outside of what the port can size its buffers for.
    #[error("an MTU of {mtu} is outside {least} to 9000")]
    Mtu {
        /// What was configured.
        mtu: u16,
        /// The least for the addresses' family.
        least: u16,
    },
    /// IPv4 and IPv6 don't meet on one link.
    #[error("local, peer and gateway are not all IPv4 or all IPv6")]
    Families,
    /// No frame can belong to it.
    #[error("a VLAN of {0} is outside 1 to 4094")]
    Vlan(u16),
    /// A name goes into DPDK's device arguments, where comma, equals sign, brackets and blanks mean something, or is too long.
    #[error("the device's name is empty, too long, or has one of , = [ ] or a blank in it")]
    Name,
    /// There is no such network interface in this network namespace.
    #[error("there is no such network interface here")]
    NoInterface,
    /// The interface would drop full frames.
    #[error("the interface's MTU is {have}, the link's is {want}: ip link set dev … mtu {want}")]
    InterfaceMtu {
        /// What the interface carries.
        have: u32,
        /// What was configured.
        want: u16,
    },
    /// Somebody else serves this memif socket.
    #[error("another process listens on this memif socket")]
    SocketInUse,
    /// The memif socket's path can't be used.
    #[error("memif socket: {}", io::Error::from_raw_os_error(*.0))]
    Socket(i32),
    /// DPDK made no device of the arguments; its log says why.
    #[error("DPDK refused the device: {}", io::Error::from_raw_os_error(*.0))]
    Probe(i32),
    /// The device's driver did not announce a port under its name.
    #[error("the device has no port; is its driver's package (librte-net-…) installed?")]
    NotFound,
    /// No driver took the NIC when the EAL started.
    #[error(
        "DPDK drives no such NIC: is it bound to vfio-pci (dpdk-config/bind.sh), and its driver's package (librte-net-…) installed?"
    )]
    NoNic,
    /// The NIC carries no frames so large.
    #[error(
        "the device carries IP packets of at most {have} bytes, the link's are {want}: set link.mtu on both nodes to {have} or less"
    )]
    DeviceMtu {
        /// What the device carries.
        have: u16,
        /// What was configured.
        want: u16,
    },
    /// No memory for a pool of buffers.
    #[error("no memory for packet buffers: {}", io::Error::from_raw_os_error(*.0))]
    Pool(i32),
    /// The device did not take its configuration.
    #[error("the device refused its configuration: {}", io::Error::from_raw_os_error(*.0))]
    Configure(i32),
    /// The device did not start.
    #[error("the device did not start: {}", io::Error::from_raw_os_error(*.0))]
    Start(i32),
    /// The gate could not be put into DPDK's interrupt thread.
    #[error("DPDK's interrupt thread took no callback: {}", io::Error::from_raw_os_error(*.0))]
    Gate(i32),
}
