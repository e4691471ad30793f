"""Designs as a table: one row each, as CSV, as Parquet or as a DataFrame."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mpnn_core
from mpnn_core.structures.files import opened_atomically

if TYPE_CHECKING:
    from pandas import DataFrame

    from mpnn_core.design.results import Designs

COLUMNS: dict[str, type] = {
    "name": str, "structure": str, "sample": int, "chains": str, "designed_chains": str,
    "sequence": str, "score": float, "global_score": float, "confidence": float,
    "ligand_confidence": float, "seq_recovery": float, "n_mutations": int, "mutations": str,
    "temperature": float, "seed": int, "weights": str, "mpnn_core": str, "input_sha256": str,
}  # fmt: skip
"""The columns and their kinds. `chains` and `sequence` hold all chains, kept ones too, joined by
"/" in one order; `mutations` is joined by spaces. `ligand_confidence` is empty for models that see
no ligand, `temperature` where it differs from residue to residue, `input_sha256` where the
structure came from no file."""

ENDINGS = (".csv", ".parquet")
ROWS_A_BLOCK = 1 << 14
"""Rows that are in memory while a table is written."""


class TableError(ValueError):
    """A table that cannot be written; the message says what is missing."""


def design_names(designs: Sequence[Designs]) -> list[list[str]]:
    """What the designs of one structure are called in files: NAME_1, or NAME_T0.1_1 if there are
    several temperatures."""
    labels: dict[bytes, str] = {}
    times_of: Counter[str] = Counter()
    keys = [np.asarray(of.temperature, np.float64).tobytes() for of in designs]
    for of, key in zip(designs, keys, strict=True):
        values, times = np.unique(np.asarray(of.temperature), return_counts=True)
        label = f"T{values[times.argmax()]:g}"  # of most residues, where they differ
        if key not in labels:
            times_of[label] += 1
            labels[key] = f"{label}-{times_of[label]}" if times_of[label] > 1 else label
    names = []
    for of, key in zip(designs, keys, strict=True):
        own = []
        for design in of:
            name, _, sample = design.name.rpartition("_")
            own.append(f"{name}_{labels[key]}_{sample}" if len(labels) > 1 else design.name)
        names.append(own)
    return names


def temperature(designs: Designs) -> float:
    """The one temperature of all residues; NaN where they differ."""
    values = np.unique(np.asarray(designs.temperature, np.float64))
    return float(values[0]) if len(values) == 1 else float("nan")


def rows(designs: Sequence[Designs], input_sha256: str | None = None) -> list[dict[str, Any]]:
    """A dictionary of `COLUMNS` for each design of one structure; None where nothing is known.

    `input_sha256` is of the bytes of the file that the structure was read from.
    """
    table = []
    for of, names in zip(designs, design_names(designs), strict=True):
        at = temperature(of)
        for design, name in zip(of, names, strict=True):
            near = design.ligand_confidence
            values = (
                name, of.structure.name, design.sample, "/".join(design.chains),
                "/".join(of.design_chains), "/".join(design.chains.values()), design.score,
                design.global_score, design.confidence,
                None if near is None or np.isnan(near) else near, design.recovery,
                len(design.mutations), " ".join(design.mutations), None if np.isnan(at) else at,
                of.seed, of.model_name, mpnn_core.__version__, input_sha256,
            )  # fmt: skip
            table.append(dict(zip(COLUMNS, values, strict=True)))
    return table


def check_table(path: Path) -> None:
    """See that a table can be written to a path of that name.

    Raises
    ------
    TableError
        The name ends in neither .csv nor .parquet, or pyarrow is not installed for the second.
    """
    if path.suffix not in ENDINGS:
        raise TableError(f"{path}: a table is called {' or '.join('*' + e for e in ENDINGS)}")
    if path.suffix == ".parquet":
        _pyarrow()


def write_table(
    path: Path, table: Iterable[dict[str, Any]], columns: Mapping[str, type] = COLUMNS
) -> None:
    """Write rows as CSV (UTF-8, RFC 4180, floats in full) or Parquet, by the name's ending.

    Raises
    ------
    TableError
        As `check_table`.
    """
    check_table(path)
    writer, rows = TableWriter(path, columns), iter(table)
    while block := list(islice(rows, ROWS_A_BLOCK)):
        writer.write({name: [row[name] for row in block] for name in columns})
    writer.close()


class TableWriter:
    """Writes a table that need not fit into memory, block by block, as CSV or Parquet.

    The table appears at `path` once it is closed, whole. To standard output, where `path` is None,
    each block goes at once, as CSV.
    """

    def __init__(self, path: Path | None, columns: Mapping[str, type]) -> None:
        self.columns = columns
        self._stack = ExitStack()
        self._parquet: Any = None
        self._text: Any = sys.stdout
        if path is not None:
            file = self._stack.enter_context(opened_atomically(path))
            if path.suffix == ".parquet":
                self._pyarrow, parquet = _pyarrow()
                kinds = {
                    str: self._pyarrow.string(), int: self._pyarrow.int64(),
                    float: self._pyarrow.float64(),
                }  # fmt: skip
                schema = self._pyarrow.schema([(name, kinds[of]) for name, of in columns.items()])
                self._parquet = parquet.ParquetWriter(file, schema)
                self._stack.callback(self._parquet.close)
                return
            self._text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
            self._stack.callback(self._text.detach)
        self._csv = csv.writer(self._text, lineterminator="\n" if path is None else "\r\n")
        self._csv.writerow(list(columns))

    def write(self, block: Mapping[str, Sequence[Any]]) -> None:
        """Add rows, given as columns of equal length."""
        ordered = {name: block[name] for name in self.columns}
        if self._parquet is not None:
            table = self._pyarrow.Table.from_pydict(ordered, schema=self._parquet.schema)
            self._parquet.write_table(table)
            return
        self._csv.writerows(zip(*ordered.values(), strict=True))
        if self._text is sys.stdout:
            self._text.flush()

    def close(self) -> None:
        """Complete the table."""
        self._stack.close()


def data_frame(designs: Sequence[Designs]) -> DataFrame:
    """The rows of designs of one structure as a DataFrame; ImportError without pandas."""
    return require_pandas().DataFrame(rows(designs), columns=list(COLUMNS))


def require_pandas() -> Any:
    """pandas; ImportError, with what to do, where it is not installed."""
    try:
        import pandas
    except ImportError:
        raise ImportError(
            "to_pandas needs pandas, which is not installed: pip install 'mpnn-core[table]'"
        ) from None
    return pandas


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TableError(
            "Parquet needs pyarrow, which is not installed: pip install 'mpnn-core[table]'; a name "
            "that ends in .csv needs nothing"
        ) from None
    return pyarrow, pyarrow.parquet
