//! Sleeping until a socket moves.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Sockets that can be waited for at once: an admin queue and the most I/O queues a target grants us.
pub(crate) const SOCKETS_MAX: usize = 65;

/// Sleeps until one of the sockets can be read, or written where the flag asks for that, or the time is over.
pub(crate) fn wait<'a>(
    sockets: impl Iterator<Item = (&'a TcpStream, bool)>,
    timeout: Duration,
) -> io::Result<()> {
    let mut entries = [libc::pollfd { fd: -1, events: 0, revents: 0 }; SOCKETS_MAX];
    let mut count = 0;
    for (entry, (socket, writes)) in entries.iter_mut().zip(sockets) {
        let events = if writes { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        *entry = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
        count += 1;
    }
    // Rounded up, so that a wait for less than a millisecond does not spin.
    let millis = timeout.as_micros().div_ceil(1000).min(1 << 30) as libc::c_int;
    // SAFETY: `poll` wants `count` entries it may write to for the length of the call; `entries` is a local array of at least so many.
    let answer = unsafe { libc::poll(entries.as_mut_ptr(), count, millis) };
    if answer < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}
