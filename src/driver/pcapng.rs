//! Frames as a pcapng file (draft-ietf-opsawg-pcapng): the four kinds of block that a capture of one interface takes, little-endian.
//! Takes datagrams and the addresses of the link's ends; writes IP and UDP headers of its own before each (link type "raw IP"), since the
//! real ones are the device's. Knows nothing of threads and queues: see `capture`.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

/// Which way a frame went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// From the peer.
    Inbound,
    /// To the peer.
    Outbound,
}

/// One frame's place in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameMark {
    pub(crate) direction: Direction,
    /// Nanoseconds since 1970.
    pub(crate) at: u64,
    /// Frames that are missing between the one before and this.
    pub(crate) missing: u32,
}

/// Writes one capture.
pub(crate) struct PcapWriter<W> {
    out: W,
    local: SocketAddr,
    peer: SocketAddr,
}

impl<W: Write> PcapWriter<W> {
    /// Begins a capture of what passes between two addresses. `about` is shown as the interface's description.
    pub(crate) fn new(
        mut out: W,
        local: SocketAddr,
        peer: SocketAddr,
        about: &str,
    ) -> io::Result<Self> {
        let mut section = Vec::new();
        section.extend_from_slice(&BYTE_ORDER.to_le_bytes());
        // Version 1.0; the section's length is not known.
        section.extend_from_slice(&[1, 0, 0, 0]);
        section.extend_from_slice(&u64::MAX.to_le_bytes());
        option(&mut section, SHB_USERAPPL, concat!("ibid ", env!("CARGO_PKG_VERSION")).as_bytes());
        end_of_options(&mut section);
        block(&mut out, BLOCK_SECTION, &section)?;

        let mut interface = Vec::new();
        interface.extend_from_slice(&LINK_TYPE_RAW.to_le_bytes());
        // Reserved, and no limit on a frame's length.
        interface.extend_from_slice(&[0; 6]);
        option(&mut interface, IF_NAME, b"link");
        option(&mut interface, IF_DESCRIPTION, about.as_bytes());
        option(&mut interface, IF_TSRESOL, &[NANOSECONDS]);
        end_of_options(&mut interface);
        block(&mut out, BLOCK_INTERFACE, &interface)?;
        Ok(Self { out, local, peer })
    }

    /// Writes one datagram with headers before it.
    pub(crate) fn frame(&mut self, mark: FrameMark, datagram: &[u8]) -> io::Result<()> {
        let (from, to) = match mark.direction {
            Direction::Outbound => (self.local, self.peer),
            Direction::Inbound => (self.peer, self.local),
        };
        let mut room = [0; HEADERS_BYTES_MAX];
        let headers = headers(from, to, datagram, &mut room);
        let length = headers.len() + datagram.len();
        let padding = length.next_multiple_of(4) - length;

        let mut tail = [0; TAIL_BYTES_MAX];
        let mut options = &mut tail[..];
        let way = match mark.direction {
            Direction::Inbound => 1u32,
            Direction::Outbound => 2,
        };
        let mut put = |bytes: &[u8]| {
            let room = std::mem::take(&mut options);
            let (here, behind) = room.split_at_mut(bytes.len());
            here.copy_from_slice(bytes);
            options = behind;
        };
        put(&[0; 3][..padding]);
        put(&EPB_FLAGS.to_le_bytes());
        put(&4u16.to_le_bytes());
        put(&way.to_le_bytes());
        if mark.missing > 0 {
            put(&EPB_DROPCOUNT.to_le_bytes());
            put(&8u16.to_le_bytes());
            put(&u64::from(mark.missing).to_le_bytes());
        }
        put(&[0; 4]);
        let left = options.len();
        let tail = &tail[..TAIL_BYTES_MAX - left];

        let total = BLOCK_BYTES + EPB_HEAD_BYTES + length + tail.len();
        self.out.write_all(&BLOCK_PACKET.to_le_bytes())?;
        self.out.write_all(&word(total))?;
        // Interface 0.
        self.out.write_all(&[0; 4])?;
        // The upper half of the time, then the lower one.
        self.out.write_all(&((mark.at >> 32) as u32).to_le_bytes())?;
        self.out.write_all(&(mark.at as u32).to_le_bytes())?;
        self.out.write_all(&word(length))?;
        self.out.write_all(&word(length))?;
        self.out.write_all(headers)?;
        self.out.write_all(datagram)?;
        self.out.write_all(tail)?;
        self.out.write_all(&word(total))
    }

    /// Hands on what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the capture with what became of all frames.
    pub(crate) fn finish(mut self, at: u64, written: u64, dropped: u64) -> io::Result<()> {
        let mut statistics = vec![0; 4];
        statistics.extend_from_slice(&((at >> 32) as u32).to_le_bytes());
        statistics.extend_from_slice(&(at as u32).to_le_bytes());
        option(&mut statistics, ISB_IFRECV, &(written + dropped).to_le_bytes());
        option(&mut statistics, ISB_IFDROP, &dropped.to_le_bytes());
        end_of_options(&mut statistics);
        block(&mut self.out, BLOCK_STATISTICS, &statistics)?;
        self.out.flush()
    }
}

/// IPv4 (RFC 791, "don't fragment", as the link's own) or IPv6 (RFC 8200), and UDP (RFC 768: over IPv4 without a checksum, as the link's
/// own as well; over IPv6 there must be one).
fn headers<'a>(
    from: SocketAddr,
    to: SocketAddr,
    datagram: &[u8],
    room: &'a mut [u8; HEADERS_BYTES_MAX],
) -> &'a [u8] {
    let short = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    let udp_bytes = UDP_BYTES + datagram.len();
    let at = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // Version 4, five words of header.
            room[0] = 0x45;
            room[2..4].copy_from_slice(&short(IPV4_BYTES + udp_bytes));
            room[6] = 0x40;
            room[8] = HOP_LIMIT;
            room[9] = IP_PROTOCOL_UDP;
            room[12..16].copy_from_slice(&from.octets());
            room[16..20].copy_from_slice(&to.octets());
            let sum = !folded(sum(&room[..IPV4_BYTES]));
            room[10..12].copy_from_slice(&sum.to_be_bytes());
            IPV4_BYTES
        }
        // A link's ends are of one family; an address of IPv4 among IPv6 is written as one of IPv6.
        (from, to) => {
            room[0] = 0x60;
            room[4..6].copy_from_slice(&short(udp_bytes));
            room[6] = IP_PROTOCOL_UDP;
            room[7] = HOP_LIMIT;
            room[8..24].copy_from_slice(&in_ipv6(from));
            room[24..40].copy_from_slice(&in_ipv6(to));
            IPV6_BYTES
        }
    };
    room[at..at + 2].copy_from_slice(&from.port().to_be_bytes());
    room[at + 2..at + 4].copy_from_slice(&to.port().to_be_bytes());
    room[at + 4..at + 6].copy_from_slice(&short(udp_bytes));
    if at == IPV6_BYTES {
        // The addresses, the length and the protocol of the pseudo-header, then header and data.
        let total = sum(&room[8..40]) + udp_bytes as u64 + u64::from(IP_PROTOCOL_UDP);
        let sum = !folded(total + sum(&room[40..48]) + sum(datagram));
        let sum = if sum == 0 { u16::MAX } else { sum };
        room[at + 6..at + 8].copy_from_slice(&sum.to_be_bytes());
    }
    &room[..at + UDP_BYTES]
}

fn in_ipv6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The sum of all words of 16 bits (RFC 1071), not yet folded.
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let total = BLOCK_BYTES + body.len();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&word(total))?;
    out.write_all(body)?;
    out.write_all(&word(total))
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend_from_slice(&code.to_le_bytes());
    block.extend_from_slice(&(value.len() as u16).to_le_bytes());
    block.extend_from_slice(value);
    block.resize(block.len().next_multiple_of(4), 0);
}

fn end_of_options(block: &mut Vec<u8>) {
    block.extend_from_slice(&[0; 4]);
}

fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

const BYTE_ORDER: u32 = 0x1A2B_3C4D;
const BLOCK_SECTION: u32 = 0x0A0D_0D0A;
const BLOCK_INTERFACE: u32 = 1;
const BLOCK_STATISTICS: u32 = 5;
const BLOCK_PACKET: u32 = 6;
/// Kind, length, and length again at the end.
const BLOCK_BYTES: usize = 12;
/// What stands in a packet's block before the packet.
const EPB_HEAD_BYTES: usize = 20;
/// Padding, direction, missing frames, end of options.
const TAIL_BYTES_MAX: usize = 3 + 8 + 12 + 4;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
/// Times are multiples of 10 to the minus this.
const NANOSECONDS: u8 = 9;
/// LINKTYPE_RAW: begins with an IP header.
const LINK_TYPE_RAW: u16 = 101;
const UDP_BYTES: usize = 8;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const HEADERS_BYTES_MAX: usize = IPV6_BYTES + UDP_BYTES;
const HOP_LIMIT: u8 = 64;
const IP_PROTOCOL_UDP: u8 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind and body of each block, whose two lengths are the same multiple of 4.
    fn blocks(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut all) = (0, Vec::new());
        while at < file.len() {
            let length = word(at + 4) as usize;
            assert!(length.is_multiple_of(4) && length >= BLOCK_BYTES, "{length}");
            assert_eq!(word(at + length - 4) as usize, length);
            all.push((word(at), file[at + 8..at + length - 4].to_vec()));
            at += length;
        }
        all
    }

    #[test]
    fn a_capture_is_a_chain_of_whole_blocks() {
        let ends = ["10.9.0.1:4790", "10.9.0.2:4791"].map(|end| end.parse().unwrap());
        let mut file = Vec::new();
        let mut writer = PcapWriter::new(&mut file, ends[0], ends[1], "on the wire").unwrap();
        for (length, direction, missing) in [
            (0, Direction::Outbound, 0),
            (5, Direction::Inbound, 0),
            (8972, Direction::Outbound, 7),
        ] {
            let at = 0x1122_3344_5566_7788;
            writer.frame(FrameMark { direction, at, missing }, &vec![7; length]).unwrap();
        }
        writer.finish(9, 3, 7).unwrap();
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|block| block.0).collect();
        assert_eq!(kinds, [BLOCK_SECTION, BLOCK_INTERFACE, 6, 6, 6, BLOCK_STATISTICS]);

        let packet = &blocks[3].1;
        assert_eq!(&packet[4..12], &[0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55]);
        assert_eq!(packet[12..16], (28u32 + 5).to_le_bytes());
        let ip = &packet[20..];
        assert_eq!((ip[0], &ip[2..4], ip[9]), (0x45, &[0, 33][..], 17));
        assert_eq!((&ip[12..16], &ip[16..20]), (&[10, 9, 0, 2][..], &[10, 9, 0, 1][..]));
        assert_eq!(
            (&ip[20..22], &ip[22..24]),
            (&4791u16.to_be_bytes()[..], &4790u16.to_be_bytes()[..])
        );
        assert_eq!((&ip[24..26], &ip[28..33]), (&[0, 13][..], &[7; 5][..]));
        // The header's sum over itself is all ones.
        assert_eq!(folded(sum(&ip[..20])), 0xffff);
        // Inbound; then the end. With frames missing, how many stands between.
        assert_eq!(ip[36..], [2, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        let last = &blocks[4].1[20 + 28 + 8972..];
        assert_eq!(last, [2, 0, 4, 0, 2, 0, 0, 0, 4, 0, 8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn over_ipv6_a_frame_has_the_checksum_that_it_must_have() {
        let ends = ["[fd00::1]:4790", "[fd00::2]:4791"].map(|end| end.parse().unwrap());
        let mut room = [0; HEADERS_BYTES_MAX];
        let bytes = headers(ends[0], ends[1], b"odd", &mut room);
        assert_eq!((bytes.len(), bytes[0], &bytes[4..8]), (48, 0x60, &[0, 11, 17, 64][..]));
        assert_eq!((bytes[8], bytes[23], bytes[39]), (0xfd, 1, 2));
        // Pseudo-header, header and data come to all ones.
        let total = sum(&bytes[8..40]) + 11 + 17 + sum(&bytes[40..]) + sum(b"odd");
        assert_eq!(folded(total), 0xffff);
    }
}
