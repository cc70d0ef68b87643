"""The tools that are compared: how each is run, and how its database says what is still to be done."""

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

STREAM = "events"


@dataclass
class Tool:
    title: str
    # The program with the commands prepare, fill, publish, pace and work.
    program: list
    # How many events are still to be sent or recorded.
    unsettled: str
    # The worker, if it is another program.
    worker: list = None
    environment: dict = field(default_factory=dict)
    # A slow tool drains this share of the events,
    share: float = 1.0
    # and receives them at this share of the rate.
    rate_share: float = 1.0
    # What it promises about the events of a key.
    keeps_order: bool = False
    # How long an event of a killed worker may stay with it, in seconds.
    patience: float = 30


def tools(binaries, migration):
    """All of them; `binaries` is the folder with `outbox` and `outboxes`."""
    outboxes = str(binaries / "outboxes")
    outbox = dict(
        program=[outboxes, "actix-outbox"],
        worker=[str(binaries / "outbox"), "worker"],
        unsettled="SELECT count(*) FROM outbox_events WHERE status <> 'published'",
        keeps_order=True,
    )
    return [
        Tool("actix-outbox", **outbox),
        Tool(
            "actix-outbox, deleting",
            **outbox,
            environment={"OUTBOX__RETENTION__PUBLISHED_RETENTION_DAYS": "0"},
        ),
        Tool(
            "outbox-core 0.6",
            program=[outboxes, "outbox-core"],
            unsettled="SELECT count(*) FROM outbox_events WHERE status <> 'Sent'",
            environment={"OUTBOX_POSTGRES_MIGRATION": str(migration)},
            patience=90,
        ),
        Tool(
            "graphile_worker 0.14",
            program=[outboxes, "graphile_worker"],
            unsettled="SELECT count(*) FROM graphile_worker._private_jobs",
            keeps_order=True,
        ),
        Tool(
            "awa 0.6",
            program=[outboxes, "awa"],
            unsettled="SELECT count(*) FROM awa.jobs WHERE state <> 'completed'",
            share=0.2,
        ),
        Tool(
            "django-broadcaster 0.1",
            program=[sys.executable, str(Path(__file__).with_name("broadcaster.py"))],
            unsettled="SELECT count(*) FROM outbox_events WHERE status <> 'published'",
            share=0.025,
            rate_share=0.05,
        ),
    ]


class Trial:
    """A tool with an empty database and an empty stream."""

    def __init__(self, servers, tool):
        self.servers, self.tool = servers, tool
        admin = servers.admin()
        admin.execute("DROP DATABASE IF EXISTS trial WITH (FORCE)")
        admin.execute("CREATE DATABASE trial")
        servers.redis.flushall()
        url = servers.url("trial")
        self.environment = os.environ | tool.environment | {
            "DATABASE_URL": url,
            "REDIS_URL": servers.redis_url,
            "STREAM": STREAM,
            "OUTBOX__PUBLISHERS__DEFAULT__BACKEND": "redis_stream",
            "OUTBOX__PUBLISHERS__DEFAULT__URL": servers.redis_url,
            "OUTBOX__PUBLISHERS__DEFAULT__STREAM_NAME": STREAM,
            "OUTBOX__PUBLISHERS__DEFAULT__MAX_LEN": "0",
        }
        self.run("prepare")
        self.connection = servers.connect("trial")

    def command(self, *arguments):
        return [*self.tool.program, *map(str, arguments)]

    def run(self, *arguments):
        return subprocess.run(
            self.command(*arguments), env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def fill(self, events, keys):
        self.run("fill", events, keys)
        self.connection.execute("VACUUM ANALYZE")
        self.connection.execute("CHECKPOINT")

    def start_worker(self):
        command = self.tool.worker or self.command("work")
        return subprocess.Popen(command, env=self.environment, stdout=self.servers.log, stderr=self.servers.log)

    @contextlib.contextmanager
    def worker(self):
        process = self.start_worker()
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def entries(self):
        return self.servers.redis.xlen(STREAM)

    def unsettled(self):
        return self.connection.execute(self.tool.unsettled).fetchone()[0]
