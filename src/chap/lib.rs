//! The arithmetic of DH-HMAC-CHAP (Base 8.13.5), for the target and for the initiator: secrets as nvme-cli writes them, responses to
//! challenges, Diffie-Hellman over the groups of RFC 7919.
//! Takes bytes, and chance from whoever has some; gives bytes. Messages are `wire::nvme_tcp`'s, who says what when is decided in
//! `engine::frontend` and in the client.
//!
//! CHAP-1  what is secret (keys, exponents, what was agreed) is overwritten when it is dropped, is compared in constant time, and
//! shows nothing of itself when it is printed.
//! CHAP-2  an exponentiation takes from a millisecond to some tens of them, by group: it is asked for as [`Work`] and done on a
//! thread that serves nobody else.
#![no_std]
#![forbid(unsafe_code)]

mod group;
mod primes;
mod response;
mod secret;
#[cfg(test)]
mod tests;
mod work;

pub use group::{Private, Public};
pub use response::{Digest, Exchange, Role};
pub use secret::{Key, SECRET_TEXT_MAX, Secret, SecretError};
pub use work::{Done, Keys, Work};
