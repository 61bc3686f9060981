//! One of several callers who need the same thing fetches it, and the others wait for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::id::ModelId;

type Flight = Arc<tokio::sync::Mutex<()>>;

/// What is under way.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<ModelId, Flight>>);

impl Flights {
    /// What callers who need this model hold one after the other.
    pub fn of(&self, id: ModelId) -> Flight {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        flights.entry(id).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_of_one_model_share_and_others_do_not() {
        let flights = Flights::default();
        let [a, b] = [ModelId::new(), ModelId::new()];
        let (first, second, other) = (flights.of(a), flights.of(a), flights.of(b));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
        drop((first, second, other));
        drop(flights.of(a));
        assert_eq!(flights.0.lock().unwrap().len(), 1, "what has landed is forgotten");
    }
}
