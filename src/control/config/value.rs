//! The values a configuration is written in: sizes, spans of time, UUIDs, NVMe names and words from a short list.
//! Takes text, gives plain numbers and enums, and writes each back so that reading it again gives the same.
//! Knows no key and no file: who may use which value is in `keys`.

use core::fmt;
use core::str::FromStr;

use ibid_units::Nanos;
use serde::{Deserialize, Serialize};

/// Why a piece of text is not the value it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ValueError {
    /// No number where one should stand, or a number past 64 bits.
    #[error("is not a whole number with a unit")]
    NotANumber,
    /// A number without unit, or with one that ibid doesn't know.
    #[error("needs one of these units: {0}")]
    UnknownUnit(&'static str),
    /// Not 32 hexadecimal digits in the grouping of RFC 9562.
    #[error("is not a UUID such as 6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9d")]
    NotAUuid,
    /// Not in the list of words.
    #[error("is not one of:{0}")]
    UnknownWord(&'static str),
}

const SIZE_UNITS: &str = "B, KiB, MiB, GiB, TiB";
const SPAN_UNITS: &str = "us, ms, s, min, h";

/// Bytes of a size such as `64MiB`. Binary units only: a log of "64MB" would not be a whole number of pages.
pub fn parse_size(text: &str) -> Result<u64, ValueError> {
    let (number, unit) = split_unit(text)?;
    let scale: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(ValueError::UnknownUnit(SIZE_UNITS)),
    };
    number.checked_mul(scale).ok_or(ValueError::NotANumber)
}

/// The size in the largest unit that says it exactly.
pub fn format_size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// A span of time such as `10s`.
pub fn parse_span(text: &str) -> Result<Nanos, ValueError> {
    let (number, unit) = split_unit(text)?;
    let scale: u64 = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(ValueError::UnknownUnit(SPAN_UNITS)),
    };
    number.checked_mul(scale).map(Nanos::new).ok_or(ValueError::NotANumber)
}

/// The span in the largest unit that says it exactly; what is finer than a microsecond can't have come from a file and is dropped.
pub fn format_span(span: Nanos) -> String {
    let us = span.get() / 1_000;
    for (unit, scale) in
        [("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000)]
    {
        if us != 0 && us.is_multiple_of(scale) {
            return format!("{}{unit}", us / scale);
        }
    }
    format!("{us}us")
}

fn split_unit(text: &str) -> Result<(u64, &str), ValueError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Ok((number.parse().map_err(|_| ValueError::NotANumber)?, unit.trim_start_matches(' ')))
}

/// A UUID in the byte order of its text (RFC 9562), which is also the order NVMe carries it in (NVMe Base 2.0, 4.5.1.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// Wraps sixteen bytes in text order.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    /// A fresh version 4 UUID made of random bytes, of which it keeps 122 bits.
    pub const fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
    /// The bytes in text order.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
    /// Whether all bits are zero, which NVMe and ibid both take for "no UUID".
    pub const fn is_nil(self) -> bool {
        u128::from_be_bytes(self.0) == 0
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let groups: Vec<&str> = text.splitn(6, '-').collect();
        let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
        if lengths != [8, 4, 4, 4, 12] || !text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
        {
            return Err(ValueError::NotAUuid);
        }
        let number =
            u128::from_str_radix(&groups.concat(), 16).map_err(|_| ValueError::NotAUuid)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl Serialize for Uuid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An Ethernet address as six pairs of hexadecimal digits; only a single station's, never all zero.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut mac {
        let pair = pairs.next()?;
        if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    // IEEE 802.3, 3.2.3: the lowest bit of the first byte marks a group address.
    let one_station = mac[0] & 1 == 0 && mac != [0; 6];
    (pairs.next().is_none() && one_station).then_some(mac)
}

/// The address in the form that [`parse_mac`] takes.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Whether `text` is an NVMe Qualified Name of a host or an NVM subsystem: at most 223 bytes, `nqn.yyyy-mm.reverse.domain`
/// with an optional `:text` behind it, or the UUID form (NVMe Base 2.0, 4.5). The well-known discovery name is no such name.
pub fn is_nqn(text: &str) -> bool {
    if text.len() > NQN_BYTES_MAX
        || text == DISCOVERY_NQN
        || text.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        return false;
    }
    if let Some(uuid) = text.strip_prefix(NQN_UUID_PREFIX) {
        return uuid.parse::<Uuid>().is_ok();
    }
    let Some(rest) = text.strip_prefix("nqn.") else {
        return false;
    };
    let Some((date, rest)) = rest.split_once('.') else {
        return false;
    };
    let Some((year, month)) = date.split_once('-') else {
        return false;
    };
    let date_is_one = year.len() == 4
        && month.len() == 2
        && year.bytes().all(|b| b.is_ascii_digit())
        && month.parse::<u8>().is_ok_and(|month| (1..=12).contains(&month));
    let (domain, unique) = match rest.split_once(':') {
        Some((domain, unique)) => (domain, Some(unique)),
        None => (rest, None),
    };
    let domain_is_one = domain.split('.').all(|label| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    date_is_one && domain_is_one && unique != Some("")
}

/// Longest NQN in bytes, its terminating zero not counted (NVMe Base 2.0, 4.5).
pub const NQN_BYTES_MAX: usize = 223;
/// What every NQN built from a UUID starts with (NVMe Base 2.0, 4.5).
pub const NQN_UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";
/// The name every discovery subsystem answers to (NVMe over Fabrics 1.1, 1.5.2).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Makes an enum whose variants are written as words, in the configuration, on the command line and in status alike.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every word there is, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
            /// The variant's word.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.word()) }
        }
        impl FromStr for $name {
            type Err = ValueError;
            fn from_str(text: &str) -> Result<Self, ValueError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(ValueError::UnknownWord(concat!($(" `", $word, "`"),+))),
                }
            }
        }
    };
}

words! {
    /// A hash function that hosts may authenticate with.
    AuthHash {
        /// SHA-256.
        Sha256 = "sha256",
        /// SHA-384.
        Sha384 = "sha384",
        /// SHA-512.
        Sha512 = "sha512",
    }
}
words! {
    /// A Diffie-Hellman group that hosts may authenticate with.
    AuthGroup {
        /// None.
        Null = "null",
        /// 2048 bits.
        Ffdhe2048 = "ffdhe2048",
        /// 3072 bits.
        Ffdhe3072 = "ffdhe3072",
        /// 4096 bits.
        Ffdhe4096 = "ffdhe4096",
        /// 6144 bits.
        Ffdhe6144 = "ffdhe6144",
        /// 8192 bits.
        Ffdhe8192 = "ffdhe8192",
    }
}
words! {
    /// What a node does for its pair.
    Role {
        /// Takes client writes.
        Source = "source",
        /// Holds the mirror.
        Destination = "destination",
    }
}
words! {
    /// What a shard does when there is nothing to do.
    Idle {
        /// Spins for a while, then yields, then sleeps.
        Adaptive = "adaptive",
        /// Never stops polling: lowest latency, a whole core.
        Spin = "spin",
    }
}
words! {
    /// What is done to the link's frames. They are always authenticated.
    Encryption {
        /// They are encrypted.
        Full = "full",
        /// Whoever sees them can read them.
        IntegrityOnly = "integrity-only",
    }
}
words! {
    /// What an acknowledged write has reached on this node.
    Durability {
        /// The log device.
        Disk = "disk",
        /// This node's memory only: a power cut here loses this copy.
        Memory = "memory",
    }
}
words! {
    /// What a consistency point sends for a block whose bytes lie in the peer's log.
    CpMode {
        /// 16 bytes for a run of them.
        Reference = "reference",
        /// Every block again, as systems without a mirrored log do; there to measure the difference.
        Full = "full",
    }
}
words! {
    /// What a source does with writes while its peer is away.
    OnPeerLoss {
        /// They wait.
        Stall = "stall",
        /// They are taken here alone; the peer is caught up later.
        Continue = "continue",
    }
}
words! {
    /// Which end of a memif link this node is (DPDK's memif driver, option `role`).
    MemifRole {
        /// Makes the socket and waits.
        Server = "server",
        /// Connects, and owns the memory.
        Client = "client",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_written_as_they_are_read() {
        for bytes in [0, 1, 512, 4096, 3 << 20, 64 << 20, 1 << 30, (1 << 30) + 1, 5 << 40] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        for us in [0, 1, 999, 1_000, 10_000_000, 90_000_000, 7_200_000_000] {
            let span = Nanos::from_micros(us);
            assert_eq!(parse_span(&format_span(span)), Ok(span));
        }
        assert_eq!(format_size(64 << 20), "64MiB");
        assert_eq!(format_span(Nanos::from_millis(90_000)), "90s");
    }

    #[test]
    fn a_size_without_a_binary_unit_is_refused() {
        for text in ["64", "64MB", "64M", "64mib", "64 GiB x"] {
            assert_eq!(parse_size(text), Err(ValueError::UnknownUnit(SIZE_UNITS)), "{text}");
        }
        for text in ["", "MiB", "-1MiB", "1.5GiB", "18446744073709551616B", "16777216TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_size("64 MiB"), Ok(64 << 20));
    }

    #[test]
    fn a_uuid_is_exactly_thirty_two_digits_in_five_groups() {
        let text = "6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9d";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.bytes()[..4], [0x6f, 0x1c, 0x4a, 0x52]);
        assert_eq!(uuid.to_string(), text);
        assert_eq!("6F1C4A52-3D0E-4F0B-9C5E-2F6F0A7B8C9D".parse(), Ok(uuid));
        for bad in [
            "",
            "6f1c4a523d0e4f0b9c5e2f6f0a7b8c9d",
            "6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9",
            "6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9g",
            "6f1c4a52-3d0e-4f0b-9c5e-+f6f0a7b8c9d",
            "6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9d-",
        ] {
            assert_eq!(bad.parse::<Uuid>(), Err(ValueError::NotAUuid), "{bad}");
        }
        assert_eq!(
            Uuid::from_random([0xff; 16]).to_string(),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
    }

    #[test]
    fn a_name_is_an_nqn_in_one_of_its_two_forms() {
        for good in [
            "nqn.2014-08.com.example:nvme.host.sys.xyz",
            "nqn.2014-08.com.example",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        ] {
            assert!(is_nqn(good), "{good}");
        }
        let long = format!("nqn.2014-08.com.example:{}", "x".repeat(200));
        for bad in [
            "",
            "nqn",
            "iqn.2014-08.com.example:x",
            "nqn.2014-13.com.example:x",
            "nqn.14-08.com.example:x",
            "nqn.2014-08..example:x",
            "nqn.2014-08.com.example:",
            "nqn.2014-08.com.example:a b",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae",
            DISCOVERY_NQN,
            &long,
        ] {
            assert!(!is_nqn(bad), "{bad}");
        }
    }

    #[test]
    fn a_mac_address_names_one_station() {
        assert_eq!(parse_mac("02:00:00:00:00:0a"), Some([2, 0, 0, 0, 0, 10]));
        assert_eq!(format_mac([2, 0, 0, 0, 0, 10]), "02:00:00:00:00:0a");
        for bad in [
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "2:0:0:0:0:a",
            "02:00:00:00:00",
            "02:00:00:00:00:0a:0b",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_word_outside_the_list_is_refused_with_the_list() {
        assert_eq!("full".parse(), Ok(CpMode::Full));
        assert_eq!(CpMode::WORDS, ["reference", "full"]);
        let refused = "Full".parse::<CpMode>().unwrap_err();
        assert_eq!(refused.to_string(), "is not one of: `reference` `full`");
    }
}
