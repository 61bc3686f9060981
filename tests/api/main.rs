//! Stories of the API: through the real router, on a real database, with real trainer processes.
//!
//! Those that kill things run the executable itself (`server`).

mod support;

mod bombs;
mod columns;
mod datasets;
mod exports;
mod extending;
mod formats;
mod inference;
mod jobs;
mod memory;
mod models;
mod openapi;
mod operations;
mod pausing;
mod presets;
mod refusals;
mod server;
mod splits;
mod store;
mod uploads;
mod usage;
mod versions;
