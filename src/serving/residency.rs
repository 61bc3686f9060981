//! Which models stay loaded: the most recently used ones that fit.

use crate::domain::id::ModelId;

/// Values by model, each with its size, the least recently used first.
pub(super) struct Residency<T> {
    items: Vec<(ModelId, u64, T)>,
    most_bytes: u64,
}

impl<T> Residency<T> {
    pub fn new(most_bytes: u64) -> Self {
        Self { items: Vec::new(), most_bytes }
    }

    /// A loaded model, which becomes the most recently used.
    pub fn get(&mut self, id: ModelId) -> Option<&T> {
        let position = self.items.iter().position(|(held, _, _)| *held == id)?;
        let item = self.items.remove(position);
        self.items.push(item);
        self.items.last().map(|(_, _, value)| value)
    }

    /// Adds a model and drops others until all fit. The new one stays even when it is larger than the limit by itself.
    pub fn insert(&mut self, id: ModelId, bytes: u64, value: T) {
        self.remove(id);
        self.items.push((id, bytes, value));
        while self.items.len() > 1 && self.items.iter().map(|(_, bytes, _)| bytes).sum::<u64>() > self.most_bytes {
            self.items.remove(0);
        }
    }

    /// The models that are loaded, and their sizes.
    pub fn sizes(&self) -> impl Iterator<Item = (ModelId, u64)> + '_ {
        self.items.iter().map(|(id, bytes, _)| (*id, *bytes))
    }

    pub fn remove(&mut self, id: ModelId) {
        self.items.retain(|(held, _, _)| *held != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let [a, b, c] = [ModelId::new(), ModelId::new(), ModelId::new()];
        let mut residency = Residency::new(10);
        residency.insert(a, 5, "a");
        residency.insert(b, 5, "b");
        assert_eq!(residency.get(a), Some(&"a"));
        residency.insert(c, 5, "c");
        assert_eq!([a, b, c].map(|id| residency.get(id).copied()), [Some("a"), None, Some("c")]);
        residency.remove(a);
        assert_eq!(residency.get(a), None);
    }
}
