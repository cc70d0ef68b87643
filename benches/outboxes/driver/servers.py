"""A PostgreSQL and a Redis of the comparison's own, on loopback, and the processor time of processes."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import redis

TICK = os.sysconf("SC_CLK_TCK")
POSTGRES = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "max_connections": "200",
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def stat(pid):
    """The parent, the processor time of a process and that of its ended children, in seconds; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(map(int, fields[11:13])) / TICK, sum(map(int, fields[13:15])) / TICK


def cpu(pid):
    """Seconds of processor time of a process and its children, also of those that have ended."""
    found = stat(pid)
    if found is None:
        return 0.0
    others = (stat(other) for other in os.listdir("/proc") if other.isdigit())
    return found[1] + found[2] + sum(own for parent, own, _ in filter(None, others) if parent == pid)


def unprivileged():
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in "postgres", "nobody":
        try:
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        except KeyError:
            pass
    raise SystemExit("no user postgres or nobody")


def program(name):
    found = shutil.which(name)
    if found:
        return found
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(newest[-1])


class Servers:
    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="outboxes-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.log = open(self.folder / "log", "w")
        self.processes = []
        self.postgres = self.start_postgres()
        self.redis_pid = self.start_redis()

    def start_postgres(self):
        data, user = self.folder / "data", unprivileged()
        data.mkdir(mode=0o700)
        if user:
            os.chown(data, user["user"], user["group"])
        initdb = [program("initdb"), "-D", data, "--username=postgres", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"]
        subprocess.run(initdb, check=True, stdout=self.log, cwd="/", **user)
        self.postgres_port = free_port()
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": self.postgres_port} | POSTGRES
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self.start([program("postgres"), "-D", data, *arguments], self.admin, cwd="/", **user)

    def start_redis(self):
        port = free_port()
        self.redis_url = f"redis://127.0.0.1:{port}"
        self.redis = redis.Redis(port=port)
        arguments = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.folder]
        return self.start(["redis-server", *map(str, arguments)], self.redis.ping)

    def start(self, command, ready, **options):
        """Starts a server and returns its process id when it answers."""
        process = subprocess.Popen(command, stdout=self.log, stderr=self.log, start_new_session=True, **options)
        self.processes.append(process)
        for _ in range(1000):
            try:
                ready()
                return process.pid
            except (psycopg.OperationalError, redis.ConnectionError):
                time.sleep(0.02)
        raise SystemExit(f"{command[0]} does not start: {self.folder / 'log'}")

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.log.close()
        shutil.rmtree(self.folder)

    def url(self, database):
        return f"postgres://postgres@127.0.0.1:{self.postgres_port}/{database}"

    def connect(self, database):
        return psycopg.connect(self.url(database), autocommit=True)

    def admin(self):
        return self.connect("postgres")

    def versions(self):
        postgres = self.admin().execute("SHOW server_version").fetchone()[0].split()[0]
        return f"PostgreSQL {postgres}, Redis {self.redis.info('server')['redis_version']}"
