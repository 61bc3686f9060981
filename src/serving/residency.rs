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
        let position = self.items.iter().rposition(|(held, _, _)| *held == id)?;
        self.items[position..].rotate_left(1);
        self.items.last().map(|(_, _, value)| value)
    }

    /// A loaded model, which is used no more recently for it.
    pub fn peek(&mut self, id: ModelId) -> Option<&mut T> {
        self.items.iter_mut().rev().find(|(held, _, _)| *held == id).map(|(_, _, value)| value)
    }

    /// Adds a model and takes others out until all fit; gives these. The new one stays even when it is larger than the limit by
    /// itself.
    pub fn insert(&mut self, id: ModelId, bytes: u64, value: T) -> Vec<T> {
        let mut gone: Vec<T> = self.remove(id).into_iter().collect();
        self.items.push((id, bytes, value));
        let mut sum = self.items.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        while self.items.len() > 1 && sum > self.most_bytes {
            let (_, bytes, value) = self.items.remove(0);
            sum -= bytes;
            gone.push(value);
        }
        gone
    }

    /// The models that are loaded, and their sizes.
    pub fn sizes(&self) -> impl Iterator<Item = (ModelId, u64)> + '_ {
        self.items.iter().map(|(id, bytes, _)| (*id, *bytes))
    }

    /// Takes a model out.
    pub fn remove(&mut self, id: ModelId) -> Option<T> {
        let position = self.items.iter().position(|(held, _, _)| *held == id)?;
        Some(self.items.remove(position).2)
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
        assert_eq!(residency.insert(c, 5, "c"), ["b"]);
        assert_eq!([a, b, c].map(|id| residency.get(id).copied()), [Some("a"), None, Some("c")]);
        assert_eq!(residency.remove(a), Some("a"));
        assert_eq!(residency.get(a), None);
    }
}
