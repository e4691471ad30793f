"""The options of `design` on single residues: weights of tied ones, biases, temperatures, PSSMs."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands.options import CallError, number, settings

_PARTS = {"bias": "bias", "coefficient": "coef", "log_odds": "odds"}
"""Fields of a PSSM, and what the original's input files call them: A_coef, or pssm_coef."""


def add_residue_options(command: argparse.ArgumentParser) -> None:
    """The options that state something for single residues."""
    command.add_argument(
        "--bias-at", action="append", default=[], metavar="POSITIONS=LETTER:VALUE",
        help="numbers added to the logits of amino acids at some positions, such as "
        'A12=G:-0.3,P:1 or A10-20=G:-0.3; or a JSON file, {"A12": {"G": -0.3}}; repeatable: '
        "numbers for one amino acid of one residue add up",
    )  # fmt: skip
    command.add_argument(
        "--temperature-at", action="append", default=[], metavar="POSITIONS=T",
        help="the temperature of some positions instead of -T, such as A10-20=0.3; repeatable",
    )  # fmt: skip
    command.add_argument(
        "--pssm", type=Path, metavar="FILE",
        help="position-specific scoring matrices of chains: npz with A_bias (L, 21), A_coef (L,) "
        'and, if wanted, A_odds (L, 21) of chain A, or JSON, {"A": {"pssm_bias": ..., '
        '"pssm_coef": ..., "pssm_log_odds": ...}}, also by names of structures',
    )  # fmt: skip
    command.add_argument(
        "--pssm-weight", type=number(float, 0, 1), default=1.0, metavar="W",
        help="how much the matrices count where their coefficient is 1, 0 to 1, the original's "
        "--pssm_multi (default: 1)",
    )  # fmt: skip
    command.add_argument(
        "--pssm-threshold", type=float, metavar="ODDS",
        help="make residues whose log-odds in the matrix are not over this 1,000 times rarer "
        "(default: log-odds do not count)",
    )  # fmt: skip


def tied_of(texts: Iterable[str]) -> list[str | dict[int | str, float]]:
    """["A1,B1", "A2=1,B2=-0.5"] -> ["A1,B1", {"A2": 1.0, "B2": -0.5}], as `Constraints.tied`."""
    groups: list[str | dict[int | str, float]] = []
    for text in texts:
        if "=" not in text:
            groups.append(text)
            continue
        weights: dict[int | str, float] = {}
        for part in re.split(r"[,\s]+", text.strip()):
            position, equals, value = part.partition("=")
            if not position or position in weights:
                raise CallError(f"--tied {text!r}: expected each position once, as in A1=1,B1=-0.5")
            weights[position] = number_in(value, "--tied", "weight") if equals else 1.0
        groups.append(weights)
    return groups


def biases_of(texts: Iterable[str]) -> dict[int | str, dict[str, float]]:
    """["A12=G:-0.3,P:1", "biases.json"] -> positions -> letter -> bias."""
    biases: dict[int | str, dict[str, float]] = {}
    for text in texts:
        for position, letter, value in _biases(text):
            try:
                mpnn_letter(letter)
            except mpnn.ConstraintError as error:
                raise CallError(f"--bias-at {position}: {error}") from None
            at = biases.setdefault(position, {})
            at[letter.upper()] = at.get(letter.upper(), 0.0) + value
    return biases


def mpnn_letter(letter: str) -> int:
    """Its index; ConstraintError if it is none. Small letters are capitals."""
    from mpnn_core.sampling.constraints import letter_index

    return letter_index(letter.upper() if len(letter) == 1 else letter)


def _biases(text: str) -> list[tuple[str, str, float]]:
    """Position, letter and bias of each in one value of --bias-at."""
    if "=" not in text:
        return _biases_of_file(Path(text))
    found: list[tuple[str, str, float]] = []
    at: list[str] = []
    is_stated = False
    for part in re.split(r"[,\s]+", text.strip()):
        name, equals, rest = part.rpartition("=")
        if equals:
            at = [name] if is_stated else [*at, name]
            is_stated = True
        elif not is_stated:
            at.append(part)
            continue
        letter, colon, value = rest.partition(":")
        if not (letter and colon) or not all(at):
            raise CallError(f"--bias-at {text!r}: expected POSITIONS=LETTER:VALUE, as A12=G:-0.3")
        bias = number_in(value, "--bias-at", "bias")
        found += [(position, letter, bias) for position in at]
    if not is_stated:
        raise CallError(f"--bias-at {text!r}: expected POSITIONS=LETTER:VALUE, as A12=G:-0.3")
    return found


def _biases_of_file(file: Path) -> list[tuple[str, str, float]]:
    from mpnn_core.selecting.json_files import is_number

    content = _json(file, "--bias-at", "POSITIONS=LETTER:VALUE or a JSON file")
    expected = '{"A12": {"G": -0.3}}'
    if not isinstance(content, dict):
        raise CallError(f"--bias-at {file}: expected {expected}")
    found = []
    for position, letters in content.items():
        if not isinstance(letters, dict):
            raise CallError(f"--bias-at {file}: {position} is {letters!r}; expected {expected}")
        for letter, value in letters.items():
            if not is_number(value):
                raise CallError(
                    f"--bias-at {file}: {position}, {letter} is {value!r}; expected a number"
                )
            found.append((position, letter, float(value)))
    return found


def temperatures_at(texts: Iterable[str]) -> dict[int | str, float]:
    """["A10-20=0.3"] -> positions -> temperature, as `Constraints.temperature_at`."""
    return {
        at: number_in(value, "--temperature-at", "temperature")
        for at, value in settings(texts, "--temperature-at").items()
    }


class Profiles:
    """The PSSMs of a file, of which each structure has its own or all have the same."""

    def __init__(self, file: Path, weight: float, threshold: float | None) -> None:
        self.file, self.weight, self.threshold = file, weight, threshold
        content = _arrays(file) if _is_npz(file) else _json(file, "--pssm", "an npz or JSON file")
        if not isinstance(content, Mapping) or not content:
            raise CallError(f"--pssm {file}: expected matrices by chain; there are none")
        # {"NAME": {"A": {"pssm_bias": ...}}} or {"A": {"pssm_bias": ...}}
        first = next(iter(content.values()))
        is_by_name = isinstance(first, Mapping) and not any(_of(first, part) for part in _PARTS)
        self.by_name: dict[str, dict[str, mpnn.PSSM]] | None = None
        self.by_chain: dict[str, mpnn.PSSM] = {}
        if is_by_name:
            self.by_name = {
                name: self._by_chain(chains, f"{name}, ") for name, chains in content.items()
            }
        else:
            self.by_chain = self._by_chain(content, "")

    def of(self, structure: mpnn.Structure) -> dict[str, mpnn.PSSM] | None:
        """Those of a structure, as `Constraints.pssm`.

        Raises
        ------
        ConstraintError
            The file has matrices of other structures alone.
        """
        if self.by_name is None:
            return self.by_chain
        if structure.name not in self.by_name:
            raise mpnn.ConstraintError(
                f"{self.file} has no matrices of {structure.name}; it has {', '.join(self.by_name)}"
            )
        return self.by_name[structure.name] or None

    def _by_chain(self, chains: Any, where: str) -> dict[str, mpnn.PSSM]:
        if not isinstance(chains, Mapping):
            raise CallError(f"--pssm {self.file}: {where}expected matrices by chain")
        return {chain: self._pssm(values, f"{where}chain {chain}")
                for chain, values in chains.items()}  # fmt: skip

    def _pssm(self, values: Any, where: str) -> mpnn.PSSM:
        import numpy as np

        keys = {part: _of(values, part) for part in _PARTS} if isinstance(values, Mapping) else {}
        wanted = [part for part in _PARTS if part != "log_odds" or self.threshold is not None]
        arrays: dict[str, Any] = {}
        for part in wanted:
            key = keys.get(part)
            if key is None:
                raise CallError(
                    f"--pssm {self.file}: {where} has no pssm_{_PARTS[part]}; expected "
                    "pssm_bias, pssm_coef and, for --pssm-threshold, pssm_log_odds"
                )
            try:
                arrays[part] = np.asarray(values[key], dtype=np.float64)
            except (TypeError, ValueError):
                raise CallError(f"--pssm {self.file}: {where}, {key} is no array") from None
            axes = 1 if part == "coefficient" else 2
            if arrays[part].ndim != axes or (axes == 2 and arrays[part].shape[1] != 21):
                expected = "(L,)" if axes == 1 else "(L, 21)"
                raise CallError(
                    f"--pssm {self.file}: {where}, {key} has shape {arrays[part].shape}; "
                    f"expected {expected}"
                )
        lengths = {len(values) for values in arrays.values()}
        if len(lengths) > 1:
            raise CallError(
                f"--pssm {self.file}: {where} has arrays of {sorted(lengths)} residues; expected "
                "one length"
            )
        if self.threshold is not None:
            arrays["threshold"] = self.threshold
        return mpnn.PSSM(**arrays, multiplier=self.weight)


def profiles_of(options: argparse.Namespace) -> Profiles | None:
    """The PSSMs that the options name; None if none."""
    if options.pssm is not None:
        return Profiles(options.pssm, options.pssm_weight, options.pssm_threshold)
    for name in ("pssm_threshold", "pssm_weight"):
        if name in options.given:
            option = f"--{name.replace('_', '-')}"
            raise CallError(f"{option} is of a matrix; give --pssm as well")
    return None


def _of(values: Mapping[str, Any], part: str) -> str | None:
    """The key of a part of a PSSM: "pssm_coef", "coef" or "coefficient"."""
    short = _PARTS[part]
    names = (f"pssm_{short}", short, part, f"pssm_{part}")
    return next((name for name in names if name in values), None)


def _is_npz(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(2) == b"PK"
    except OSError as error:
        raise CallError(f"--pssm {file}: {error.strerror or error}") from None


def _arrays(file: Path) -> dict[str, dict[str, Any]]:
    """{"A": {"coef": ...}} of an npz file with the key A_coef, the original's input."""
    import numpy as np

    by_chain: dict[str, dict[str, Any]] = {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for key in arrays.files:
                for part in ("log_odds", "coefficient", "bias", "coef", "odds"):
                    if key.endswith(f"_{part}"):
                        by_chain.setdefault(key.removesuffix(f"_{part}"), {})[part] = arrays[key]
                        break
    except Exception as error:
        raise CallError(f"--pssm {file}: no npz file of numbers: {error}") from None
    return by_chain


def _json(file: Path, option: str, expected: str) -> Any:
    from mpnn_core.selecting.json_files import read_json_lines

    if not file.is_file():
        raise CallError(f"{option} {str(file)!r}: expected {expected}")
    try:
        lines = read_json_lines(file)
    except mpnn.ConstraintError as error:
        raise CallError(f"{option}: {error}") from None
    if len(lines) > 1:
        raise CallError(f"{option} {file}: {len(lines)} lines of JSON; expected one object")
    return lines[0].content


def number_in(text: str, option: str, what: str) -> float:
    """A finite number in the text of an option; raises CallError."""
    try:
        value = float(text)
    except ValueError:
        raise CallError(f"{option}: {text!r} is no {what}; expected a number") from None
    if not math.isfinite(value):
        raise CallError(f"{option}: the {what} is {text}; expected a finite number")
    return value
