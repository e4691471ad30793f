"""One HTML file of designs or scans: a table, a map of residues and letters, and the structure.

`page.html` is the frame, `page.css` how it looks, `page.js` what it does; 3Dmol.js (BSD 3-Clause,
version 2.5.5, from npm) draws the structure. All are put into the file, so it needs no network.

Numbers go into the page as thousandths: probabilities, and differences of logits in nats.
"""

from __future__ import annotations

import html
import json
import os
import string
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mpnn_core
from mpnn_core.constants import ALPHABET
from mpnn_core.design.results import Designs
from mpnn_core.design.scan import Scan
from mpnn_core.design.table import design_names, temperature
from mpnn_core.structures.files import write_atomically
from mpnn_core.structures.structure import Structure
from mpnn_core.structures.writers import pdb_cannot_hold, structure_text

MOST_STRUCTURES = 50
"""Of a page; more would make a file that a browser opens slowly."""

LETTERS = np.array(list(ALPHABET[:20]))

Item = Sequence[Designs] | Designs | Scan


def write_page(
    path: str | os.PathLike[str],
    items: Sequence[Item] | Item,
    title: str = "",
    models: Sequence[str | os.PathLike[str] | None] = (),
) -> int:
    """Write a page; it replaces what is at `path`.

    Parameters
    ----------
    items : Designs, lists of Designs of one structure (at several temperatures), and Scans, each a
        structure of the page. Those after the first `MOST_STRUCTURES` are left out
    title : of the page; "" names the first structure
    models : for each item a PDB or mmCIF file to draw instead of its backbone, such as a packed
        model of a design; None draws the backbone

    Returns
    -------
    How many were left out.

    Raises
    ------
    ValueError
        There is no item, or one without a design; or there are models, and not one for each.
    """
    given = [items] if isinstance(items, Designs | Scan) else list(items)
    listed = [item if isinstance(item, Scan) else _designs_of(item) for item in given]
    if not listed:
        raise ValueError("nothing to show; expected designs or a scan")
    if models and len(models) != len(listed):
        raise ValueError(f"{len(models)} models for {len(listed)} items; expected one for each")
    drawn = [None if model is None else Path(model) for model in models]
    text = page(listed[:MOST_STRUCTURES], title, drawn[:MOST_STRUCTURES])
    write_atomically(Path(path), lambda file: file.write(text.encode("utf-8")))
    return max(0, len(listed) - MOST_STRUCTURES)


def page(
    items: Sequence[Sequence[Designs] | Scan],
    title: str = "",
    models: Sequence[Path | None] = (),
) -> str:
    """The text of the page."""
    shown = [_of_scan(item) if isinstance(item, Scan) else _of_designs(item) for item in items]
    for item, model in zip(shown, models, strict=False):
        if model is not None:
            item |= {
                "model3d": model.read_text("utf-8"), "format": model.suffix[1:],
                "hasSideChains": True,
                "lead": f"{item['lead']}; drawn with the side chains of {model.stem}",
            }  # fmt: skip
    if not title:
        more = f" and {len(shown) - 1} more" if len(shown) > 1 else ""
        kind = "Scan" if shown[0]["kind"] == "scan" else "Designs"
        title = f"{kind} of {shown[0]['name']}{more}"
    # In a script element only "</script" and "<!--" mean anything, and they begin with "<".
    data = json.dumps({"items": shown}, separators=(",", ":"), allow_nan=False)
    parts = {
        "title": html.escape(title),
        "foot": f"mpnn_core {html.escape(mpnn_core.__version__)}. Structure drawn by 3Dmol.js.",
        "data": data.replace("<", "\\u003c"),
        "style": _asset("page.css"),
        "viewer": _asset("3Dmol-min.js"),
        "script": _asset("page.js"),
    }
    return _Frame(_asset("page.html")).substitute(parts)


class _Frame(string.Template):
    """Places are {{name}}."""

    pattern = r"\{\{(?:(?P<named>\w+)|(?P<braced>(?!))|(?P<escaped>(?!))|(?P<invalid>))\}\}"  # type: ignore[assignment]


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _designs_of(item: Designs | Sequence[Designs]) -> list[Designs]:
    of = [item] if isinstance(item, Designs) else list(item)
    if not any(len(designs) for designs in of):
        raise ValueError("designs without a sequence; expected at least one")
    return [designs for designs in of if len(designs)]


def _of_designs(of: Sequence[Designs]) -> dict[str, Any]:
    """What the page is told of the designs of one structure."""
    structure = of[0].structure
    profile = np.concatenate([designs.probabilities for designs in of]).mean(0)[:, :20]
    drawn = np.array([list(s) for designs in of for s in designs.sequences])  # (n, L)
    # What is kept was not drawn: the letter that stands there.
    kept = profile.sum(1) < 0.5
    profile[kept] = drawn[0][kept][:, None] == LETTERS
    native = np.array(list(structure.sequence))
    rows = [
        {
            "name": name,
            "score": _rounded(design.score),
            "confidence": _rounded(design.confidence),
            "ligand_confidence": _rounded(design.ligand_confidence),
            "recovery": _rounded(design.recovery),
            "mutations": len(design.mutations),
            "temperature": _rounded(temperature(designs)),
            "sequence": design.sequence,
            "written": "/".join(design.chains.values()),
        }
        for designs, names in zip(of, design_names(of), strict=True)
        for design, name in zip(designs, names, strict=True)
    ]
    confidence = np.concatenate([designs.residue_confidence for designs in of]).mean(0)
    designed = of[0].designed
    values = {
        "confidence": _scale("Confidence", confidence, structure.mask, 0, 1),
        "entropy": _scale("Entropy of the letters, nats", _entropy(profile), designed, 0, 3),
        "recovery": _scale("Share of designs with the native residue", (drawn == native).mean(0),
                           designed, 0, 1),
    }  # fmt: skip
    n, seed = len(rows), of[0].seed
    designs = f"{n} design{'s' if n > 1 else ''}"
    lead = f"{designs} of {structure.name} by {of[0].model_name}, seed {seed}"
    what = (
        "Mean probability of each amino acid over the designs, and as letters above; the native "
        "residue is framed, the chosen design's has a dot."
    )
    return _item("design", structure, profile, values, lead, what) | {
        "rows": rows,
        "map": _thousandths(profile, np.ones(len(structure), bool)),
    }


def _of_scan(scan: Scan) -> dict[str, Any]:
    """What the page is told of a scan."""
    structure, profile = scan.structure, np.exp(scan.log_probs[:, :20])
    difference = scan.logit_difference
    present = np.array(list(scan.sequence))[:, None] == LETTERS
    others = np.where(present, np.nan, difference)[scan.scanned]
    best, mean = np.full(len(structure), np.nan), np.full(len(structure), np.nan)
    best[scan.scanned], mean[scan.scanned] = np.nanmax(others, 1), np.nanmean(others, 1)
    values = {
        "mean": _scale("Mean logit difference", mean, scan.scanned, -6, 6, signed=True),
        "best": _scale("Best mutation's logit difference", best, scan.scanned, -6, 6, signed=True),
        "entropy": _scale("Entropy of the letters, nats", _entropy(profile), scan.scanned, 0, 3),
    }
    given = {
        "conditional": "given all other residues", "tied": "given all other residues, tied orders",
        "unconditional": "given the backbone alone",
    }[scan.method]  # fmt: skip
    orders = f", mean of {scan.num_orders} orders" if scan.num_orders > 1 else ""
    less = ", less that of the chains apart" if scan.apart is not None else ""
    lead = f"Every mutation of {structure.name} by {scan.model_name}, {given}{orders}"
    what = (
        f"log p(letter) - log p(present letter) in nats{less}: blue is preferred, red is not; the "
        "present residue is framed. Letters above: their probabilities. These are no energies."
    )
    return _item("scan", structure, profile, values, lead, what, scan.sequence) | {
        "map": _thousandths(difference, scan.scanned),
        "logs": _thousandths(scan.log_probs[:, :20], scan.scanned),
    }


def _item(
    kind: str,
    structure: Structure,
    profile: NDArray[Any],
    values: dict[str, Any],
    lead: str,
    what: str,
    sequence: str | None = None,
) -> dict[str, Any]:
    letters = structure.sequence if sequence is None else sequence
    ending = ".cif" if pdb_cannot_hold(structure) else ".pdb"
    no_b_factors = np.zeros(len(structure))
    return {
        "kind": kind,
        "name": structure.name,
        "lead": lead,
        "what": what,
        "native": letters,
        "chains": structure.chain_ids.tolist(),
        "numbers": structure.residue_numbers.tolist(),
        "profile": [p or 0 for p in _thousandths(profile, structure.mask)],
        "values": values,
        "format": ending[1:],
        "isTrace": structure.ca_only,
        "model3d": structure_text(structure, letters, no_b_factors, ending),
    }


def _entropy(profile: NDArray[Any]) -> NDArray[np.float64]:
    """(L,) in nats, of (L, 20) probabilities."""
    p = np.clip(profile, 1e-12, 1)
    return -(p * np.log(p)).sum(1)


def _thousandths(values: NDArray[Any], known: NDArray[np.bool_]) -> list[int | None]:
    """(L, 20) row by row; None where a residue is not known."""
    whole = np.where(np.isfinite(values), values, 0)
    rows = np.rint(1000 * whole.astype(np.float64)).astype(int).tolist()
    return [v for row, is_known in zip(rows, known.tolist(), strict=True)
            for v in (row if is_known else [None] * 20)]  # fmt: skip


def _scale(
    words: str,
    values: NDArray[Any],
    known: NDArray[np.bool_],
    low: float,
    high: float,
    signed: bool = False,
) -> dict[str, Any]:
    """Values (L,) to colour by, and the ends of their scale."""
    of = [_rounded(v) if k else None for v, k in zip(values.tolist(), known.tolist(), strict=True)]
    return {"words": words, "of": of, "low": low, "high": high, "signed": signed}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
