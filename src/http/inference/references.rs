//! Rows and codes that a query names: out of a dataset, or inline.

use super::Asked;
use super::bodies::{Missing, ONLY_IMPUTE, gap, unknown_class};
use super::prepared::refuse_reference;
use crate::data::dataset::Column;
use crate::data::recode::Recode;
use crate::data::rows::RowFile;
use crate::data::words::Words;
use crate::domain::id::DatasetId;
use crate::domain::limits::INFERENCE_ROWS;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::error::{ApiError, internal};

/// Rows of a query: inline, or out of a dataset.
pub(super) struct Reference {
    pub dataset: Option<DatasetId>,
    pub rows: Option<String>,
    pub x: Vec<String>,
}

impl Reference {
    pub(super) async fn read(self, asked: &Asked, missing: Missing) -> Result<Vec<f32>, ApiError> {
        let Self { dataset, rows, x } = self;
        let missing = asked.missing(missing);
        let Some(id) = dataset else {
            if x.is_empty() {
                let detail = "is missing: name rows by `dataset` and `rows`, or give them as `x`";
                return Err(invalid("?dataset", "missing", detail));
            }
            return Ok(inline(&x, asked.width(), asked.taken().feature_columns(), missing)?);
        };
        if !x.is_empty() {
            return Err(invalid("?x", "conflict", "goes without `dataset`"));
        }
        refuse_reference(asked.units)?;
        stored(asked, id, rows.as_deref(), missing).await
    }
}

fn invalid(pointer: &str, fault: &str, detail: impl Into<String>) -> ApiError {
    Refusal::at(Code::InvalidRequest, pointer, fault, detail).into()
}

async fn stored(asked: &Asked, id: DatasetId, rows: Option<&str>, missing: Missing) -> Result<Vec<f32>, ApiError> {
    let (store, schema, width) = (&asked.app.store, &asked.model.schema, asked.width());
    let dataset = store
        .dataset(id)
        .await
        .map_err(|_| invalid("?dataset", "not_found", format!("is {id}, and there is no dataset of this id")))?;
    let theirs = dataset.schema.feature_columns().map(|column| &column.name);
    if !theirs.eq(schema.feature_columns().map(|column| &column.name)) {
        let detail = "does not have the feature columns that this model was trained on";
        return Err(invalid("?dataset", "wrong_columns", detail));
    }
    let (first, last) = range(rows.unwrap_or("0-31"), rows.is_none(), dataset.rows)
        .map_err(|detail| invalid("?rows", "out_of_range", detail))?;
    Asked::check_answer_size(last - first + 1, width)?;
    let recodes: Vec<Recode> = (dataset.schema.feature_columns().zip(schema.feature_columns()))
        .map(|(theirs, ours)| Recode::between(theirs, ours))
        .collect();
    let (kept, features) = (dataset.schema.kept().count(), dataset.schema.features());
    let (path, count) = (store.rows_path(id), dataset.rows);
    let read = move || -> std::io::Result<Vec<f32>> {
        let file = RowFile::open(&path, kept, count)?;
        Ok((first..=last)
            .flat_map(|row| features.iter().zip(&recodes).map(move |(feature, recode)| (row, *feature, recode)))
            .map(|(row, feature, recode)| recode.apply(file.row(row)[feature]))
            .collect())
    };
    let values =
        tokio::task::spawn_blocking(read).await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))?;
    if let Some(position) = gap(&values, missing) {
        let (row, column) = (first + position / width, position % width);
        let detail = format!(
            "includes row {row}, which has no value that the model knows in feature column {column}; {ONLY_IMPUTE}"
        );
        return Err(invalid("?rows", "missing_value", detail));
    }
    Ok(values)
}

/// Both ends of `7` or `0-31`. A default range is cut to the rows there are.
fn range(text: &str, is_default: bool, rows: u64) -> Result<(usize, usize), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Ok(first), Ok(mut last)) = (first.trim().parse::<u64>(), last.trim().parse::<u64>()) else {
        return Err(format!("is `{text}`; write one row as 7, or several as 0-31"));
    };
    if is_default {
        last = last.min(rows.saturating_sub(1));
    }
    if first > last || last >= rows {
        return Err(format!("is `{text}`; the dataset has the rows 0 to {}", rows.saturating_sub(1)));
    }
    if last - first >= INFERENCE_ROWS as u64 {
        return Err(format!("is `{text}`; allowed are up to {INFERENCE_ROWS} rows at once"));
    }
    Ok((first as usize, last as usize))
}

/// Rows or codes of a query, each as values with commas between. Codes have no columns.
pub(super) fn inline<'a>(
    rows: &[String],
    width: usize,
    columns: impl Iterator<Item = &'a Column>,
    missing: Missing,
) -> Result<Vec<f32>, Refusal> {
    let columns: Vec<&Column> = columns.collect();
    let words = Words::default();
    let value = |(position, cell): (usize, &str)| match columns.get(position) {
        Some(column) if !column.levels.is_empty() => {
            column.value_of(cell).or_else(|| words.is_missing(cell.trim()).then_some(f32::NAN))
        }
        column => words.number(cell.as_bytes()).filter(|number| {
            let class = column.filter(|column| column.kind.is_class());
            !number.is_infinite() && class.and_then(|column| unknown_class(column, *number)).is_none()
        }),
    };
    let mut faults = Faults::new();
    if rows.is_empty() {
        faults.push("?x", "missing", format!("is missing: give {width} numbers with commas between"));
    }
    let mut values = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let parsed: Vec<f32> = row.split(',').enumerate().filter_map(value).collect();
        if parsed.len() != width || row.split(',').count() != width || gap(&parsed, missing).is_some() {
            let gaps = if missing == Missing::Kept { " (or nothing where one is missing)" } else { "" };
            let detail = format!(
                "(number {index}) is not {width} finite numbers{gaps}, or levels of categories, with commas between"
            );
            faults.push("?x", "wrong_width", detail);
        }
        values.extend(parsed);
    }
    faults.into_result(Code::InvalidRequest)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_rows_are_read_and_bounded() {
        assert_eq!(range("7", false, 10), Ok((7, 7)));
        assert_eq!(range("0-9", false, 10), Ok((0, 9)));
        assert_eq!(range("0-31", true, 10), Ok((0, 9)));
        for bad in ["0-10", "3-2", "a", "-1", "1-", "99999999999999999999"] {
            assert!(range(bad, false, 10).is_err(), "{bad}");
        }
        assert!(range("0-65536", false, 1 << 40).is_err());
    }

    #[test]
    fn inline_rows_have_their_width_and_gaps_only_where_those_are_kept() {
        let text = |row: &str| vec![row.to_owned()];
        let none = || std::iter::empty::<&Column>();
        assert_eq!(inline(&text("1, -2.5"), 2, none(), Missing::Refused).unwrap(), [1.0, -2.5]);
        for bad in ["1", "1,2,3", "1,x", "1,inf", "1,", "nan,1"] {
            let refusal = inline(&text(bad), 2, none(), Missing::Refused).unwrap_err();
            assert_eq!((refusal.errors.len(), refusal.errors[0].pointer.as_str()), (1, "?x"), "{bad}");
        }
        for gap in ["1,", "1,nan", "1,NA"] {
            let row = inline(&text(gap), 2, none(), Missing::Kept).unwrap();
            assert!(row[0] == 1.0 && row[1].is_nan(), "{gap}: {row:?}");
        }
        for bad in ["1", "1,,", "1,x", "1,inf"] {
            assert!(inline(&text(bad), 2, none(), Missing::Kept).is_err(), "{bad}");
        }
    }
}
