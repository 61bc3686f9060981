//! Pages of lists.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::limits::{PAGE_ITEMS, PAGE_ITEMS_MOST};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::store::{Page, Paged};

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// The items.
    pub data: Vec<T>,
    /// The id of the first one.
    pub first_id: Option<String>,
    /// The id of the last one; give it as `after` for the next page.
    pub last_id: Option<String>,
    /// Whether there is a next page.
    pub has_more: bool,
}

impl<T> List<T> {
    /// A page of views.
    pub fn new<S>(paged: Paged<S>, view: impl FnMut(S) -> T, id: impl Fn(&T) -> String) -> Self {
        let data: Vec<T> = paged.items.into_iter().map(view).collect();
        Self { first_id: data.first().map(&id), last_id: data.last().map(&id), data, has_more: paged.has_more }
    }
}

/// The page that a query asks for.
///
/// # Errors
/// The limit is not allowed.
pub fn page<Id>(limit: Option<u32>, after: Option<Id>) -> Result<Page<Id>, Refusal> {
    let limit = limit.unwrap_or(PAGE_ITEMS);
    let mut faults = Faults::new();
    faults.require_within("?limit", limit, 1..=PAGE_ITEMS_MOST);
    faults.into_result(Code::InvalidRequest)?;
    Ok(Page { limit, after })
}
