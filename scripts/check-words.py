#!/usr/bin/env python3
"""Finds phrases that this project does not use, and says what to write instead.

    scripts/check-words.py                  # all files that git tracks
    scripts/check-words.py docs cli/src     # these files and folders
    scripts/check-words.py --count          # only the number of hits in each folder

Checks documents, help texts, log messages, metrics' HELP, pages and comments: all text of *.md and of files such as YAML,
SQL, Lua and shell; of Rust the comments and string literals. A phrase may continue on the next line. Names in code are
not prose: words joined by underscores, and a single word in backticks, are ignored.

Exits with 1 if it finds a phrase, or if an entry of ALLOWED is no longer needed.
"""

import argparse
import pathlib
import re
import subprocess
import sys
from collections import Counter

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What is not written, as a regular expression whose spaces match any white space within a paragraph; and what to write.
PHRASES = [
    (r"mend|mends|mended|mending", "fix"),
    (r"anew", "again, or new"),
    (r"but for", "except"),
    (r"dear|dearer", "expensive, costs more"),
    (r"rid of", "remove, delete"),
    (r"stands? for|stood for|standing for", "is, represents, covers"),
    (r"(?:is|are|was|were|be|been|being) away(?! from)", "is unavailable"),
    (r"at once", "immediately, or together"),
    (r"beside", "as well as, in addition to, next to"),
    # "so many rows that …", with a result, is ordinary English.
    (r"so many(?! (?!that\b)(?:[\w-]+ ){1,5}that\b)", "the number itself, or `this many`"),
    (r"what (?:became|becomes|has become|had become) of", "the outcome of"),
    (r"(?:is|are) to be", "must be, should be, will be"),
    (r"nobody", "no worker, no operator, no caller: name who"),
    (r"somebody", "an operator, a caller, another worker: name who"),
    (r"whoever", "the caller that, every worker that: name who"),
]

# The few places where ordinary English needs a phrase: file, the words around it, the reason. An entry looks like
#     ("docs/redis.md", "processes that start at once and", "at the same time, which no other word says as well"),
ALLOWED: list[tuple[str, str, str]] = [
    ("benches/outboxes/driver/servers.py", "nobody", "the name of a user of the system"),
    ("tests/support/mysql.rs", "nobody", "the name of a user of the system"),
    ("tests/support/postgres.rs", "nobody", "the name of a user of the system"),
]

# Text of others, and this list.
SKIPPED = {"scripts/check-words.py", "console/src/assets/htmx.min.js", "cli/tests/it/axe/axe.min.js"}

PROSE = {".md", ".html", ".txt"}
ALL_TEXT = {".yaml", ".yml", ".json", ".toml", ".service", ".sql", ".lua", ".sh", ".py", ".js", ".css", ".tpl"}
ALL_TEXT_NAMES = {"Dockerfile", "justfile", "run", ".dockerignore", ".gitignore"}

# Takes the place of what is not prose, so that no phrase goes across it.
BARRIER = "\0"

# White space with at most one end of line: a phrase does not go on in the next paragraph.
GAP = r"[ \t]*(?:[ \t]|\n)[ \t]*"

MATCHER = re.compile(
    "|".join(
        r"(?P<p%d>\b(?:%s)\b)" % (number, pattern.replace(" ", GAP))
        for number, (pattern, _) in enumerate(PHRASES)
    ),
    re.IGNORECASE,
)

RUST_TOKEN = re.compile(
    r"""
    (?P<line>//[/!]*) (?P<line_text>[^\n]*)
  | (?P<block>/\*(?:[^*]|\*(?!/))*\*/)
  | b?c?r(?P<hashes>\#*)"(?P<raw>.*?)"(?P=hashes)
  | [bc]?"(?P<string>(?:[^"\\]|\\.)*)"
  | (?P<char>b?'(?:[^'\\\n]|\\(?:.|x[0-9a-fA-F]{2}|u\{[0-9a-fA-F_]+\}))')
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    """,
    re.VERBOSE | re.DOTALL,
)

CODE_WORD = re.compile(r"`[^`\s]+`")
ROW_MARKER = re.compile(r"^([ \t]*)(//[/!]*|--|#+|\*|>)", re.MULTILINE)
ESCAPE = re.compile(r"\\(\n)?.?", re.DOTALL)


def blank(text: str, filler: str) -> str:
    """The same shape, with everything but white space replaced."""
    return re.sub(r"\S", filler, text)


def without_code_words(text: str) -> str:
    return CODE_WORD.sub(lambda match: BARRIER * len(match[0]), text)


def without_markers(text: str) -> str:
    """What begins a line of a comment or a quotation becomes white space."""
    return ROW_MARKER.sub(lambda match: match[1] + " " * len(match[2]), text)


def without_escapes(text: str) -> str:
    """A backslash that continues a string on the next line is white space; any other escape separates words."""
    return ESCAPE.sub(lambda match: " " + match[0][1:] if match[1] else BARRIER * len(match[0]), text)


def rust_prose(text: str) -> str:
    """The comments and strings of a Rust file at their places, and barriers instead of the code."""
    parts, end = [], 0
    for token in RUST_TOKEN.finditer(text):
        parts.append(blank(text[end : token.start()], BARRIER))
        end = token.end()
        if token["line"]:
            parts.append(" " * len(token["line"]) + without_code_words(token["line_text"]))
        elif token["block"]:
            parts.append(without_code_words(without_markers("  " + token["block"][2:-2] + "  ")))
        elif token["raw"] is not None or token["string"] is not None:
            group = "raw" if token["raw"] is not None else "string"
            inner = token[group] if group == "raw" else without_escapes(token[group])
            before, after = token.start(group) - token.start(), token.end() - token.end(group)
            parts.append(BARRIER * before + inner + BARRIER * after)
        else:
            parts.append(blank(token[0], BARRIER))
    parts.append(blank(text[end:], BARRIER))
    return "".join(parts)


def prose(path: pathlib.Path, text: str) -> str:
    if path.suffix == ".rs":
        return rust_prose(text)
    return without_markers(without_code_words(text))


def is_checked(path: pathlib.Path) -> bool:
    name = path.relative_to(ROOT).as_posix()
    known = path.suffix == ".rs" or path.suffix in PROSE | ALL_TEXT or path.name in ALL_TEXT_NAMES
    return known and name not in SKIPPED


def files(arguments: list[str]) -> list[pathlib.Path]:
    for argument in arguments:
        if not pathlib.Path(argument).exists():
            sys.exit(f"{argument} does not exist")
    paths = [str(pathlib.Path(argument).resolve()) for argument in arguments]
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = (ROOT / name for name in listed.split("\0") if name)
    return sorted(path for path in set(tracked) if path.is_file() and is_checked(path))


def one_line(text: str) -> str:
    return " ".join(text.split())


def allowed_spans(name: str, text: str, unneeded: set[int]) -> list[tuple[int, int]]:
    """Where the words around a phrase that is allowed are in this text."""
    spans = []
    for number, (file, words, _) in enumerate(ALLOWED):
        if file == name:
            pattern = r"\s+".join(re.escape(word) for word in words.split())
            found = [match.span() for match in re.finditer(pattern, text)]
            spans += found
            if not found:
                unneeded.add(number)
    return spans


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="only the number of hits in each folder")
    parser.add_argument("paths", nargs="*", metavar="PATH")
    arguments = parser.parse_args()

    hits, count, unneeded = [], Counter(), set()
    if not arguments.paths:
        is_missing = lambda name: not (is_checked(ROOT / name) and (ROOT / name).is_file())
        unneeded = {number for number, (name, _, _) in enumerate(ALLOWED) if is_missing(name)}
    for path in files(arguments.paths):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        text_of_prose = prose(path, text)
        assert len(text_of_prose) == len(text), name
        spans = allowed_spans(name, text_of_prose, unneeded)
        for match in MATCHER.finditer(text_of_prose):
            if any(start <= match.start() and match.end() <= end for start, end in spans):
                continue
            line = text.count("\n", 0, match.start()) + 1
            instead = PHRASES[int(match.lastgroup[1:])][1]
            hits.append(f"{name}:{line}: {one_line(match[0])} -> {instead}")
            count[name.split("/")[0] + "/" if "/" in name else name] += 1

    for line in [f"{number:6} {folder}" for folder, number in sorted(count.items())] if arguments.count else hits:
        print(line)
    for number in sorted(unneeded):
        print(f"ALLOWED is no longer needed: {ALLOWED[number][0]}: {ALLOWED[number][1]}")
    return 1 if hits or unneeded else 0


if __name__ == "__main__":
    sys.exit(main())
