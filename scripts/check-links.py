#!/usr/bin/env python3
"""Checks the links of the documents.

A relative link must lead to a file or folder of this repository, and its anchor to a heading there. Links to the source on
docs.rs, which the README of a package has, must do so too. Every document in docs/ must be a chapter in docs/SUMMARY.md. A test that a
document names, as `cli/tests/it/order.rs::its_name`, must exist. Other addresses are not checked, so no network is needed.

    scripts/check-links.py [FOLDER]     the repository, unless it is the one that this script is in

Exits with 1 and prints the broken links, a line each.
"""

import re
import sys
from pathlib import Path
from urllib.parse import unquote

DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
SUMMARY = "docs/SUMMARY.md"
ON_DOCS_RS = "https://docs.rs/crate/actix-outbox/latest/source/"

FENCE = re.compile(r"\s*(```+|~~~+)")
INLINE_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)")
REFERENCE = re.compile(r"\s*\[[^\]]+\]:\s*<?([^\s>]+)")
HTML_LINK = re.compile(r"<(?:a|img)\s[^>]*?(?:href|src)=\"([^\"]+)\"")
HTML_ANCHOR = re.compile(r"<a\s[^>]*?(?:id|name)=\"([^\"]+)\"")
TEST = re.compile(r"`((?:(?:cli|console)/)?(?:src|tests)/[\w/]+\.rs)::(\w+)`")
HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*$")


def prose(path):
    """The numbered lines of a document that are outside of code blocks."""
    fence = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark = FENCE.match(line)
        if fence is None and mark:
            fence = mark[1]
        elif fence is not None:
            if mark and mark[1].startswith(fence) and line.strip() == mark[1]:
                fence = None
        else:
            yield number, line


def slug(heading):
    """The anchor that code hosts and mdBook give a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[`*]", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(path):
    """All anchors of a document; a heading's second occurrence ends with -1."""
    found, seen = set(), {}
    for _, line in prose(path):
        found.update(HTML_ANCHOR.findall(line))
        if heading := HEADING.match(line):
            name = slug(heading[1])
            count = seen.get(name, 0)
            seen[name] = count + 1
            found.add(f"{name}-{count}" if count else name)
    return found


def links(path):
    for number, line in prose(path):
        line = INLINE_CODE.sub("", line)
        for pattern in (LINK, HTML_LINK):
            yield from ((number, target) for target in pattern.findall(line))
        if reference := REFERENCE.match(line):
            yield number, reference[1]


def problem(root, document, target):
    """Why a link is broken, or None."""
    if target.startswith(ON_DOCS_RS):
        base, target = root, target.removeprefix(ON_DOCS_RS)
    elif re.match(r"[a-z][a-z0-9+.-]*:", target, re.IGNORECASE):
        return None
    else:
        base = document.parent
    name, _, anchor = unquote(target).partition("#")
    path = (base / name).resolve() if name else document
    if not path.is_relative_to(root):
        return "leads out of the repository"
    if not path.exists():
        return "no such file"
    if anchor and path.suffix == ".md" and anchor not in anchors(path):
        return "no such heading"
    return None


def missing_tests(root, document):
    """The tests that a document names and that are not in their files."""
    for number, line in prose(document):
        for file, test in TEST.findall(line):
            path = root / file
            if not path.exists() or not re.search(rf"\bfn {test}\b", path.read_text(encoding="utf-8")):
                yield number, f"{file}::{test}"


def main(root):
    chapters = sorted((root / "docs").rglob("*.md"))
    broken = []
    for document in [root / name for name in DOCUMENTS] + chapters:
        name = document.relative_to(root)
        broken += [f"{name}:{number}: {test}: no such test" for number, test in missing_tests(root, document)]
        for number, target in links(document):
            if reason := problem(root, document, target):
                broken.append(f"{name}:{number}: {target}: {reason}")
    summary = root / SUMMARY
    listed = {(summary.parent / target.partition("#")[0]).resolve() for _, target in links(summary)}
    for chapter in chapters:
        if chapter != summary and chapter not in listed:
            broken.append(f"{chapter.relative_to(root)}: is not a chapter in {SUMMARY}")
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve())
