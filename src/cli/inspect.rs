//! Says what is in a file, without a server: the same reading that an upload gets.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use clap::Args;

use super::file::FileArgs;
use crate::data::dataset::Column;
use crate::data::rows::RowFile;
use crate::data::summary::summarize;

/// Say what is in a file.
#[derive(Args, Debug)]
pub(super) struct Inspect {
    #[command(flatten)]
    file: FileArgs,
    /// The whole profile as JSON.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match print(&self.report()?) {
            // Whoever read it has seen enough: `latente inspect FILE | head`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    /// All that is said.
    fn report(&self) -> anyhow::Result<String> {
        let scratch = tempfile::tempdir()?;
        let target = scratch.path().join("rows.f32");
        let ingested = self.file.read(&target)?;
        let schema = &ingested.schema;
        let rows = RowFile::open(&target, schema.kept().count(), ingested.rows)?;
        let summary = summarize(&rows, schema);
        if self.json {
            let whole = serde_json::json!({
                "format": ingested.format, "rows": ingested.rows, "schema": schema, "profile": summary
            });
            return Ok(serde_json::to_string_pretty(&whole)? + "\n");
        }
        let image = schema.image.map_or(String::new(), |image| format!(", images of {image}"));
        let mut out = String::new();
        writeln!(out, "{} rows of {} columns{image}", ingested.rows, schema.columns.len())?;
        let wide = schema.columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0).clamp(6, 40);
        for column in schema.columns.iter().take(COLUMNS_SHOWN) {
            writeln!(
                out,
                "{:<wide$}  {:<8}{:<12}{}",
                column.name,
                name_of(&column.role)?,
                name_of(&column.kind)?,
                described(column)
            )?;
        }
        if schema.columns.len() > COLUMNS_SHOWN {
            writeln!(out, "… and {} more; --json tells all", schema.columns.len() - COLUMNS_SHOWN)?;
        }
        for warning in &summary.warnings {
            writeln!(
                out,
                "mind: {}{}",
                warning.column.as_deref().map_or(String::new(), |name| format!("{name}: ")),
                warning.detail
            )?;
        }
        Ok(out)
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Columns of the table on the terminal.
const COLUMNS_SHOWN: usize = 60;

/// The name that a value has on the wire.
fn name_of(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_value(value)?.as_str().unwrap_or_default().to_owned())
}

fn described(column: &Column) -> String {
    let mut parts = Vec::new();
    if let Some(profile) = &column.profile {
        if !column.levels.is_empty() {
            let some: Vec<&str> = column.levels.iter().take(5).map(String::as_str).collect();
            let more = if column.levels.len() > some.len() { ", …" } else { "" };
            parts.push(format!("{}{more}", some.join(", ")));
        } else if let (Some(low), Some(high)) = (profile.minimum, profile.maximum) {
            parts.push(format!("{} to {}", low as f32, high as f32));
        }
        if profile.missing > 0 {
            parts.push(format!("{} missing", profile.missing));
        }
    }
    parts.extend(column.reason.clone());
    parts.join("; ")
}
