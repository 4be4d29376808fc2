"""What a person sees while a long job runs: a rich bar on a terminal, plain lines elsewhere, nothing when quiet.

Everything goes to stderr; stdout belongs to results.
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
PLAIN_INTERVAL_S = 10.0


class Reporter:
    """Prints messages and progress. `quiet` leaves warnings only."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet
        """Whether a person sees what changes: a bar, or a display."""
        self._shows = False

    def say(self, message: str) -> None:
        """Print one line, unless quiet."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Print one line, always."""
        print(f"warning: {message}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Give a function that advances by n of `total`, shown with the time left."""
        if self.live and not self._shows:
            with _rich_bar() as bar:
                task = bar.add_task(description, total=total)
                yield lambda count: bar.update(task, advance=count)
        else:
            yield self._plain(description, total)

    @contextlib.contextmanager
    def display(self, draw: Callable[[], RenderableType]) -> Iterator[None]:
        """Show what `draw` returns, twice a second, below whatever is printed meanwhile; for a `live` reporter."""
        from rich.live import Live

        self._shows = True  # a bar would be a second display: tasks within are lines
        try:
            with Live(get_renderable=draw, console=_terminal(), refresh_per_second=2, redirect_stdout=False):
                yield
        finally:
            self._shows = False

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

    # A descriptor of its own: while a converter runs, what others print to stderr goes elsewhere.
    return Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding))
