//! Any bytes as a file of the format `csv`: rows or a refusal, and nothing else.
#![no_main]
use latente_fuzz::ingested;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ingested("csv", bytes));
