"""A Django application with django-broadcaster. The tests call the functions below by their names.

Its database, Redis and stream come from DATABASE_URL, REDIS_URL and STREAM. What a function returns is printed as JSON.
"""

import json
import os
import sys
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import django
import redis
from django.conf import settings

DATABASE = urlsplit(os.environ["DATABASE_URL"])
ON_POSTGRES = DATABASE.scheme.startswith("postgres")
REDIS = urlsplit(os.environ["REDIS_URL"])
STREAM = os.environ["STREAM"]


if not ON_POSTGRES:
    # Django names mysqlclient, which has to be compiled.
    import pymysql

    pymysql.version_info = (2, 2, 1, "final", 0)
    pymysql.install_as_MySQLdb()


def backend(stream):
    options = {"host": REDIS.hostname, "port": REDIS.port, "stream_name": stream}
    return {"BACKEND": "django_broadcaster.backends.RedisStreamBackend", "OPTIONS": options}


settings.configure(
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django_broadcaster",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends." + ("postgresql" if ON_POSTGRES else "mysql"),
            "NAME": DATABASE.path.lstrip("/"),
            "USER": DATABASE.username,
            "PASSWORD": DATABASE.password or "",
            "HOST": DATABASE.hostname,
            "PORT": DATABASE.port,
        }
    },
    OUTBOX_PUBLISHERS={"default": backend(STREAM), "audit": backend(STREAM + "-audit")},
    SECRET_KEY="tests",
    USE_TZ=True,
)
django.setup()

from django.contrib.admin import AdminSite  # noqa: E402
from django.contrib.messages.storage.cookie import CookieStorage  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import RequestFactory  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_broadcaster.admin import OutboxEventAdmin  # noqa: E402
from django_broadcaster.models import OutboxEvent  # noqa: E402
from django_broadcaster.publishers import publisher  # noqa: E402

DEEP = None
# MariaDB's JSON has 32 levels.
for level in range(60 if ON_POSTGRES else 14):
    DEEP = {"level": level, "inner": [DEEP]}

DATA = [
    None,
    {},
    [],
    "",
    "plain text",
    0,
    -0.0,
    False,
    True,
    {"n": None, "list": [None, 1, "two", 3.0, True, {"x": []}], "b": False},
    {"text": 'quotes " and \\ and / and \b\f\n\r\t and \x7f and \u2028'},
    {"ünïcode": "日本語 🦀 \u0301 עברית", "": "an empty name"},
    {"z": 1, "a": 2, "aa": 3, "Z": 4},
    DEEP,
    [10**400, -(10**400), 2**63, 2**64 + 1, -(2**63) - 1],
    [1e22, 1e16, 1e15, 1.7976931348623157e308, -1e-7, 5e-324, 2.2250738585072014e-308],
    [0.1, 0.30000000000000004, 1 / 3, 1.0, 100.0, 123456789.123456789, 1e-5, 1e-4],
    {"big": "x" * 100_000},
    list(range(1000)),
    "\ufeffbom and \ufffd",
]
SUBJECTS = ["", "plain", "ünï 🦀", 'a"b\\c', "s" * 255, " spaces ", "tab\tand\nline"]
CONFIGS = [
    None,
    {"tenant": "a", "number": 7, "float": 1.5, "big": 10**30, "negative": -3},
    {"whole": 3.0, "small": 1e-7, "edge": 1e16, "below": 1e15, "zero": -0.0, "tiny": 5e-324},
    {"ünï": "🦀 \" \\ \n", "": "no name", "empty": ""},
    {"event_type": "another.type", "source": "replaced", "extra": "added"},
    {"timestamp": "never", "cloud_event": "replaced too", "event_id_": "no"},
    {"event_type": 12, "z": "last", "a": "first"},
]


TOO_LARGE = 10**400


def storable(data):
    """MySQL stores JSON as values, and refuses a number that no double holds."""
    is_mysql = connection.vendor == "mysql" and not connection.mysql_is_mariadb
    if is_mysql and isinstance(data, list):
        return [value for value in data if not (isinstance(value, int) and abs(value) >= TOO_LARGE)]
    return data


def migrate():
    call_command("migrate", "django_broadcaster", verbosity=0)


def migrate_onto_what_is_there():
    call_command("migrate", "django_broadcaster", fake_initial=True, verbosity=0)


def write(number):
    """One of many kinds of event; each attribute varies with its own period."""
    event = publisher.publish_event(
        event_type=["order.placed", "ünï.code", "t" * 255][number % 3],
        source=["shop", "/shop/orders?x=1&y=ä", "urn:x:" + "s" * 100][number % 5 % 3],
        data=storable(DATA[number % len(DATA)]),
        subject=SUBJECTS[number % len(SUBJECTS)],
        backend=[None, "default", "audit"][number % 4 % 3],
        scheduled_at=timezone.now() - timedelta(minutes=number) if number % 6 == 0 else None,
        max_retries=number % 9,
        publisher_config=CONFIGS[number // 3 % len(CONFIGS)],
    )
    if number % 10 == 7:
        OutboxEvent.objects.filter(pk=event.pk).update(
            data_content_type=["", "application/vnd.x+json"][number // 10 % 2],
            data_schema="https://example.org/schema?v=1",
            spec_version=["1.0", "0.3"][number // 10 % 2],
            created_at=event.created_at.replace(microsecond=[0, 120_000][number // 10 % 2]),
        )
    return str(event.pk)


def publish(first, last):
    return [write(number) for number in range(int(first), int(last))]


def publish_later_and_never():
    later = publisher.publish_event("later", "shop", scheduled_at=timezone.now() + timedelta(days=1))
    never = publisher.publish_event("never", "shop", publisher_config={"nested": {"is": "refused"}})
    return [str(later.pk), str(never.pk)]


def work():
    call_command("outbox_worker", batch_size=10_000, interval=0, max_iterations=1, stdout=sys.stderr)


def statuses():
    return {str(event.pk): event.status for event in OutboxEvent.objects.all()}


def show(pk):
    event = OutboxEvent.objects.get(pk=pk)
    return [event.status, event.retry_count, event.last_error, event.published_at is not None]


def repair(pk):
    """Changes an event that Redis' client rejects, so that it is accepted."""
    OutboxEvent.objects.filter(pk=pk).update(publisher_config={})


def retry_by_admin(pk):
    request = RequestFactory().post("/admin/")
    request._messages = CookieStorage(request)
    admin = OutboxEventAdmin(OutboxEvent, AdminSite())
    admin.retry_failed_events(request, OutboxEvent.objects.filter(pk=pk))
    return [str(message) for message in request._messages]


def compare(theirs, ours):
    """The differences between the entries of two streams, and the number of entries. The field `seq` is in ours alone."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)

    def read(stream):
        fields = [fields for _, fields in client.xrange(stream)]
        entries = {entry["event_id"]: entry for entry in fields}
        assert len(entries) == len(fields), "an event is twice in " + stream
        return entries

    left, right = read(theirs), read(ours)
    differences = [f"{key} is in one only" for key in left.keys() ^ right.keys()]
    for key, fields in right.items():
        place = list(fields).index("seq") if "seq" in fields else None
        if place != 5 or int(fields.pop("seq")) <= 0:
            differences.append(f"{key}: no seq, or one in another place: {place}")
    for key in left.keys() & right.keys():
        if list(left[key]) != list(right[key]):
            differences.append(f"{key}: the fields {list(left[key])} and {list(right[key])}")
        for field in left[key]:
            values = left[key][field], right[key].get(field)
            if same(field, values[0]) != same(field, values[1]):
                differences.append(f"{key}: {field}: {values[0]!r:.500} and {values[1]!r:.500}")
    return {"entries": len(left), "differences": differences}


def same(field, value):
    """A value to compare: times as instants, JSON as values, text as text."""
    try:
        if field == "timestamp":
            return datetime.fromisoformat(value)
        if field == "cloud_event":
            event = json.loads(value)
            return datetime.fromisoformat(event.pop("time")), json.dumps(event, sort_keys=True)
    except (TypeError, ValueError):
        pass
    return value


print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
