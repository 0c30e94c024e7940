//! One definition per structure: `layout!` gives a struct, its size, `parse` and `emit` from a table of field and byte offset.
//! All fields are little-endian; bytes between fields are reserved: written as zero, ignored when read (Base 1.4.2).

use super::TooShort;

/// A value with a fixed place and length in a structure.
pub(super) trait Field: Copy {
    /// Bytes it takes.
    const LEN: usize;
    /// Reads it from the start of `bytes`, which are at least `LEN`.
    fn get(bytes: &[u8]) -> Self;
    /// Writes it to the start of `bytes`, which are at least `LEN`.
    fn put(self, bytes: &mut [u8]);
}

macro_rules! number_fields {
    ($($ty:ty),*) => { $(
        impl Field for $ty {
            const LEN: usize = size_of::<$ty>();
            fn get(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$ty>()];
                raw.copy_from_slice(&bytes[..size_of::<$ty>()]);
                <$ty>::from_le_bytes(raw)
            }
            fn put(self, bytes: &mut [u8]) {
                bytes[..size_of::<$ty>()].copy_from_slice(&self.to_le_bytes());
            }
        }
    )* };
}
number_fields!(u8, u16, u32, u64, u128);

impl<const N: usize> Field for [u8; N] {
    const LEN: usize = N;
    fn get(bytes: &[u8]) -> Self {
        let mut raw = [0; N];
        raw.copy_from_slice(&bytes[..N]);
        raw
    }
    fn put(self, bytes: &mut [u8]) {
        bytes[..N].copy_from_slice(&self);
    }
}

/// Refuses bytes shorter than a structure.
pub(super) fn check(bytes: &[u8], needed: usize) -> Result<(), TooShort> {
    if bytes.len() < needed { Err(TooShort { needed, given: bytes.len() }) } else { Ok(()) }
}

/// No field may reach past its structure's end.
pub(super) const fn fits(at: usize, len: usize, bytes: usize) {
    assert!(at + len <= bytes, "a field reaches past its structure's end");
}

macro_rules! layout {
    ($(#[$doc:meta])* pub struct $name:ident [$bytes:expr] { $( $(#[$fdoc:meta])* $field:ident: $ty:ty = $at:expr, )* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name { $( $(#[$fdoc])* pub $field: $ty, )* }

        impl $name {
            /// Length of the structure in bytes.
            pub const BYTES: usize = $bytes;
            /// Reads the structure from the start of `bytes`.
            pub fn parse(bytes: &[u8]) -> Result<Self, $crate::nvme_tcp::TooShort> {
                $crate::nvme_tcp::layout::check(bytes, Self::BYTES)?;
                Ok(Self { $( $field: <$ty as $crate::nvme_tcp::layout::Field>::get(&bytes[$at..]), )* })
            }
            /// Writes the structure to the start of `out`, reserved bytes as zero.
            ///
            /// # Panics
            /// If `out` is shorter than [`Self::BYTES`].
            pub fn emit(&self, out: &mut [u8]) {
                out[..Self::BYTES].fill(0);
                $( $crate::nvme_tcp::layout::Field::put(self.$field, &mut out[$at..]); )*
            }
        }

        $( const _: () = $crate::nvme_tcp::layout::fits(
            $at, <$ty as $crate::nvme_tcp::layout::Field>::LEN, $bytes,
        ); )*
    };
}
