"""`nas`: dispatches to the commands and turns errors into one line and an exit status."""

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
from nas.cli import check_proxy, compare, export, list, profile, scale, search, show, train  # noqa: A004
from nas.cli.flags import add_short_help
from nas.errors import NasError, UsageError, naming_file
from nas.utils.allocator import keep_freed_memory
from nas.utils.registry import nearest
from nas.utils.reporting import Reporter

DESCRIBED = ("space", "network", "name", "source")
"""The arguments that may name the file of a space or a network."""
COMMANDS = (search, profile, scale, show, list, train, export, compare, check_proxy)


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message in one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def name_of(command: ModuleType) -> str:
    """Return a command's name: "check-proxy" for `nas.cli.check_proxy`."""
    return command.__name__.rpartition(".")[2].replace("_", "-")


def make_parser() -> OneLineParser:
    """Return the parser of all commands. It imports nothing heavy."""
    common = OneLineParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    common.add_argument("--quiet", action="store_true", help="print only warnings and the result")
    parser = OneLineParser(
        prog="nas",
        description="Find the most accurate network for a device, a latency budget and a data set.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nas {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=OneLineParser)
    for command in COMMANDS:
        name = name_of(command)
        text = {"help": command.HELP, "description": command.HELP}
        most_used = getattr(command, "MOST_USED", None)
        subparser = commands.add_parser(name, parents=[common], allow_abbrev=False, add_help=not most_used, **text)
        if most_used:
            add_short_help(subparser, most_used, command.EXAMPLES)
        command.add_arguments(subparser)
        subparser.set_defaults(module=command, parser=subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv: The arguments; None stands for those of the process.

    Returns:
        0 for success, 1 for a failed check or a closed pipe, 2 for bad input or an error of the file system, 130 after
        an interrupt.
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
        _check_homes(args)
        keep_freed_memory()
        described = next((value for key in DESCRIBED if isinstance(value := getattr(args, key, None), str)), None)
        with _interrupted_by_sigterm(), naming_file(described):
            result = args.module.run(args, Reporter(args.quiet))
        _print_result(args, result)
    except BrokenPipeError:  # the reader, for example `head`, needs no more output
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


def _check_homes(args: argparse.Namespace) -> None:
    """Raise UsageError for a path that begins with the home folder of an unknown user: "~nobody/images"."""
    for key, given in vars(args).items():
        values = [given] if isinstance(given, str) else given if isinstance(given, Sequence) else []
        for value in values:
            if isinstance(value, str) and value.startswith("~") and os.path.expanduser(value) == value:  # noqa: PTH111
                user = value.partition("/")[0]
                raise UsageError(f"there is no home folder '{user}'", key=key, value=value)


def _print_result(args: argparse.Namespace, result: Any) -> None:
    if args.json:
        print(json.dumps(result))
    else:
        args.module.print_result(result)
    sys.stdout.flush()


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that it releases its candidates. Clusters send it first."""
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
