"""What the gate knows of the project that it judges."""

from __future__ import annotations

from pathlib import Path

RESULT = Path(".mpnn_core") / "comparison.json"
CACHE = Path(".mpnn_core") / "builds"
BENCHMARKS = Path("perf_tests") / "benchmarks.py"
