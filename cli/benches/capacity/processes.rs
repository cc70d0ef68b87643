//! The processor time of the servers and workers that this process has started.

use std::collections::BTreeMap;
use std::time::Duration;

#[path = "../../src/bench/process_stat.rs"]
#[allow(unused_imports, reason = "its test needs a harness")]
mod process_stat;

use process_stat::Stat;

/// The processor time so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) database: Duration,
    pub(crate) broker: Duration,
    /// Of workers that have ended.
    pub(crate) worker: Duration,
    /// Of all programs of the machine.
    machine: Duration,
}

impl Times {
    /// Reads the processes that descend from this one.
    pub(crate) fn read() -> Self {
        let own = std::process::id();
        let entries = std::fs::read_dir("/proc").expect("this is Linux");
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let all: BTreeMap<u32, Stat> = ids.filter_map(|id| Some((id, Stat::read(id)?))).collect();
        let is_ours = |mut id: u32| loop {
            match all.get(&id) {
                Some(_) if id == own => return true,
                Some(stat) => id = stat.parent,
                None => return false,
            }
        };
        let mut times = Self { machine: of_machine(), ..Self::default() };
        for (id, stat) in all.iter().filter(|(id, _)| is_ours(**id)) {
            match stat.name.as_str() {
                "postgres" => times.database += of_ticks(stat.own + stat.ended),
                "redis-server" | "nats-server" => times.broker += of_ticks(stat.own),
                _ if *id == own => times.worker += of_ticks(stat.ended),
                _ => {}
            }
        }
        times
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            database: self.database - before.database,
            broker: self.broker - before.broker,
            worker: self.worker - before.worker,
            machine: self.machine - before.machine,
        }
    }

    pub(crate) fn all(self) -> Duration {
        self.database + self.broker + self.worker
    }

    /// Of programs that have nothing to do with the measurement.
    pub(crate) fn others(self) -> Duration {
        self.machine.saturating_sub(self.all())
    }
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
}

/// The time in which processors were not idle: the first line of `/proc/stat` has, among others, user, nice, system, idle
/// and waiting for a disk.
fn of_machine() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").expect("this is Linux");
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    of_ticks(fields.iter().take(3).sum())
}
