//! A worker in its own process, so that its CPU time and memory can be measured.

use std::io::Read;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

/// How often usage is read, and so the time that may be missed at the process's end.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// A running worker; killed when dropped.
pub(super) struct BenchWorker {
    child: Child,
    /// The worker ends when this is closed, also if this process is killed.
    leash: Option<ChildStdin>,
    stderr: Option<JoinHandle<String>>,
    usage: ResourceUsage,
}

/// The resources that a process has used; only on Linux.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ResourceUsage {
    pub(super) cpu: Option<Duration>,
    pub(super) peak_mebibytes: Option<f64>,
}

impl BenchWorker {
    /// Starts this program as a worker with these settings only.
    pub(super) fn start(settings: Vec<(&str, String)>, arguments: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the path of this program, which runs the worker")?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name == "DATABASE_URL"
                || ["OUTBOX_", "OTEL_"].iter().any(|start| name.to_string_lossy().starts_with(start))
            {
                command.env_remove(name);
            }
        }
        // An empty settings file, so that outbox.toml in the working directory is not read.
        command.env("OUTBOX_CONFIG", "/dev/null").env("OUTBOX_LOG", "error");
        command.envs(settings).args(["worker", "--measured"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start a worker")?;
        let stderr = child.stderr.take().map(|stderr| std::thread::spawn(move || read_all(stderr)));
        Ok(Self { leash: child.stdin.take(), child, stderr, usage: ResourceUsage::default() })
    }

    pub(super) fn is_running(&mut self) -> anyhow::Result<bool> {
        // A process that has ended no longer shows its memory, so the last values count.
        let now = usage(self.child.id());
        self.usage = ResourceUsage {
            cpu: now.cpu.or(self.usage.cpu),
            peak_mebibytes: now.peak_mebibytes.or(self.usage.peak_mebibytes),
        };
        Ok(self.child.try_wait().context("cannot wait for the worker")?.is_none())
    }

    /// The resources used so far.
    pub(super) fn usage(&self) -> ResourceUsage {
        usage(self.child.id())
    }

    /// Lets the worker finish its deliveries in flight and release its shards.
    pub(super) async fn stop(mut self) -> anyhow::Result<ResourceUsage> {
        drop(self.leash.take());
        self.wait().await
    }

    /// Waits until the worker has ended, with success.
    pub(super) async fn wait(mut self) -> anyhow::Result<ResourceUsage> {
        while self.is_running()? {
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        let status = self.child.wait().context("cannot wait for the worker")?;
        let stderr = self.stderr.take().and_then(|stderr| stderr.join().ok()).unwrap_or_default();
        anyhow::ensure!(status.success(), "the measured worker ended with {status}: {}", stderr.trim());
        Ok(self.usage)
    }
}

impl Drop for BenchWorker {
    fn drop(&mut self) {
        drop(self.leash.take());
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    // After an error, the text before it is returned.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn usage(process: u32) -> ResourceUsage {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).ok();
    ResourceUsage {
        cpu: read("stat").and_then(|stat| cpu_time(&stat, rustix::param::clock_ticks_per_second())),
        peak_mebibytes: read("status").and_then(|status| peak_mebibytes(&status)),
    }
}

/// User and system time: the twelfth and thirteenth field after the program's name, which may contain any character.
fn cpu_time(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / ticks_per_second.max(1) as f64))
}

fn peak_mebibytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 900 0 0 0 150 50 0 0 20 0 9 0 100 1 2";
        assert_eq!(cpu_time(stat, 100), Some(Duration::from_secs(2)));
        assert_eq!(cpu_time("7 (a", 100), None);
        assert_eq!(peak_mebibytes("Name:\ta\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2.0));
        assert_eq!(peak_mebibytes("Name:\ta\n"), None);
    }
}
