"""What is measured of each tool. Each function returns figures by name."""

import os
import re
import subprocess
import threading
import time

from servers import cpu
from tools import STREAM, Trial

KEYS = 1000
# Not at the end of a batch.
KILLS = (0.2531, 0.5047, 0.7563)
NUMBER = re.compile(rb'\\?"n\\?": ?(\d+)')


class Failed(Exception):
    """A tool did not do its work."""


def number(entry):
    """The number of the event in an entry, which each tool writes in its own form."""
    return int(NUMBER.search(b" ".join(entry[1].values())).group(1))


def wait(condition, seconds, worker):
    """Waits until the condition holds; fails after this number of seconds, or if the worker ends."""
    end = time.monotonic() + seconds
    while not condition():
        if worker.poll() is not None:
            raise Failed(f"the worker ended with {worker.returncode}")
        if time.monotonic() > end:
            raise Failed(f"not done after {seconds} s")
        time.sleep(0.002)


def drain(servers, tool, events):
    """Events a second until all are in the stream; processor time until a second later, when all are settled."""
    events = int(events * tool.share)
    trial = Trial(servers, tool)
    trial.fill(events, 0)
    before = cpu(servers.postgres), cpu(servers.redis_pid)
    started = time.monotonic()
    with trial.worker() as worker:
        wait(lambda: trial.entries() >= events, 600, worker)
        took = time.monotonic() - started
        time.sleep(1)
        database, stream, own = cpu(servers.postgres) - before[0], cpu(servers.redis_pid) - before[1], cpu(worker.pid)
        wait(lambda: trial.unsettled() == 0, 30, worker)
    each = 1e6 / events
    return {
        "events/s": events / took,
        "µs database": database * each,
        "µs Redis": stream * each,
        "µs worker": own * each,
        "µs together": (database + stream + own) * each,
    }


def read(servers, events, seen):
    """Notes when each event is read from the stream."""
    last = "0"
    while len(seen) < events:
        for _, entries in servers.redis.xread({STREAM: last}, block=1000) or []:
            at = time.time_ns()
            for entry in entries:
                seen.setdefault(number(entry), at)
                last = entry[0]


def latency(servers, tool, rate, seconds):
    """From the answer to a commit until a reader has the entry, without the first second."""
    rate = int(rate * tool.rate_share)
    events = rate * seconds
    trial = Trial(servers, tool)
    seen = {}
    reader = threading.Thread(target=read, args=(servers, events, seen), daemon=True)
    with trial.worker():
        time.sleep(3)
        reader.start()
        committed = [tuple(map(int, line.split())) for line in trial.run("pace", events, rate).splitlines()]
        reader.join(30)
    if reader.is_alive():
        raise Failed(f"{events - len(seen)} of {events} events are missing in the stream")
    start = min(at for _, at in committed) + 1e9
    # If the entry was read before the answer to the commit arrived, its latency is zero.
    latencies = sorted(max(0, seen[n] - at) / 1e6 for n, at in committed if at > start)
    return {"p50 ms": latencies[len(latencies) // 2], "p99 ms": latencies[len(latencies) * 99 // 100]}


def publish(servers, tool, events):
    """What publishing costs, each event in its own transaction on one connection; what starting costs is subtracted."""
    spent = [publish_once(servers, tool, count) for count in (0, events)]
    took, database, own = (after - before for before, after in zip(*spent))
    each = 1e6 / events
    return {"commits/s": events / took, "µs database": database * each, "µs publisher": own * each}


def publish_once(servers, tool, events):
    trial = Trial(servers, tool)
    before, started = cpu(servers.postgres), time.monotonic()
    process = subprocess.Popen(trial.command("publish", events), env=trial.environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"publish ended with {process.returncode}")
    took = time.monotonic() - started
    # The connections' processes end.
    time.sleep(0.2)
    return took, cpu(servers.postgres) - before, usage.ru_utime + usage.ru_stime


def kill(servers, tool, events):
    """Kills the worker three times during a drain of events with keys, and compares the stream with what was written."""
    events = int(events * tool.share)
    trial = Trial(servers, tool)
    trial.fill(events, KEYS)
    for share in KILLS:
        with trial.worker() as worker:
            wait(lambda: trial.entries() >= events * share, 600, worker)
    killed = time.monotonic()
    with trial.worker() as worker:
        finished = settle(trial, worker) - killed
    numbers = [number(entry) for entry in servers.redis.xrange(STREAM)]
    return {
        "lost": events - len(set(numbers)),
        "doubled": len(numbers) - len(set(numbers)),
        "out of order": out_of_order(numbers),
        "s to the end": finished,
    }


def settle(trial, worker):
    """Waits until nothing is left to do, or for as long as the tool needs to notice a dead worker; returns when the last
    entry was written."""
    entries, grown = trial.entries(), time.monotonic()
    while trial.unsettled() and time.monotonic() - grown < trial.tool.patience:
        if worker.poll() is not None:
            raise Failed(f"the worker ended with {worker.returncode}")
        time.sleep(0.1)
        if trial.entries() > entries:
            entries, grown = trial.entries(), time.monotonic()
    return grown


def out_of_order(numbers):
    """How many events came for the first time after a later event of their key."""
    newest, seen, count = {}, set(), 0
    for n in numbers:
        if n in seen:
            continue
        seen.add(n)
        key = n % KEYS
        count += n < newest.get(key, 0)
        newest[key] = max(n, newest.get(key, 0))
    return count
