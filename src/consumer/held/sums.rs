//! How many entries there are of each stage, and how large they are.

use std::collections::BTreeMap;

use super::Stage;

/// How many entries, and how large.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Sum {
    fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.entries -= 1;
        self.bytes -= bytes;
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct StageSums {
    pub(super) active: Sum,
    /// These take no room from the active ones.
    pub(super) waiting: Sum,
    pub(super) behind: Sum,
    pub(super) parked: Sum,
    pub(super) refused: Sum,
}

impl StageSums {
    fn of(&self, stage: Stage) -> Sum {
        let mut sums = *self;
        *sums.of_mut(stage)
    }

    fn of_mut(&mut self, stage: Stage) -> &mut Sum {
        match stage {
            Stage::Active => &mut self.active,
            Stage::Waiting => &mut self.waiting,
            Stage::Behind => &mut self.behind,
            Stage::Parked => &mut self.parked,
            Stage::Refused => &mut self.refused,
        }
    }

    /// The entries that wait with their events.
    pub(super) fn waits(&self) -> Sum {
        let Self { waiting, behind, .. } = self;
        Sum { entries: waiting.entries + behind.entries, bytes: waiting.bytes + behind.bytes }
    }

    /// The entries that are not being handled.
    fn rests(&self) -> Sum {
        let Self { parked, refused, .. } = self;
        let Sum { entries, bytes } = self.waits();
        Sum { entries: entries + parked.entries + refused.entries, bytes: bytes + refused.bytes }
    }

    fn is_empty(&self) -> bool {
        self.active.entries + self.rests().entries == 0
    }
}

/// The sums of all entries, and of those of each stream.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) all: StageSums,
    streams: BTreeMap<usize, StageSums>,
}

impl Sums {
    pub(super) fn add(&mut self, stream: usize, stage: Stage, bytes: usize) {
        self.all.of_mut(stage).add(bytes);
        self.streams.entry(stream).or_default().of_mut(stage).add(bytes);
    }

    pub(super) fn remove(&mut self, stream: usize, stage: Stage, bytes: usize) {
        self.all.of_mut(stage).remove(bytes);
        let Some(of_stream) = self.streams.get_mut(&stream) else { return };
        of_stream.of_mut(stage).remove(bytes);
        if of_stream.is_empty() {
            self.streams.remove(&stream);
        }
    }

    /// The streams of which there are entries.
    pub(super) fn streams(&self) -> impl Iterator<Item = usize> {
        self.streams.keys().copied()
    }

    /// The streams that refuse calls for entries, with how much of them is not being handled.
    pub(super) fn refusing(&self) -> impl Iterator<Item = (usize, Sum)> {
        let refusing = self.streams.iter().filter(|(_, sums)| sums.refused.entries > 0);
        refusing.map(|(stream, sums)| (*stream, sums.rests()))
    }

    /// The sums without what waits in streams that refuse calls: these are not read, so it is bounded by itself.
    pub(super) fn without_refusing(&self) -> StageSums {
        let mut sums = self.all;
        for refusing in self.streams.values().filter(|sums| sums.refused.entries > 0) {
            for stage in [Stage::Waiting, Stage::Behind, Stage::Parked, Stage::Refused] {
                let (sum, theirs) = (sums.of_mut(stage), refusing.of(stage));
                (sum.entries, sum.bytes) = (sum.entries - theirs.entries, sum.bytes - theirs.bytes);
            }
        }
        sums
    }
}
