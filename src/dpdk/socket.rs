//! What is outside of DPDK but must be right before it opens a device: memif's socket file, an interface and its MTU.
//! Takes names; removes only a socket file that nobody listens on.

use std::fs;
use std::io;
use std::mem;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::error::PortError;

/// Removes the socket file of a dead server, which would keep the new one from binding. A file that is no socket and a socket
/// that somebody answers at stay, and are errors.
pub(crate) fn remove_stale(path: &Path) -> Result<(), PortError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    if !kind.is_socket() {
        return Err(PortError::Socket(libc::EEXIST));
    }
    if answers(path)? {
        return Err(PortError::SocketInUse);
    }
    fs::remove_file(path).map_err(|error| failed(&error))
}

/// Whether somebody listens on the socket. memif's are of type SEQPACKET; we knock with another type on purpose: the kernel says
/// EPROTOTYPE where somebody listens and ECONNREFUSED where nobody does, and the server never hears of it. (One that hears of
/// a connection which closes at once is brought down by it.)
fn answers(path: &Path) -> Result<bool, PortError> {
    let text = path.to_str().ok_or(PortError::Name)?;
    // SAFETY: a sockaddr_un is numbers; all zeroes is a valid one.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    if text.len() >= address.sun_path.len() {
        return Err(PortError::Name);
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(text.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: no precondition; returns a descriptor or -1.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(failed(&io::Error::last_os_error()));
    }
    // SAFETY: wants an address of the length it is told; the path is shorter than the field, so it ends in a NUL.
    let code = unsafe {
        libc::connect(
            socket,
            (&raw const address).cast(),
            mem::size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    };
    let error = io::Error::last_os_error();
    // SAFETY: closes the descriptor made above.
    unsafe { libc::close(socket) };
    match error.raw_os_error() {
        _ if code == 0 => Ok(true),
        Some(libc::ECONNREFUSED) => Ok(false),
        // A socket of another type, or a full backlog: somebody is there.
        Some(libc::EAGAIN | libc::EPROTOTYPE) => Ok(true),
        _ => Err(failed(&error)),
    }
}

/// Refuses an interface that is not there or that would drop full frames.
pub(crate) fn check_interface(name: &str, mtu: u16) -> Result<(), PortError> {
    // SAFETY: an ifreq is numbers; all zeroes is a valid one.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(PortError::Name);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: no precondition; returns a descriptor or -1.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(failed(&io::Error::last_os_error()));
    }
    // SAFETY: SIOCGIFMTU reads `ifr_name`, which ends in a NUL, and writes `ifr_mtu` of the same structure.
    let code = unsafe { libc::ioctl(socket, libc::SIOCGIFMTU, &raw mut request) };
    // SAFETY: closes the descriptor made above.
    unsafe { libc::close(socket) };
    if code != 0 {
        return Err(PortError::NoInterface);
    }
    // SAFETY: the ioctl succeeded, so `ifr_mtu` is the member of the union that was written.
    let have = u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0);
    if have < u32::from(mtu) { Err(PortError::InterfaceMtu { have, want: mtu }) } else { Ok(()) }
}

fn failed(error: &io::Error) -> PortError {
    PortError::Socket(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_dead_socket_is_removed() {
        let dir = std::env::temp_dir();
        let path = dir.join(format!("ibid-dpdk-socket-{}", std::process::id()));
        assert_eq!(remove_stale(&path), Ok(()), "nothing there");

        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(remove_stale(&path), Err(PortError::SocketInUse));
        drop(listener);
        assert!(path.exists());
        assert_eq!(remove_stale(&path), Ok(()), "nobody listens any more");
        assert!(!path.exists());

        fs::write(&path, b"precious").unwrap();
        assert_eq!(remove_stale(&path), Err(PortError::Socket(libc::EEXIST)));
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_interface_is_measured_before_it_is_opened() {
        assert_eq!(check_interface("lo", 9000), Ok(()));
        assert_eq!(check_interface("no-such-if", 1500), Err(PortError::NoInterface));
        assert_eq!(check_interface("sixteen-bytes-xx", 1500), Err(PortError::Name));
    }
}
