//! Stories of the API: through the real router, on a real database, with real trainer processes.
//!
//! Those that kill things run the executable itself (`server`).

mod support;

mod artifacts;
mod batch_inference;
mod bombs;
mod cards;
mod columns;
mod datasets;
mod exports;
mod extending;
mod formats;
mod imports;
mod inference;
mod jobs;
mod memory;
mod models;
mod openapi;
mod operations;
mod pausing;
mod presets;
mod pressure;
mod refusals;
mod registry;
mod server;
mod splits;
mod store;
mod sweeps;
mod uploads;
mod usage;
mod v2;
mod versions;
