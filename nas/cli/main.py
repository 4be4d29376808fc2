"""`nas`: the commands, and what becomes of errors."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn

from nas import __version__
from nas.cli import check_proxy, export, list, profile, scale, search, show, train  # noqa: A004
from nas.errors import NasError
from nas.utils.allocator import keep_freed_memory
from nas.utils.registry import nearest
from nas.utils.reporting import Reporter

COMMANDS = (search, profile, scale, show, list, train, export, check_proxy)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line with the nearest known flag."""

    def error(self, message: str) -> NoReturn:
        """Print the message in one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def name_of(command: ModuleType) -> str:
    """Return the name of a command on the command line."""
    return command.__name__.rpartition(".")[2].replace("_", "-")


def make_parser() -> OneLineParser:
    """Return the parser of all commands; nothing heavy is imported for it."""
    common = OneLineParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    common.add_argument("--quiet", action="store_true", help="print warnings and the result only")
    parser = OneLineParser(
        prog="nas",
        description="Find the most accurate network for a device, a latency budget and a data set.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nas {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=OneLineParser)
    for command in COMMANDS:
        name = name_of(command)
        subparser = commands.add_parser(name, help=command.HELP, description=command.HELP, parents=[common],
                                        allow_abbrev=False)  # fmt: skip
        command.add_arguments(subparser)
        subparser.set_defaults(module=command, parser=subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0, or 1 for a failed check or a closed pipe (as rich has it), 2 for bad input or a failing disk, 130 when
    interrupted.
    """
    names = [name_of(command) for command in COMMANDS]
    parser = make_parser()
    given = sys.argv[1:] if argv is None else [*argv]
    if not given:
        parser.print_help()
        return 0
    if not given[0].startswith("-") and given[0] not in names:
        parser.error(f"unknown command {given[0]!r}{nearest(given[0], names)}")
    args, unknown = parser.parse_known_args(given)
    if unknown:
        flags = [flag for flag in args.parser._option_string_actions if flag.startswith("--")]
        args.parser.error(f"unknown argument '{unknown[0]}'{nearest(unknown[0].partition('=')[0], flags)}")
    try:
        keep_freed_memory()
        with _ended_in_order():
            result = args.module.run(args, Reporter(args.quiet))
        _print_result(args, result)
    except BrokenPipeError:  # whoever read our output has what it wanted, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except NasError as error:
        print(f"nas {args.command}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"nas {args.command}: error: {place}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"nas {args.command}: interrupted; the same command continues", file=sys.stderr)
        return 130
    exit_status = getattr(args.module, "exit_status", None)
    return exit_status(result) if exit_status else 0


def _print_result(args: argparse.Namespace, result: Any) -> None:
    if args.json:
        print(json.dumps(result))
    else:
        args.module.print_result(result)
    sys.stdout.flush()


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM, by which machines are taken back, end a command as Ctrl-C does: what is under way is released."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
