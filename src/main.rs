//! The executable; everything is in the library.

fn main() -> anyhow::Result<()> {
    latente::cli::run()
}
