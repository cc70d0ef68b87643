//! The processor time of the servers and of the worker.

use std::time::Duration;

use super::drain::Drain;
use super::env::BenchEnv;
use super::process_stat::Stat;
use super::samples::Samples;

/// The processor time that the servers have used; `None`: PostgreSQL is not on this machine, or this is not Linux.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerCpu {
    pub(super) database: Option<Duration>,
    pub(super) redis: Option<Duration>,
}

impl ServerCpu {
    pub(super) async fn read(env: &mut BenchEnv) -> anyhow::Result<Self> {
        Ok(Self { database: postgres(env.schema.process().await?), redis: env.redis_cpu().await? })
    }

    pub(super) fn since(self, before: Self) -> Self {
        let since = |after: Option<Duration>, before: Option<Duration>| Some(after?.saturating_sub(before?));
        Self { database: since(self.database, before.database), redis: since(self.redis, before.redis) }
    }
}

/// Records the processor time for each event, by process and in all, as `NAME.worker`, `NAME.database`, `NAME.redis` and
/// `NAME.all`.
pub(super) fn record(samples: &mut Samples, name: &str, drain: &Drain) {
    let parts = [("worker", drain.worker_cpu()), ("database", drain.servers.database), ("redis", drain.servers.redis)];
    let for_each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / drain.events;
    for (part, cpu) in parts {
        cpu.into_iter().for_each(|cpu| samples.record(format!("{name}.{part}"), for_each(cpu)));
    }
    let all: Option<Duration> = parts.into_iter().map(|(_, cpu)| cpu).sum();
    all.into_iter().for_each(|cpu| samples.record(format!("{name}.all"), for_each(cpu)));
}

/// The time of a server's processes: its main process, which counts those that have ended, and its children.
fn postgres(connection: i32) -> Option<Duration> {
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let main = Stat::read(u32::try_from(connection).ok()?)?.parent;
    let server = Stat::read(main)?;
    // Without a main process, as when the server is on another machine, this is another program.
    if server.name != "postgres" {
        return None;
    }
    let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).ok()?;
    let living = children.split_whitespace().filter_map(|child| Stat::read(child.parse().ok()?));
    let ticks_of_all = server.own + server.ended + living.map(|child| child.own + child.ended).sum::<u64>();
    Some(Duration::from_secs_f64(ticks_of_all as f64 / ticks as f64))
}
