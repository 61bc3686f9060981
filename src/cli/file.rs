//! A file on the command line, and what may be said of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;

use crate::data::dataset::Role;
use crate::data::{DataError, Format, IngestSpec, Ingested, ingest};

/// Rows of a file from the command line, in bytes.
const MOST_BYTES: u64 = 1 << 40;

/// A file, and what is not to be found in it.
#[derive(Args, Clone, Debug)]
pub(super) struct FileArgs {
    /// The file, in any format that can be uploaded.
    file: PathBuf,
    /// The format; found by content when left out.
    #[arg(long)]
    format: Option<String>,
    /// A column that is fed to the model; when some are named, the others are not. May be repeated.
    #[arg(long, value_name = "COLUMN")]
    feature: Vec<String>,
    /// A column that is kept as a label and not fed to the model. May be repeated.
    #[arg(long, value_name = "COLUMN")]
    label: Vec<String>,
    /// A column that is left out. May be repeated.
    #[arg(long, value_name = "COLUMN")]
    ignore: Vec<String>,
    /// A column that says which row this is. May be repeated.
    #[arg(long, value_name = "COLUMN")]
    id: Vec<String>,
    /// What the values of a column are, such as `sex:categorical`. May be repeated.
    #[arg(long, value_name = "COLUMN:KIND")]
    kind: Vec<String>,
    /// The levels of a category in their order, such as `size:small,large`. May be repeated.
    #[arg(long, value_name = "COLUMN:LEVEL,LEVEL")]
    levels: Vec<String>,
    /// A text or number that stands for a missing value. May be repeated.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    missing: Vec<String>,
    /// What stands between the cells of a text; found when left out.
    #[arg(long)]
    delimiter: Option<String>,
    /// The decimal sign of a text; found when left out.
    #[arg(long)]
    decimal: Option<String>,
    /// The image that the columns are the pixels of, such as 8x8.
    #[arg(long)]
    shape: Option<String>,
    /// The size that images of files are brought to, such as 28x28.
    #[arg(long)]
    resize: Option<String>,
}

impl FileArgs {
    /// Reads the file and writes its canonical rows.
    ///
    /// # Errors
    /// For people: every fault of the file.
    pub fn read(&self, target: &Path) -> anyhow::Result<Ingested> {
        let spec = self.spec().map_err(|fault| anyhow!(fault))?;
        ingest(&self.file, target, &spec, MOST_BYTES)
            .map_err(|error| match error {
                DataError::Refused(refusal) => super::faults("the file is not as it must be", &refusal),
                DataError::Io(error) => error.into(),
            })
            .with_context(|| format!("{} was not taken", self.file.display()))
    }

    fn spec(&self) -> Result<IngestSpec, String> {
        let mut spec = IngestSpec { missing: self.missing.clone(), ..IngestSpec::default() };
        spec.format =
            self.format.as_deref().map(Format::parse).transpose().map_err(|fault| format!("--format {fault}"))?;
        let roles = [
            (&self.feature, Role::Feature),
            (&self.label, Role::Label),
            (&self.id, Role::Id),
            (&self.ignore, Role::Ignore),
        ];
        for (names, role) in roles {
            spec = spec.with_role(role, names.iter().map(String::as_str));
        }
        self.kind.iter().try_for_each(|text| spec.say_kind(text)).map_err(|fault| format!("--kind {fault}"))?;
        self.levels.iter().try_for_each(|text| spec.say_levels(text)).map_err(|fault| format!("--levels {fault}"))?;
        let delimiter = self.delimiter.iter().try_for_each(|text| spec.say_delimiter(text));
        delimiter.map_err(|fault| format!("--delimiter {fault}"))?;
        self.decimal
            .iter()
            .try_for_each(|text| spec.say_decimal(text))
            .map_err(|fault| format!("--decimal {fault}"))?;
        spec.image = self.shape.as_deref().map(str::parse).transpose()?;
        spec.resize = self.resize.as_deref().map(str::parse).transpose()?;
        Ok(spec)
    }
}
