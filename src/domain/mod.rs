//! Plain values that every floor shares: ids, shapes, statuses, limits and refusals.
//!
//! Nothing here does I/O, waits, touches a tensor, or knows SQL or HTTP. Start reading with [`job`] (the life of a job) and
//! [`refusal`] (the table of public error codes).

pub mod id;
pub mod job;
pub mod limits;
pub mod metric;
pub mod name;
pub mod reference;
pub mod refusal;
pub mod shape;
pub mod sweep;
pub mod treatment;
