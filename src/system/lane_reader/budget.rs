//! Divides the budget of one fetch among the reads of a lane. Pure.

/// Retries and keys get one part in this many each; a smaller budget is not divided.
const PARTS: usize = 4;

/// Number of kinds of reads: shards' ranges, due retries, keys from their start.
const KINDS: usize = 3;

/// The order in which reads get the budget if it does not suffice for all.
#[derive(Debug, Default)]
pub(crate) struct FetchBudget {
    kind: usize,
    shard: i16,
    /// Whether the last fetch had to stop before it had read everything it asked for.
    cut_short: bool,
}

impl FetchBudget {
    /// Divides the budget among the kinds that are wanted, and never gives more than there is. A budget that is too small,
    /// or was last time, goes to one kind after the other, so that none takes the others' part permanently.
    pub(crate) fn divide(&mut self, budget: usize, wanted: [bool; KINDS]) -> [usize; KINDS] {
        if budget < PARTS || self.cut_short {
            let next = (1..=KINDS).map(|step| (self.kind + step) % KINDS).find(|kind| wanted[*kind]);
            self.kind = next.unwrap_or(self.kind);
            return std::array::from_fn(|kind| if Some(kind) == next { budget } else { 0 });
        }
        let [_, retries, keys] = wanted.map(|wanted| if wanted { budget / PARTS } else { 0 });
        [budget - retries - keys, retries, keys]
    }

    /// Sorts shards so that those behind the last one read come first: if the budget does not suffice, the rest is read
    /// next.
    pub(crate) fn rotate(&self, shards: &mut [i16]) {
        shards.sort_unstable_by_key(|shard| (*shard <= self.shard, *shard));
    }

    /// Notes whether a fetch had to stop, and the last shard of which something was read.
    pub(crate) fn note(&mut self, cut_short: bool, last: Option<i16>) {
        self.cut_short = cut_short;
        self.shard = last.filter(|_| cut_short).unwrap_or(self.shard);
    }
}

/// The share of each of this many parts, at least one event.
pub(crate) fn each(budget: usize, parts: usize) -> i64 {
    i64::try_from((budget / parts.max(1)).max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_budget_is_never_exceeded_and_is_used_if_anything_is_wanted(
            budget in 1_usize..100, wanted in any::<[bool; KINDS]>(), cut_short in any::<bool>(),
        ) {
            let mut sharing = FetchBudget { cut_short, ..FetchBudget::default() };
            let given = sharing.divide(budget, wanted);
            prop_assert!(given.iter().sum::<usize>() <= budget);
            let used: usize = given.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(given, _)| given).sum();
            prop_assert_eq!(used > 0, wanted.contains(&true));
        }

        #[test]
        fn every_kind_and_every_shard_has_its_turn_however_small_the_room(
            budget in 1_usize..6, shards in 1_i16..40,
        ) {
            let mut sharing = FetchBudget::default();
            let (mut kinds, mut read) = ([false; KINDS], vec![false; 40]);
            for _ in 0..KINDS * 40 {
                let given = sharing.divide(budget, [true; KINDS]);
                (0..KINDS).for_each(|kind| kinds[kind] |= given[kind] > 0);
                let mut order: Vec<i16> = (0..shards).collect();
                sharing.rotate(&mut order);
                order.truncate(given[0]);
                order.iter().for_each(|shard| read[usize::try_from(*shard).unwrap()] = true);
                sharing.note(true, order.last().copied());
            }
            prop_assert_eq!(kinds, [true; KINDS]);
            prop_assert!(read.iter().take(usize::try_from(shards).unwrap()).all(|read| *read));
        }
    }
}
