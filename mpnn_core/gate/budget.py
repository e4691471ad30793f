"""The time that measuring may take."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass

LONGEST_S = 3_600_000


def seconds(text: str) -> float:
    """ "90s", "4m" or "1.5h" in seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh])", text)
    value = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else math.inf
    if value > LONGEST_S:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; expected a number and s, m or h, such as 4m, of 1000h at most"
        )
    return value


@dataclass
class Budget:
    """Seconds left for measuring in this run."""

    left: float
