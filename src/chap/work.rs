//! What an authentication wants computed away from those who must not wait. Plain values, as large as they get: they are handed through
//! bounded queues.

use crate::group::{Private, Public};
use crate::response::Digest;
use ibid_wire::nvme_tcp::{AuthHash, DhGroup, HASH_BYTES_MAX};

/// Something to compute.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lies in a queue that is made for the larger one")]
pub enum Work {
    /// A challenge, and a pair of keys where there is a group.
    Keys {
        /// The group.
        group: DhGroup,
    },
    /// What is agreed with the other side.
    Agree {
        /// The group.
        group: DhGroup,
        /// The hash function.
        hash: AuthHash,
        /// Our exponent.
        private: Private,
        /// The other side's value.
        other: Public,
    },
}

/// Challenge and keys.
#[derive(Debug)]
pub struct Keys {
    /// A challenge for the longest hash function; its beginning serves for a shorter one.
    pub challenge: [u8; HASH_BYTES_MAX],
    /// Where sequence numbers may begin.
    pub seqnum: u32,
    /// Our exponent.
    pub private: Private,
    /// Our value; empty without a group.
    pub public: Public,
}

/// What came of it.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lies in a queue that is made for the larger one")]
pub enum Done {
    /// Challenge and keys.
    Keys(Keys),
    /// What was agreed, hashed. `None`: the other side's value was none.
    Agreed(Option<Digest>),
}

impl Work {
    /// To agree with the other side, whose value came like this.
    pub fn agree(group: DhGroup, hash: AuthHash, private: Private, value: &[u8]) -> Self {
        Self::Agree { group, hash, private, other: Public::new(value) }
    }

    /// Does it. Fails only if there is no chance to be had.
    pub fn run<E>(self, mut random: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Done, E> {
        match self {
            Self::Keys { group } => {
                let (mut challenge, mut seqnum) = ([0; HASH_BYTES_MAX], [0; 4]);
                random(&mut challenge)?;
                random(&mut seqnum)?;
                let private = Private::new(random)?;
                let public = match group {
                    DhGroup::Null => Public::new(&[]),
                    group => private.public(group),
                };
                let seqnum = u32::from_le_bytes(seqnum);
                Ok(Done::Keys(Keys { challenge, seqnum, private, public }))
            }
            Self::Agree { group, hash, private, other } => {
                Ok(Done::Agreed(private.agree(group, hash, other.bytes())))
            }
        }
    }
}
