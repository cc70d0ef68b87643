"""Compares tools at the same work, in turns on the same servers, and prints a table. `scripts/compare.sh` runs it."""

import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import measurements
from servers import Servers
from tools import tools

SECTIONS = {
    "drain": "draining",
    "latency": "commit to stream",
    "publish": "publishing",
    "kill": "killed three times",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binaries", type=Path, required=True, help="the folder with outbox and outboxes")
    parser.add_argument("--migration", type=Path, required=True, help="the migration of outbox-postgres")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--events", type=int, default=100_000, help="for a drain, and for one with kills")
    parser.add_argument("--published", type=int, default=2_000, help="events that are published one by one")
    parser.add_argument("--rate", type=int, default=200, help="events a second, for the latency")
    parser.add_argument("--seconds", type=int, default=10, help="how long they are written")
    parser.add_argument("--only", default=",".join(SECTIONS), help="some of: " + ", ".join(SECTIONS))
    parser.add_argument("--tools", default="", help="only tools whose names contain one of these")
    parser.add_argument("--json", type=Path, help="a file for all values")
    return parser.parse_args()


def measure(options, servers, chosen):
    """All values: {section: {tool: {figure: [value of each round]}}}."""
    values = {section: {tool.title: {} for tool in chosen} for section in options.only.split(",")}
    sizes = {
        "drain": (options.events,),
        "latency": (options.rate, options.seconds),
        "publish": (options.published,),
        "kill": (options.events,),
    }
    for turn in range(options.rounds):
        for section, of_tools in values.items():
            # They take turns in running first.
            for tool in chosen if turn % 2 == 0 else reversed(chosen):
                try:
                    figures = getattr(measurements, section)(servers, tool, *sizes[section])
                except (measurements.Failed, subprocess.CalledProcessError) as error:
                    print(f"round {turn + 1}, {section}, {tool.title}: failed: {error}", file=sys.stderr, flush=True)
                    continue
                for name, value in figures.items():
                    of_tools[tool.title].setdefault(name, []).append(value)
                shown = ", ".join(f"{name} {text(value)}" for name, value in figures.items())
                print(f"round {turn + 1}, {section}, {tool.title}: {shown}", file=sys.stderr, flush=True)
    return values


def text(value):
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def cell(values):
    """The median, and the lowest and highest value where they differ."""
    if not values:
        return "failed"
    low, middle, high = (text(part) for part in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(values, chosen):
    titles = [tool.title for tool in chosen]
    rows = [["", *titles], ["---", *["---:"] * len(titles)]]
    for section, of_tools in values.items():
        names = dict.fromkeys(name for figures in of_tools.values() for name in figures)
        for name in names:
            cells = [cell(of_tools[title].get(name)) for title in titles]
            if name == "out of order":
                cells = [c if tool.keeps_order else f"{c}, not promised" for c, tool in zip(cells, chosen)]
            rows.append([f"{SECTIONS[section]}: {name}", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main():
    options = arguments()
    every = tools(options.binaries, options.migration)
    chosen = [tool for tool in every if any(name in tool.title for name in options.tools.split(","))]
    # So that the servers are stopped then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    servers = Servers()
    try:
        print(
            f"{datetime.date.today()}, {servers.versions()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, "
            f"{options.events:,} events, {options.rounds} rounds\n",
            flush=True,
        )
        values = measure(options, servers, chosen)
    finally:
        servers.stop()
    print(table(values, chosen))
    for tool in chosen:
        if tool.share < 1:
            events, rate = int(options.events * tool.share), int(options.rate * tool.rate_share)
            print(f"\n{tool.title}: {events:,} events, and a rate of {rate}/s")
    if options.json:
        options.json.write_text(json.dumps(values, indent=1, ensure_ascii=False))


main()
