"""Signals that ask a run to end."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Yield a list to which SIGTERM and SIGINT are appended when they arrive.

    The first one only asks the run to end; a second one has its usual effect.
    """
    seen = []
    before = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        restore()

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, note)
    try:
        yield seen
    finally:
        restore()
