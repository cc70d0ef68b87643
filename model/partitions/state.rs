//! The consumers, and what of their requests is under way.

use super::redis::{COUNT, Fence, Owner, Redis};
use super::{Faults, Passing, Rules, Step};

/// A lease as its consumer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lease {
    id: u8,
    token: u8,
    claim: u8,
    is_over: bool,
    is_leaving: bool,
    is_begun: bool,
    is_claimed: bool,
    /// Entries before this one are in memory, or done.
    from: u8,
}

/// The answer to a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Beat {
    /// Whether it is still a member, and the token.
    answer: Option<Option<u8>>,
    /// What it renewed has ended since.
    is_over: bool,
}

/// An entry, and the lease under which it was read.
type Entry = (u8, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Consumer {
    is_up: bool,
    life: u8,
    is_member: bool,
    lease: Option<Lease>,
    /// The last number that was given to a lease or a claim.
    last: u8,
    beat: Option<Beat>,
    arriving: Option<Entry>,
    memory: Vec<Entry>,
    handling: Option<Entry>,
    /// The lease has ended since the entry was begun: the handler cannot be stopped.
    has_overrun: bool,
    handled: Vec<u8>,
    /// Which entries were begun under the present lease, in the order of their numbers.
    begun: [bool; COUNT as usize],
    has_begun: bool,
}

/// A request that is executed late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Late {
    Read(Fence),
    Claim(Fence, u8),
    Release(Fence),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    redis: Redis,
    consumers: [Consumer; 2],
    late: Vec<Late>,
    faults: Faults,
    /// Entries before this one were begun by a consumer.
    begun: u8,
    pub(super) overtaken: bool,
    pub(super) together: bool,
    pub(super) repeated: bool,
}

impl Consumer {
    fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.handling.is_none() && self.handled.is_empty() && self.arriving.is_none()
    }

    fn next(&mut self) -> u8 {
        self.last += 1;
        self.last
    }

    fn knows(&self, entry: u8) -> bool {
        let is_it = |(other, _): &Entry| *other == entry;
        self.memory.iter().chain(&self.handling).any(is_it) || self.handled.contains(&entry)
    }

    fn may_begin(&self, id: u8, rules: Rules) -> bool {
        let lease = self.lease.filter(|lease| lease.id == id);
        lease.is_some_and(|lease| !lease.is_leaving && (!lease.is_over || !rules.watches_the_clock))
    }

    fn reads(&self, rules: Rules) -> bool {
        let is_free = self.arriving.is_none() && (self.is_empty() || !rules.drains_first);
        self.lease.is_some_and(|lease| {
            let begun = lease.is_begun || is_free;
            self.is_up && self.arriving.is_none() && begun && !lease.is_over && !lease.is_leaving
        })
    }

    fn doubt(&mut self, rules: Rules) {
        let claim = self.next();
        if let Some(lease) = self.lease.as_mut().filter(|_| rules.claims_after_doubt) {
            (lease.claim, lease.is_claimed) = (claim, false);
        }
    }

    fn note(&mut self, beat: Beat, rules: Rules) {
        self.is_member &= beat.answer.is_some();
        let Some(token) = beat.answer.flatten() else {
            self.lease = None;
            return;
        };
        let same = self.lease.as_mut().filter(|lease| lease.token == token);
        let is_leaving = rules.leaving_is_final && same.as_ref().is_some_and(|lease| lease.is_leaving);
        if let Some(lease) = same.filter(|lease| !lease.is_over || !rules.end_is_final) {
            lease.is_over = beat.is_over;
            return;
        }
        let (id, claim) = (self.next(), self.next());
        self.begun = Default::default();
        self.lease = Some(Lease {
            id,
            token,
            // As Redis writes a lease that was never claimed.
            claim: if rules.claims_first { claim } else { 0 },
            is_over: beat.is_over,
            is_leaving,
            is_begun: false,
            is_claimed: !rules.claims_first,
            from: 0,
        });
    }
}

impl State {
    pub(super) fn new(faults: Faults) -> Self {
        let consumer = Consumer { is_up: true, ..Consumer::default() };
        Self {
            redis: Redis::default(),
            consumers: [consumer.clone(), consumer],
            late: Vec::new(),
            faults,
            begun: 0,
            overtaken: false,
            together: false,
            repeated: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.redis.read == COUNT && self.redis.pending.iter().all(Option::is_none)
    }

    pub(super) fn has_moved(&self) -> bool {
        self.consumers.iter().all(|consumer| consumer.has_begun)
    }

    /// Nothing happens any more, except faults.
    pub(super) fn is_at_rest(&self, rules: Rules) -> bool {
        let mut steps = Vec::new();
        self.steps(rules, &mut steps);
        !steps.into_iter().any(|step| {
            let mut next = self.clone();
            next.take(step, rules);
            next != *self
        })
    }

    fn owner(&self, consumer: usize) -> Owner {
        Owner { consumer, life: self.consumers[consumer].life }
    }

    fn fence(&self, consumer: usize) -> Option<Fence> {
        let lease = self.consumers[consumer].lease?;
        Some(Fence { owner: self.owner(consumer), token: lease.token, claim: lease.claim })
    }

    pub(super) fn steps(&self, rules: Rules, steps: &mut Vec<Step>) {
        if self.redis.appended < COUNT {
            steps.push(Step::Append);
        }
        for (number, consumer) in self.consumers.iter().enumerate() {
            let may_release = consumer.lease.is_some_and(|lease| lease.is_leaving && !lease.is_over)
                && (consumer.is_empty() || !rules.drains_last);
            let all = [
                (consumer.is_up && self.needs_a_beat(number), Step::Beat(number)),
                (consumer.beat.is_some(), Step::NoteBeat(number)),
                (consumer.reads(rules), Step::Read(number, Passing::Answered)),
                (consumer.arriving.is_some(), Step::Add(number)),
                (consumer.handling.is_none() && !consumer.memory.is_empty(), Step::Begin(number)),
                (consumer.handling.is_some(), Step::Finish(number)),
                (!consumer.handled.is_empty(), Step::Acknowledge(number)),
                (may_release, Step::Release(number, Passing::Answered)),
                (!consumer.is_up, Step::Start(number)),
            ];
            steps.extend(all.into_iter().filter(|(may_happen, _)| *may_happen).map(|(_, step)| step));
            let is_over = consumer.lease.is_none_or(|lease| lease.is_over);
            let is_silent =
                self.redis.members[number].is_some_and(|(life, is_silent)| life != consumer.life || is_silent);
            let holds = self.redis.lease.is_some() && self.redis.members[number].is_some();
            let is_gone = !consumer.is_up || !consumer.is_member;
            if holds && !is_silent && is_over && (is_gone || consumer.lease.is_some()) && consumer.beat.is_none() {
                steps.push(Step::Expire(number));
            }
        }
        steps.extend((0..self.late.len()).map(Step::Arrive));
    }

    /// Whether a beat would tell something new.
    fn needs_a_beat(&self, number: usize) -> bool {
        let consumer = &self.consumers[number];
        let mut after = self.clone();
        let answer = after.redis.beat(self.owner(number));
        let known = consumer.lease.filter(|lease| !lease.is_over).map(|lease| lease.token);
        consumer.beat.is_none() && (!consumer.is_member || after.redis != self.redis || answer != Some(known))
    }

    pub(super) fn faults(&self, rules: Rules, steps: &mut Vec<Step>) {
        for (number, consumer) in self.consumers.iter().enumerate() {
            let is_held = consumer.lease.is_some_and(|lease| !lease.is_over);
            let may_release = is_held && consumer.lease.is_some_and(|lease| lease.is_leaving) && consumer.is_empty();
            let lost = self.faults.lost > 0;
            let all = [
                (lost && consumer.beat.is_some(), Step::LoseBeat(number)),
                (lost && consumer.reads(rules), Step::Read(number, Passing::AnswerLost)),
                (lost && consumer.reads(rules), Step::Read(number, Passing::Late)),
                (lost && may_release, Step::Release(number, Passing::AnswerLost)),
                (lost && may_release, Step::Release(number, Passing::Late)),
                (self.faults.ends > 0 && (is_held || consumer.beat.is_some()), Step::End(number)),
                (self.faults.moves > 0 && is_held, Step::GiveUp(number)),
                (self.faults.deaths > 0 && consumer.is_up, Step::Kill(number)),
            ];
            steps.extend(all.into_iter().filter(|(may_happen, _)| *may_happen).map(|(_, step)| step));
        }
    }

    pub(super) fn take(&mut self, step: Step, rules: Rules) {
        match step {
            Step::Append => self.redis.appended += 1,
            Step::Beat(number) => self.beat(number),
            Step::NoteBeat(number) => {
                if let Some(beat) = self.consumers[number].beat.take() {
                    self.consumers[number].note(beat, rules);
                }
            }
            Step::LoseBeat(number) => {
                self.faults.lost -= 1;
                self.consumers[number].beat = None;
            }
            Step::Read(number, passing) => self.read(number, passing, rules),
            Step::Add(number) => {
                let consumer = &mut self.consumers[number];
                let arriving = consumer.arriving.take();
                let new = arriving.filter(|(entry, _)| !consumer.knows(*entry));
                consumer.memory.extend(new);
            }
            Step::Begin(number) => self.begin(number, rules),
            Step::Finish(number) => {
                let consumer = &mut self.consumers[number];
                consumer.handled.extend(consumer.handling.take().map(|(entry, _)| entry));
                consumer.has_overrun = false;
            }
            Step::Acknowledge(number) => {
                for entry in std::mem::take(&mut self.consumers[number].handled) {
                    self.redis.pending[usize::from(entry)] = None;
                }
            }
            Step::End(number) => {
                self.faults.ends -= 1;
                self.end(number);
            }
            Step::Expire(number) => {
                if let Some((_, is_silent)) = &mut self.redis.members[number] {
                    *is_silent = true;
                }
            }
            Step::GiveUp(number) => {
                self.faults.moves -= 1;
                if let Some(lease) = &mut self.consumers[number].lease {
                    lease.is_leaving = true;
                }
            }
            Step::Release(number, passing) => self.release(number, passing, rules),
            Step::Kill(number) => {
                self.faults.deaths -= 1;
                let Consumer { life, last, has_begun, .. } = self.consumers[number].clone();
                self.consumers[number] = Consumer { life, last, has_begun, ..Consumer::default() };
            }
            Step::Start(number) => self.consumers[number].is_up = true,
            Step::Arrive(index) => match self.late.remove(index) {
                Late::Read(fence) => _ = self.redis.read(fence, rules),
                Late::Claim(fence, from) => _ = self.redis.claim(fence, from, rules),
                Late::Release(fence) => self.redis.release(fence, rules),
            },
        }
    }

    fn beat(&mut self, number: usize) {
        let consumer = &mut self.consumers[number];
        if !consumer.is_member {
            consumer.is_member = true;
            consumer.life += 1;
            self.redis.members[number] = Some((consumer.life, false));
        }
        let answer = self.redis.beat(self.owner(number));
        self.consumers[number].beat = Some(Beat { answer, is_over: false });
    }

    /// A lease ends by its consumer's clock, and so does one that a beat has renewed before and that is not noted yet. In Redis
    /// it may end from then on.
    fn end(&mut self, number: usize) {
        let consumer = &mut self.consumers[number];
        if let Some(lease) = &mut consumer.lease
            && !lease.is_over
        {
            lease.is_over = true;
            consumer.has_overrun = consumer.handling.is_some();
        } else if let Some(beat) = &mut consumer.beat {
            beat.is_over = true;
            if let Some((_, is_silent)) = &mut self.redis.members[number] {
                *is_silent = true;
            }
        }
    }

    fn read(&mut self, number: usize, passing: Passing, rules: Rules) {
        let Some(fence) = self.fence(number) else { return };
        let Some(mut lease) = self.consumers[number].lease else { return };
        lease.is_begun = true;
        self.consumers[number].lease = Some(lease);
        if passing != Passing::Answered {
            self.faults.lost -= 1;
            let late = if lease.is_claimed { Late::Read(fence) } else { Late::Claim(fence, lease.from) };
            self.late.push(late);
            if passing == Passing::AnswerLost {
                self.take(Step::Arrive(self.late.len() - 1), rules);
            }
            self.consumers[number].doubt(rules);
            return;
        }
        let read = if lease.is_claimed {
            self.redis.read(fence, rules).map(|entry| entry.ok_or(lease.from))
        } else {
            self.redis.claim(fence, lease.from, rules)
        };
        match read {
            None => lease.is_over = true,
            Some(Err(from)) => (lease.is_claimed, lease.from) = (true, from),
            Some(Ok(entry)) => {
                lease.from = entry + 1;
                self.consumers[number].arriving = Some((entry, lease.id));
            }
        }
        self.consumers[number].lease = Some(lease);
    }

    fn begin(&mut self, number: usize, rules: Rules) {
        let (entry, id) = self.consumers[number].memory.remove(0);
        if !self.consumers[number].may_begin(id, rules) {
            return;
        }
        let other = &self.consumers[1 - number];
        self.together |= other.handling.is_some() && !other.has_overrun;
        self.overtaken |= entry > self.begun;
        self.begun = self.begun.max(entry + 1);
        let consumer = &mut self.consumers[number];
        let is_again = std::mem::replace(&mut consumer.begun[usize::from(entry)], true);
        self.repeated |= is_again && consumer.lease.is_some_and(|lease| lease.id == id);
        consumer.has_begun = true;
        (consumer.handling, consumer.has_overrun) = (Some((entry, id)), false);
    }

    fn release(&mut self, number: usize, passing: Passing, rules: Rules) {
        let Some(fence) = self.fence(number) else { return };
        if passing != Passing::Answered {
            self.faults.lost -= 1;
        }
        match passing {
            Passing::Late => self.late.push(Late::Release(fence)),
            Passing::AnswerLost => self.redis.release(fence, rules),
            Passing::Answered => {
                self.redis.release(fence, rules);
                self.consumers[number].lease = None;
            }
        }
    }
}
