//! Rows that a model computed become a dataset: they lie in a file already, and are described as an upload would be.

use std::path::Path;

use super::dataset::{Column, Kind, Role, Schema};
use super::{DataError, Format, Ingested, rows};
use crate::domain::shape::ImageShape;

/// A column that is yet to be described by its values.
pub fn column(name: impl Into<String>, role: Role, reason: impl Into<String>) -> Column {
    Column {
        name: name.into(),
        kind: Kind::Unknown,
        role,
        reason: Some(reason.into()),
        levels: Vec::new(),
        profile: None,
    }
}

/// A column that is to hold values of the same kind as another.
pub fn column_like(column: &Column, role: Role, reason: Option<String>) -> Column {
    Column { role, reason: reason.or_else(|| column.reason.clone()), profile: None, ..column.clone() }
}

/// Describes `count` rows of these columns. Where the values are not of the kind that a column has, it gets another.
///
/// # Errors
/// The file cannot be read, or has another length.
pub fn describe(path: &Path, columns: &[Column], image: Option<ImageShape>, count: u64) -> Result<Ingested, DataError> {
    let profiles = rows::profiles(path, columns.len(), count)?;
    let described = columns.iter().zip(profiles).map(|(column, profile)| {
        let mut column = column.clone();
        if !column.levels.is_empty() {
            let (kind, levels) = (column.kind, std::mem::take(&mut column.levels));
            column.describe_levels(profile, levels, kind == Kind::Ordinal);
            return column;
        }
        column.profile = Some(profile.clone());
        if matches!(column.kind, Kind::Unknown | Kind::Text) || column.unfit(column.kind).is_some() {
            column.describe(profile, count);
        }
        column
    });
    let schema = Schema { columns: described.collect(), image };
    Ok(Ingested { format: Format::Computed, rows: count, schema, bytes: std::fs::metadata(path)?.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_described_by_what_they_hold() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows");
        let rows: [[f32; 3]; 3] = [[0.5, 1.0, 3.0], [-1.5, 0.0, f32::NAN], [2.0, 1.0, 4.5]];
        std::fs::write(&path, bytemuck::cast_slice::<_, u8>(rows.as_flattened())).unwrap();
        let levels =
            Column { levels: vec!["a".into(), "b".into()], kind: Kind::Categorical, ..column("k", Role::Label, "x") };
        let count = Column { kind: Kind::Count, ..column("n", Role::Feature, "y") };
        let found = describe(&path, &[column("z0", Role::Feature, "code"), levels, count], None, 3).unwrap();
        let kinds: Vec<Kind> = found.schema.columns.iter().map(|column| column.kind).collect();
        assert_eq!(kinds, [Kind::Real, Kind::Categorical, Kind::Positive]);
        assert_eq!(found.schema.columns[1].levels, ["a", "b"]);
        assert_eq!(found.schema.columns[2].profile.as_ref().unwrap().missing, 1);
        assert_eq!((found.rows, found.bytes, found.format), (3, 36, Format::Computed));
        assert!(describe(&path, &[column("z0", Role::Feature, "code")], None, 3).is_err());
    }
}
