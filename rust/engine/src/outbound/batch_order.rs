//! The order in which the packets of a batch are carried where AGGFRAG packs them and those of several SAs come mixed: the
//! packets of one SA together, in the order they came.
//!
//! One payload is open at a time, so that packets of two SAs by turns would each travel alone. Whether they come mixed is
//! learnt from the batch before: who talks to one peer pays nothing for this.

use openmoat_io::BATCH;

/// Changes from one SA to another within a batch, above which the next batch is put in order.
const MAX_CHANGES: usize = 8;

/// What one outbound worker knows of it.
pub struct BatchOrder {
    is_mixed: bool,
    keys: Vec<u32>,
    order: Vec<usize>,
}

impl Default for BatchOrder {
    fn default() -> Self {
        Self {
            is_mixed: false,
            keys: Vec::with_capacity(BATCH),
            order: Vec::with_capacity(BATCH),
        }
    }
}

impl BatchOrder {
    /// Whether the next batch has to be put in order, and so `arrange` called.
    pub fn is_wanted(&self) -> bool {
        self.is_mixed
    }

    /// So many times the SA has changed within a batch that was carried as it came.
    pub fn learn(&mut self, changes: usize) {
        self.is_mixed |= changes > MAX_CHANGES;
    }

    /// Put `count` packets in order by what each belongs to.
    pub fn arrange(&mut self, count: usize, key: impl FnMut(usize) -> u32) {
        self.keys.clear();
        self.keys.extend((0..count).map(key));
        self.order.clear();
        self.order.extend(0..count);
        let changes = self.keys.windows(2).filter(|two| two[0] != two[1]).count();
        self.is_mixed = changes > MAX_CHANGES;
        if self.is_mixed {
            let keys = &self.keys;
            // By key, not by who came first: between SAs no order is promised.
            self.order
                .sort_unstable_by_key(|&place| (keys[place], place));
        }
    }

    /// Which packet is the `place`th of what was arranged.
    pub fn at(&self, place: usize) -> usize {
        self.order.get(place).copied().unwrap_or(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_one_sa_come_together_in_their_order_where_many_are_mixed() {
        let keys = [7, 3, 7, 9, 3, 7, 3, 9, 7, 3, 7, 3];
        let mut order = BatchOrder::default();
        assert!(!order.is_wanted());
        order.learn(MAX_CHANGES);
        assert!(!order.is_wanted());
        order.learn(MAX_CHANGES + 1);
        assert!(order.is_wanted());
        order.arrange(keys.len(), |at| keys[at]);
        let places: Vec<_> = (0..keys.len()).map(|place| order.at(place)).collect();
        assert_eq!(places, [1, 4, 6, 9, 11, 0, 2, 5, 8, 10, 3, 7]);
        assert!(order.is_wanted());
        order.arrange(12, |at| u32::from(at > 5));
        assert!((0..12).all(|place| order.at(place) == place));
        assert!(!order.is_wanted());
    }
}
