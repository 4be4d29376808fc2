"""Progress reporting: a progress bar on a terminal, plain lines elsewhere, and only warnings in quiet mode.

All output goes to stderr. Stdout is for results.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

Advance = Callable[[int], None]
"""Advances a progress bar by a number of steps."""
PLAIN_INTERVAL_S = 10.0
"""Seconds between two progress lines without a terminal."""


class Reporter:
    """Prints messages and progress.

    Attributes:
        quiet: Whether to print warnings only.
        live: Whether the output is a terminal that can show progress bars.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet
        self._has_display = False

    def say(self, message: str) -> None:
        """Print a line, unless quiet."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Print a warning, even if quiet."""
        print(f"warning: {message}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Show the progress of a task of `total` steps. Yields the function that advances it."""
        if self.live and not self._has_display:
            with _rich_bar() as bar:
                task = bar.add_task(description, total=total)
                yield lambda count: bar.update(task, advance=count)
        else:
            yield self._plain(description, total)

    @contextlib.contextmanager
    def display(self, draw: Callable[[], RenderableType]) -> Iterator[None]:
        """Show the result of `draw` below other output, and refresh it twice a second. Requires `live`."""
        from rich.live import Live

        self._has_display = True  # rich allows one live display; tasks inside print plain lines
        try:
            with Live(get_renderable=draw, console=_terminal(), refresh_per_second=2, redirect_stdout=False):
                yield
        finally:
            self._has_display = False

    def _plain(self, description: str, total: int) -> Advance:
        started = shown = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, shown
            done += count
            now = time.monotonic()
            if done < total and now - shown < PLAIN_INTERVAL_S:
                return
            shown = now
            left = (now - started) / max(done, 1) * (total - done)
            self.say(f"{description}: {done}/{total}" + (f", {left:.0f} s left" if done < total else ""))

        return advance


def _rich_bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=_terminal(), transient=False)


def _terminal() -> Console:
    from rich.console import Console

    # A duplicate descriptor: converters redirect the original stderr while they run.
    return Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding))
