"""`convc lsp`: the language server that editors start."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from typing import NoReturn

from convc.commands.parser import whole


def port(text: str) -> int:
    """The number of a TCP port."""
    number = whole(text)
    if not 1 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--stdio", action="store_true", help="speak over standard input and output (the default)")
    way.add_argument("--tcp", type=port, metavar="PORT", help="listen on a port of this machine instead")


def _interrupted(_number: int, _frame: object) -> NoReturn:
    """End at once: a thread waits for input, and Python would wait for the thread. There is nothing to save."""
    os.write(2, b"\ninterrupted\n")
    os._exit(130)


def run(arguments: argparse.Namespace) -> int:
    from importlib.util import find_spec

    from convc.ir.diagnostic import fail

    if find_spec("pygls") is None:
        hint = "pip install 'convc[lsp]', or pip install 'pygls>=2.0'"
        fail("missing-package", "`convc lsp` needs the package pygls, which is not installed", hint=hint)
    from convc.commands.language_server.server import make_server

    if os.environ.get("CONVC_DEBUG", "") in ("", "0"):
        # How connections end, and what editors send in vain, is nothing to fill an editor's log with.
        for library in ("asyncio", "pygls"):
            logging.getLogger(library).setLevel(logging.CRITICAL + 1)

    server = make_server()
    signal.signal(signal.SIGINT, _interrupted)
    if arguments.tcp is None and sys.stdin.isatty():
        print("waiting for an editor to speak the language server protocol; Ctrl-C ends", file=sys.stderr)
    if arguments.tcp is None:
        # The library closes what it writes to; whatever else prints must not mix with the protocol.
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as channel, contextlib.redirect_stdout(sys.stderr):
            server.start_io(stdout=channel)
    else:
        server.start_tcp("127.0.0.1", arguments.tcp)
    return 0 if server.shut_down else 1
