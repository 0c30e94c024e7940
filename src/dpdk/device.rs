//! One ethdev of DPDK with one receive and one transmit queue: probed, configured, started, stopped, closed.
//! Takes device arguments and pools; gives bursts. Reconnecting and everything above Ethernet is `port`'s.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

use ibid_dpdk_sys as sys;

use crate::config::{Bus, DeviceArguments};
use crate::error::PortError;
use crate::mbuf::Mbuf;
use crate::pool::Pool;

/// What a device can do, asked once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    /// The largest IP packet it can be told to carry. Virtual devices don't say what they really carry.
    pub(crate) mtu_max: u16,
    /// Makes the UDP checksum of what it sends.
    pub(crate) tx_udp: bool,
    /// Looks at the UDP checksum of what it receives.
    pub(crate) rx_udp: bool,
}

impl Abilities {
    /// Of a device that says nothing about itself.
    pub(crate) const NONE: Abilities = Abilities { mtu_max: 0, tx_udp: false, rx_udp: false };

    /// What a driver says: flags of what it can offload in either direction.
    fn of(tx: u64, rx: u64, mtu_max: u16) -> Abilities {
        let can = |capabilities: u64, flag: u32| capabilities & u64::from(flag) != 0;
        Abilities {
            mtu_max,
            tx_udp: can(tx, sys::RTE_ETH_TX_OFFLOAD_UDP_CKSUM),
            rx_udp: can(rx, sys::RTE_ETH_RX_OFFLOAD_UDP_CKSUM),
        }
    }
}

/// An open ethdev. Stopped, closed and removed on drop.
pub(crate) struct Device {
    port: u16,
    bus: Bus,
    name: CString,
    started: bool,
    abilities: Abilities,
    driver: String,
}

impl Device {
    /// Makes the virtual device, or takes the NIC that the EAL found, and finds its port by name: a driver that fails doesn't
    /// always say so. Wants a running EAL, which the caller's handle proves.
    pub(crate) fn probe(
        _eal: &crate::Eal,
        arguments: &DeviceArguments,
    ) -> Result<Device, PortError> {
        let name = CString::new(arguments.name.as_str()).map_err(|_| PortError::Name)?;
        let text = CString::new(arguments.arguments.as_str()).map_err(|_| PortError::Name)?;
        if arguments.bus == Bus::Virtual {
            // SAFETY: wants a running EAL and three C strings that live for the call.
            let code =
                unsafe { sys::rte_eal_hotplug_add(VDEV.as_ptr(), name.as_ptr(), text.as_ptr()) };
            if code != 0 {
                return Err(PortError::Probe(code.saturating_neg()));
            }
        }
        let mut port = 0;
        // SAFETY: wants a C string and a place for the number.
        let code = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) };
        if code != 0 {
            remove(arguments.bus, &name);
            return Err(match arguments.bus {
                Bus::Virtual => PortError::NotFound,
                Bus::Pci => PortError::NoNic,
            });
        }
        let (abilities, driver) = (Abilities::NONE, String::new());
        let mut device =
            Device { port, bus: arguments.bus, name, started: false, abilities, driver };
        (device.abilities, device.driver) = device.ask()?;
        Ok(device)
    }

    fn ask(&self) -> Result<(Abilities, String), PortError> {
        let mut found = MaybeUninit::<sys::rte_eth_dev_info>::zeroed();
        // SAFETY: wants a port that exists and a place for the answer.
        let code = unsafe { sys::rte_eth_dev_info_get(self.port, found.as_mut_ptr()) };
        if code != 0 {
            return Err(PortError::Configure(code.saturating_neg()));
        }
        // SAFETY: the call succeeded and wrote all of it.
        let found = unsafe { found.assume_init() };
        let driver = if found.driver_name.is_null() {
            c""
        } else {
            // SAFETY: not null, and a driver's name is a C string that stays as long as the driver is loaded.
            unsafe { CStr::from_ptr(found.driver_name) }
        };
        let abilities = Abilities::of(found.tx_offload_capa, found.rx_offload_capa, found.max_mtu);
        Ok((abilities, driver.to_string_lossy().into_owned()))
    }

    /// Sets up queue 0 in both directions, for IP packets of at most `mtu` bytes. A NIC must be told; a virtual device's own MTU
    /// is left alone: memif and af_packet refuse a larger one, and carry what their slots hold.
    pub(crate) fn configure(&mut self, receive: &Pool, mtu: u16) -> Result<(), PortError> {
        let refused = |code: i32| PortError::Configure(code.saturating_neg());
        let socket = self.numa_socket();
        // SAFETY: rte_eth_conf is numbers and pointers that may be null; all zeroes is "the defaults".
        let mut wanted: sys::rte_eth_conf = unsafe { std::mem::zeroed() };
        // What a device was not asked for it does not do.
        if self.abilities.tx_udp {
            wanted.txmode.offloads = u64::from(sys::RTE_ETH_TX_OFFLOAD_UDP_CKSUM);
        }
        if self.abilities.rx_udp {
            wanted.rxmode.offloads = u64::from(sys::RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
        }
        if self.bus == Bus::Pci {
            if mtu > self.abilities.mtu_max {
                return Err(PortError::DeviceMtu { have: self.abilities.mtu_max, want: mtu });
            }
            wanted.rxmode.mtu = u32::from(mtu);
        }
        // SAFETY: wants a port that is not started (`configure` runs before `start`) and a configuration it copies.
        let code = unsafe { sys::rte_eth_dev_configure(self.port, 1, 1, &raw const wanted) };
        if code != 0 {
            return Err(refused(code));
        }
        let (mut rx, mut tx) = (DESCRIPTORS, DESCRIPTORS);
        // SAFETY: wants two places with the wished numbers, which it fits to the device's limits.
        let code =
            unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.port, &raw mut rx, &raw mut tx) };
        if code != 0 {
            return Err(refused(code));
        }
        // SAFETY: wants a configured, stopped port and a pool that outlives the device: `LinkPort` drops devices first.
        let code = unsafe {
            sys::rte_eth_rx_queue_setup(
                self.port,
                0,
                rx,
                socket as u32,
                std::ptr::null(),
                receive.as_ptr(),
            )
        };
        if code != 0 {
            return Err(refused(code));
        }
        // SAFETY: wants a configured, stopped port.
        let code = unsafe {
            sys::rte_eth_tx_queue_setup(self.port, 0, tx, socket as u32, std::ptr::null())
        };
        if code != 0 {
            return Err(refused(code));
        }
        Ok(())
    }

    /// Starts the device; memif's client can't until its server listens.
    pub(crate) fn start(&mut self) -> Result<(), PortError> {
        // SAFETY: wants a configured port.
        let code = unsafe { sys::rte_eth_dev_start(self.port) };
        if code != 0 {
            return Err(PortError::Start(code.saturating_neg()));
        }
        self.started = true;
        Ok(())
    }

    /// Stops the device; its driver gives back every buffer it holds.
    pub(crate) fn stop(&mut self) {
        if std::mem::take(&mut self.started) {
            // SAFETY: wants a started port, and nobody in a burst: bursts need `&mut self`, as this does.
            unsafe { sys::rte_eth_dev_stop(self.port) };
        }
    }

    pub(crate) fn started(&self) -> bool {
        self.started
    }

    pub(crate) fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// The driver's name.
    pub(crate) fn driver(&self) -> &str {
        &self.driver
    }

    /// Sets which of the abilities are used. Before [`Device::configure`].
    pub(crate) fn use_only(&mut self, abilities: Abilities) {
        self.abilities = abilities;
    }

    /// Has the device take frames for groups, which IPv6 asks neighbours in; all frames, where it takes no groups alone. False where it
    /// does neither, which says nothing about a virtual device that filters nothing.
    pub(crate) fn listen_to_groups(&mut self) -> bool {
        // SAFETY: wants a port that exists.
        let groups = unsafe { sys::rte_eth_allmulticast_enable(self.port) == 0 };
        // SAFETY: as above.
        groups || unsafe { sys::rte_eth_promiscuous_enable(self.port) == 0 }
    }

    pub(crate) fn numa_socket(&self) -> i32 {
        // SAFETY: wants a port that exists; -1 ("any") for virtual ones.
        unsafe { sys::rte_eth_dev_socket_id(self.port) }
    }

    pub(crate) fn mac(&self) -> Result<[u8; 6], PortError> {
        let mut address = sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: wants a port that exists and a place for the address.
        let code = unsafe { sys::rte_eth_macaddr_get(self.port, &raw mut address) };
        if code == 0 {
            Ok(address.addr_bytes)
        } else {
            Err(PortError::Configure(code.saturating_neg()))
        }
    }

    /// Whether the driver says that the link is up.
    pub(crate) fn link_up(&self) -> bool {
        let mut link = MaybeUninit::<sys::rte_eth_link>::zeroed();
        // SAFETY: wants a port that exists and a place for the answer; doesn't wait.
        let code = unsafe { sys::rte_eth_link_get_nowait(self.port, link.as_mut_ptr()) };
        // SAFETY: zeroed above, so initialised whatever the call did; it is plain numbers.
        let link = unsafe { link.assume_init() };
        code == 0 && u32::from(link.link_status()) == sys::RTE_ETH_LINK_UP
    }

    /// Takes frames off the device; how many. They are the caller's to free.
    #[inline]
    pub(crate) fn receive(&mut self, frames: &mut [Mbuf]) -> usize {
        if !self.started {
            return 0;
        }
        let count = frames.len().min(usize::from(u16::MAX)) as u16;
        // SAFETY: wants a started port, its queue 0 used by one thread (`&mut self`), and room for `count` pointers.
        usize::from(unsafe { sys::rte_eth_rx_burst(self.port, 0, frames.as_mut_ptr(), count) })
    }

    /// Gives frames to the device; how many it took, from the front. Those are its own from then on.
    ///
    /// # Safety
    /// `frames` are well-formed buffers that the caller owns.
    #[inline]
    pub(crate) unsafe fn transmit(&mut self, frames: &mut [Mbuf]) -> usize {
        if !self.started {
            return 0;
        }
        let count = frames.len().min(usize::from(u16::MAX)) as u16;
        // SAFETY: wants a started port, its queue 0 used by one thread (`&mut self`), and `count` buffers we own (contract).
        usize::from(unsafe { sys::rte_eth_tx_burst(self.port, 0, frames.as_mut_ptr(), count) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: wants a stopped port that nobody uses afterwards.
        unsafe { sys::rte_eth_dev_close(self.port) };
        remove(self.bus, &self.name);
    }
}

/// Takes a virtual device off its bus, so that its name is free again.
fn remove(bus: Bus, name: &CStr) {
    if bus == Bus::Pci {
        // Nobody made it, and another start of this process is none of DPDK's (EAL-1).
        return;
    }
    // SAFETY: wants two C strings; a device that is gone already is refused with an error we don't need.
    unsafe { sys::rte_eal_hotplug_remove(VDEV.as_ptr(), name.as_ptr()) };
}

const VDEV: &CStr = c"vdev";
/// Wished ring size of a queue; a device fits it to its limits.
const DESCRIPTORS: u16 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_used_that_a_driver_does_not_say_it_has() {
        let silent = Abilities::of(0, 0, 0);
        assert!(!silent.tx_udp && !silent.rx_udp);
        let able = Abilities::of(u64::MAX, u64::MAX, 9000);
        assert!(able.tx_udp && able.rx_udp);
        assert_eq!(able.mtu_max, 9000);
    }

    #[test]
    fn each_ability_is_a_flag_of_its_own_direction() {
        let tx = Abilities::of(u64::from(sys::RTE_ETH_TX_OFFLOAD_UDP_CKSUM), 0, 0);
        assert!(tx.tx_udp && !tx.rx_udp);
        let rx = Abilities::of(0, u64::from(sys::RTE_ETH_RX_OFFLOAD_UDP_CKSUM), 0);
        assert!(rx.rx_udp && !rx.tx_udp);
    }
}
