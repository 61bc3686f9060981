//! Any bytes as a file of the format `arrow`: rows or a refusal, and nothing else.
#![no_main]
use latente_fuzz::ingested;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ingested("arrow", bytes));
