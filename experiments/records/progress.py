"""How far a run is, for a person who watches."""

import collections
import contextlib
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.saying import is_terminal, say

REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 10.0
RATE_SECONDS = 30.0


class Progress:
    """One bar over the run, in two short lines; without a terminal a line every ten seconds.

    >>> with Progress(100, start_step=0, steps_per_epoch=50, batch_size=8, file=sys.stdout) as bar:
    ...     bar.update(50, phase="normal", learning_rate=0.1, loss=1.5, accuracy=0.5, density=0.05)
    ...     bar.log("ticket 1: validation accuracy 52.10 %")
    normal  epoch 1.0/2   50 %  lr 0.1  loss 1.5000  acc 50.00 %  density 5.00 %
    ticket 1: validation accuracy 52.10 %
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int,
        steps_per_epoch: int,
        batch_size: int,
        file: TextIO | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the bar; entering the context shows it.

        Args:
          total_steps: training steps of the whole run.
          start_step: steps that an earlier part of the run has done.
          steps_per_epoch: training steps in one epoch.
          batch_size: images in one step.
          file: where to write; standard error if it is None.
          enabled: False is silent, for all processes but the first one.
          clock: seconds since some moment.
        """
        self._total, self._start, self._step = total_steps, start_step, start_step
        self._steps_per_epoch, self._batch_size = steps_per_epoch, batch_size
        self._file: TextIO | None = sys.stderr if file is None else file
        self._enabled, self._clock = enabled, clock
        self._fields: dict[str, Any] = {}
        self._times: collections.deque[tuple[float, int]] = collections.deque()
        self._live: Live | None = None
        self._shown_at = -float("inf")
        self._pending = False

    def __enter__(self) -> Self:
        if self._enabled and is_terminal(self._file) and os.environ.get("TERM") != "dumb":
            console = Console(file=self._file, force_terminal=True)
            self._live = Live(
                self._render(),
                console=console,
                auto_refresh=False,  # no thread beside the training
                redirect_stdout=is_terminal(sys.stdout),
            )
            with self._terminal():
                self._live.start(refresh=True)
                console.show_cursor(True)  # so that a killed run leaves a terminal with a cursor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pending:
            self._show()
        if self._live is not None:
            with self._terminal():
                self._live.stop()

    def update(self, step: int, **fields: Any) -> None:
        """Move the bar.

        Args:
          step: training steps done, earlier parts of the run included.
          **fields: any of phase, learning_rate, loss, accuracy, density (shares in [0, 1]) and
            images_per_second, which is shown until the bar has measured its own; what is left
            out stays as it was.
        """
        now = self._clock()
        self._step = step
        self._fields.update(fields)
        if step > self._start:  # what comes before the first steps is compilation
            self._times.append((now, step))
        while len(self._times) > 2 and now - self._times[1][0] >= RATE_SECONDS:
            self._times.popleft()
        self._pending = self._enabled
        between = PLAIN_SECONDS if self._live is None else REDRAW_SECONDS
        if self._enabled and (now - self._shown_at >= between or step >= self._total):
            self._show()

    def log(self, line: str) -> None:
        """Write a line about an event, above the bar.

        Args:
          line: the text.
        """
        if self._live is not None:
            with self._terminal():
                self._live.console.print(line, markup=False, highlight=False)
        elif self._enabled:
            say(line, file=self._file)

    @property
    def images_per_second(self) -> float | None:
        """Training speed over the last half minute; None before it is known."""
        if len(self._times) < 2:
            return None
        (begin, first), (end, last) = self._times[0], self._times[-1]
        return (last - first) * self._batch_size / (end - begin) if end > begin else None

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        """Draw on the terminal; where it is gone, the bar is silent from then on."""
        try:
            yield
        except (OSError, ValueError):
            self._enabled, self._live = False, None

    def _show(self) -> None:
        self._shown_at, self._pending = self._clock(), False
        if self._live is not None:
            with self._terminal():
                self._live.update(self._render(), refresh=True)
        else:
            parts = [self._position(), *self._done(), *self._numbers()]
            say("  ".join(parts), file=self._file)

    def _render(self) -> Group:
        """Draw two lines that never wrap: where the run is, and its numbers."""
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        drawn = ProgressBar(total=self._total, completed=self._step)
        bar.add_row(self._position(), drawn, "  ".join(self._done()))
        return Group(bar, Text("  ".join(self._numbers()), no_wrap=True, overflow="ellipsis"))

    def _position(self) -> str:
        epochs = [steps / self._steps_per_epoch for steps in (self._step, self._total)]
        return f"{self._fields.get('phase', 'start')}  epoch {epochs[0]:.1f}/{epochs[1]:.4g}"

    def _done(self) -> list[str]:
        percent = f"{100 * self._step // self._total:3d} %"  # 100 only at the end
        rate = self.images_per_second
        if rate is None:
            return [percent]
        seconds = round((self._total - self._step) * self._batch_size / rate) if rate else 0
        return [percent, f"{datetime.timedelta(seconds=seconds)} left"]

    def _numbers(self) -> list[str]:
        formats = {
            "learning_rate": "lr {:.3g}",
            "loss": "loss {:.4f}",
            "accuracy": "acc {:.2%}",
            "density": "density {:.2%}",
            "images_per_second": "{:,.0f} images/s",
        }
        speed = self.images_per_second or self._fields.get("images_per_second") or None
        values = self._fields | {"images_per_second": speed}
        return [
            text.format(float(values[name])).replace("%", " %")
            for name, text in formats.items()
            if values.get(name) is not None
        ]
