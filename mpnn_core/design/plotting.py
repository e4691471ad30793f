"""Maps of residues and letters as matplotlib figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET
from mpnn_core.structures.structure import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_map(
    structure: Structure,
    values: NDArray[Any],
    words: str,
    chain: str | None = None,
    axes: Axes | None = None,
    signed: bool = False,
) -> Axes:
    """Values (L, 20) of one chain as a map, its native residues marked.

    Parameters
    ----------
    chain : the chain; None is the first
    axes : where to draw; None makes a figure
    signed : whether values are above and below 0

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        There is no such chain.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(
            "plot needs matplotlib, which is not installed: pip install 'mpnn-core[notebook]'"
        ) from None
    chain = structure.chains[0] if chain is None else chain
    if chain not in structure.chains:
        raise ValueError(
            f"{structure.name} has no chain {chain!r}; it has {', '.join(structure.chains)}"
        )
    rows = np.flatnonzero(structure.chain_ids == chain)
    if axes is None:
        _, axes = pyplot.subplots(figsize=(max(4, 0.16 * len(rows) + 1.5), 4), layout="constrained")
    largest = float(np.nanmax(np.abs(values[rows]))) if signed else 1.0
    image = axes.imshow(
        values[rows].T, aspect="auto", interpolation="nearest",
        cmap="RdBu" if signed else "viridis", vmin=-largest if signed else 0, vmax=largest,
    )  # fmt: skip
    native = np.array([ALPHABET.index(structure.sequence[i]) for i in rows])
    known = native < 20
    axes.plot(
        np.flatnonzero(known), native[known], "s", markersize=4, markerfacecolor="none",
        markeredgecolor="tab:orange", label="native",
    )  # fmt: skip
    step = max(1, len(rows) // 40)
    axes.set_xticks(range(0, len(rows), step), structure.residue_numbers[rows[::step]], rotation=90)
    axes.set_yticks(range(20), list(ALPHABET[:20]))
    axes.set_xlabel(f"residue of chain {chain}")
    axes.set_title(structure.name)
    axes.figure.colorbar(image, ax=axes, label=words)
    return axes
