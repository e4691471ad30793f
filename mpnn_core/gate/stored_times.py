"""Seconds that fresh processes measured, given to pytest-benchmark by its own interface."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(eq=False)
class Replayed:
    """A clock for `@pytest.mark.benchmark(timer=...)`, and the run that it times.

    The clock stands still but during `run`, which takes the next of `seconds`.
    """

    __name__: ClassVar[str] = "fresh processes"

    seconds: list[float] = field(default_factory=list)
    now: float = field(default=0.0, init=False)
    runs: int = field(default=0, init=False)

    def __call__(self) -> float:
        return self.now

    def run(self) -> None:
        self.now += self.seconds[self.runs]
        self.runs += 1
