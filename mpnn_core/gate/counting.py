"""What can be counted instead of timed, and the baseline that counts are held against."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mpnn_core.gate import GateError


@dataclass(frozen=True)
class Counter:
    """One counted number, or list of names; with `torch`, another torch may count otherwise."""

    name: str
    value: int | str
    unit: str
    torch: bool = False


class BaselineError(GateError):
    """baseline.json is not there, or none; the message says what to do."""


class Operations(TorchDispatchMode):
    """Counts the operations that torch dispatches; `written` are the sizes of their results.

    In bytes, those of views left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.written: list[int] = []

    @property
    def bytes(self) -> int:
        return sum(self.written)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        is_view = any(
            r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns
        )
        if not is_view:
            results = out if isinstance(out, tuple | list) else [out]
            self.written += [r.nbytes for r in results if isinstance(r, torch.Tensor)]
        return out


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most that torch holds on the CPU at a time during `run`, beyond what it held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = run()  # alive until the profile has ended
    del kept
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(max(held.max(initial=0), 0))


def matmul_multiply_adds(run: Callable[[], Any]) -> int:
    """What torch's own counter finds: matrix products that torch dispatches, and nothing else."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as found:
        run()
    return int(found.get_total_flops()) // 2


@dataclass(frozen=True)
class Baseline:
    """What the counters must be: values by name, why, and the torch they were counted with."""

    values: Mapping[str, int | str]
    reasons: Mapping[str, str]
    torch: str

    @classmethod
    def load(cls, path: Path) -> Baseline:
        try:
            content = json.loads(path.read_text("utf-8"))
            rows = content["counters"]
            return cls(
                {name: row["value"] for name, row in rows.items()},
                {name: row["because"] for name, row in rows.items()},
                content["torch"],
            )
        except FileNotFoundError:
            raise BaselineError(
                f"there is no {path}; `python fixtures/make_baseline.py` proposes one"
            ) from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BaselineError(f"{path} is not a baseline: {error!r}") from None

    def differences(self, counters: list[Counter]) -> list[str]:
        """A line per counter that is not what it must be, is new, or is gone."""
        lines = []
        for c in counters:
            expected = self.values.get(c.name)
            if expected is None:
                lines.append(f"{c.name}: {c.value} {c.unit}, new")
            elif expected != c.value and self.compares(c):
                lines.append(f"{c.name}: {c.value} {c.unit}, was {expected}{_change(expected, c)}")
        gone = self.values.keys() - {c.name for c in counters}
        return lines + [f"{name}: gone, was {self.values[name]}" for name in sorted(gone)]

    def compares(self, counter: Counter) -> bool:
        """Whether the counter can be held against the baseline on this torch."""
        return not counter.torch or self.torch == torch.__version__.split("+")[0]

    def updated(self, counters: list[Counter], because: str) -> dict[str, Any]:
        """The new content of the file: `because` goes beside what has changed."""
        rows = {}
        for c in counters:
            kept = self.values.get(c.name) == c.value
            reason = self.reasons[c.name] if kept else because
            rows[c.name] = {"value": c.value, "unit": c.unit, "because": reason}
        return {"torch": torch.__version__.split("+")[0], "counters": rows}


def _change(expected: int | str, counter: Counter) -> str:
    if isinstance(expected, str) or isinstance(counter.value, str) or not expected:
        return ""
    return f" ({100 * (counter.value / expected - 1):+.2f} %)"
