//! latente: training-as-a-service for autoencoders.
//!
//! Floors, from the ground up; each uses only those below it: [`domain`]; [`data`] and [`models`]; [`training`]; [`store`];
//! [`jobs`] and [`serving`]; [`http`]; then [`app`] and [`cli`], which put them together. `ARCHITECTURE.md` walks through them.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod app;
pub mod cli;
pub mod config;
pub mod data;
pub mod domain;
pub mod http;
pub mod jobs;
pub mod models;
pub mod serving;
pub mod store;
pub mod telemetry;
pub mod training;
