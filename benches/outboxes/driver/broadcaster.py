"""django-broadcaster, with the commands of the program `outboxes`: prepare, fill, publish, pace, work."""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import django
from django.conf import settings

FIRST = 100_000
WRITERS = 4


def configure():
    database, redis = urlsplit(os.environ["DATABASE_URL"]), urlsplit(os.environ["REDIS_URL"])
    settings.configure(
        INSTALLED_APPS=["django_broadcaster"],
        USE_TZ=True,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": database.hostname,
                "PORT": database.port,
                "USER": database.username,
                "NAME": database.path.strip("/"),
            }
        },
        OUTBOX_PUBLISHERS={
            "default": {
                "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
                # Otherwise it keeps 10,000 entries.
                "OPTIONS": {
                    "host": redis.hostname,
                    "port": redis.port,
                    "stream_name": os.environ["STREAM"],
                    "max_len": 10_000_000,
                },
            }
        },
    )
    django.setup()


def event(place, keys=0):
    """The event at this place, as `src/event.rs` makes it."""
    n = FIRST + place
    data = {"n": n, "key": f"key-{n % keys:04}" if keys else "", "note": ""}
    return data | {"note": "x" * (60 - len(json.dumps(data, separators=(",", ":"))))}


def fill(events, keys):
    from django_broadcaster.models import OutboxEvent

    new = (
        OutboxEvent(event_type="order.placed", source="/shop/orders", data=event(place, keys))
        for place in range(events)
    )
    OutboxEvent.objects.bulk_create(new, batch_size=1000)


def publish(place):
    from django_broadcaster.publishers import publisher

    publisher.publish_event(event_type="order.placed", source="/shop/orders", data=event(place))


def pace(events, rate):
    start = time.monotonic() + 0.5

    def write(writer):
        committed = []
        for place in range(writer, events, WRITERS):
            time.sleep(max(0, start + place / rate - time.monotonic()))
            publish(place)
            committed.append((FIRST + place, time.time_ns()))
        return committed

    with ThreadPoolExecutor(WRITERS) as pool:
        for committed in pool.map(write, range(WRITERS)):
            for n, at in committed:
                print(n, at)


def main():
    from django.core.management import call_command

    command, *numbers = sys.argv[1:]
    numbers = [int(number) for number in numbers]
    if command == "prepare":
        call_command("migrate", verbosity=0)
    elif command == "fill":
        fill(*numbers)
    elif command == "publish":
        for place in range(*numbers):
            publish(place)
    elif command == "pace":
        pace(*numbers)
    elif command == "work":
        # 100 events every 5 seconds unless it is told otherwise; a second is the shortest pause.
        call_command("outbox_worker", batch_size=1000, interval=1, stdout=open(os.devnull, "w"))
    else:
        sys.exit(f"not a command: {command}")


configure()
main()
