"""`convc cache`: the cache of compiled code."""

from __future__ import annotations

import argparse

from convc.commands.output import format_bytes, format_count, print_json
from convc.commands.parser import size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--clear", action="store_true", help="remove all entries")
    change.add_argument(
        "--limit", type=size, metavar="SIZE", help="remove what was not used for longest until SIZE (2GiB) is left"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from convc.codegen.llvm.object_cache import shared_cache

    cache = shared_cache()
    removed = 0
    if arguments.clear:
        removed = cache.clear()
    elif arguments.limit is not None:
        removed = cache.limit(arguments.limit)
    entries = cache.entries()
    total = sum(entry.size for entry in entries)
    if arguments.json:
        folder = str(cache.folder) if cache.folder else None
        print_json({"folder": folder, "entries": len(entries), "bytes": total, "removed": removed})
        return 0
    if cache.folder is None:
        print("the cache is switched off (CONVC_CACHE)")
        return 0
    if arguments.clear or arguments.limit is not None:
        print(f"removed {_entries(removed)}")
    print(f"{cache.folder}: {_entries(len(entries))}, {format_bytes(total)}")
    return 0


def _entries(count: int) -> str:
    return f"{format_count(count)} {'entry' if count == 1 else 'entries'}"
