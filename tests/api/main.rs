//! Stories of the API: through the real router, on a real database, with real trainer processes.
//!
//! Those that kill things run the executable itself (`server`).

mod support;

mod datasets;
mod formats;
mod inference;
mod jobs;
mod models;
mod openapi;
mod presets;
mod refusals;
mod server;
mod store;
