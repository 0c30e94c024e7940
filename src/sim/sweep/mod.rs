//! What is enumerated, not drawn: crashes behind every effect (E1), single faults of every structure in every activity (E2), the N-th failure of
//! every operation (E3). Each case is a short deterministic run that a name brings back.

pub mod crash;
pub mod expect;
pub mod matrix;
pub mod nth;
pub mod operator;
pub mod pool;
pub mod script;
