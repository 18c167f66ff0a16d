//! A set of steps and children, in plan order.

use std::collections::BTreeMap;

use super::state::StepRef;

/// Children in a block.
const BLOCK: u32 = u64::BITS;

/// A set of steps and children: a bit for each, so that a hundred thousand children of one step are copied in
/// microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct StepSet {
    /// By step and number: block 0 is the step itself, the others are its children. None is empty.
    blocks: BTreeMap<(u32, u32), u64>,
}

impl StepSet {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn insert(&mut self, at: StepRef) {
        let (block, bit) = place(at);
        *self.blocks.entry(block).or_default() |= bit;
    }

    pub(super) fn remove(&mut self, at: StepRef) {
        let (block, bit) = place(at);
        if let Some(bits) = self.blocks.get_mut(&block) {
            *bits &= !bit;
            if *bits == 0 {
                self.blocks.remove(&block);
            }
        }
    }

    /// The members in plan order.
    pub(super) fn iter(&self) -> impl Iterator<Item = StepRef> + '_ {
        self.blocks.iter().flat_map(|(&(step, block), &bits)| {
            let fewer = |bits: &u64| Some(bits & (bits - 1)).filter(|rest| *rest != 0);
            std::iter::successors(Some(bits), fewer).map(move |bits| {
                let child = block.checked_sub(1).map(|block| block * BLOCK + bits.trailing_zeros());
                StepRef { step, child }
            })
        })
    }
}

fn place(StepRef { step, child }: StepRef) -> ((u32, u32), u64) {
    match child {
        None => ((step, 0), 1),
        Some(child) => ((step, 1 + child / BLOCK), 1 << (child % BLOCK)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn step_ref() -> impl Strategy<Value = StepRef> {
        let child = prop_oneof![Just(None), (0..200_u32).prop_map(Some)];
        (0..4_u32, child).prop_map(|(step, child)| StepRef { step, child })
    }

    proptest! {
        #[test]
        fn it_holds_what_an_ordered_set_holds(changes in prop::collection::vec((step_ref(), any::<bool>()), 0..400)) {
            let (mut set, mut model) = (StepSet::default(), BTreeSet::new());
            for (at, add) in changes {
                if add {
                    set.insert(at);
                    model.insert(at);
                } else {
                    set.remove(at);
                    model.remove(&at);
                }
                prop_assert_eq!(set.is_empty(), model.is_empty());
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }
    }
}
