"""Files of constraints as one thing: what each says of a structure, added to what is said."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from mpnn_core.sampling.constraints import Constraints, sets_of_chains
from mpnn_core.sampling.labels import ConstraintError, divided, split_chains
from mpnn_core.structures.structure import Structure


@dataclass(frozen=True)
class PSSMUse:
    """How a file of PSSMs counts, as the original's options `--pssm_multi`, `--pssm_threshold`,
    `--pssm_log_odds_flag` and `--pssm_bias_flag` say."""

    multiplier: float = 0.0
    threshold: float = 0.0
    log_odds: bool = False
    bias: bool = False


class Part(NamedTuple):
    """Arguments of `Constraints` for one structure, and the place that states them."""

    at: str
    fields: Mapping[str, Any]


class Source(ABC):
    """A file of constraints on structures."""

    @abstractmethod
    def parts(
        self, structure: Structure, path: str | None = None, pssm: PSSMUse | None = None
    ) -> list[Part]:
        """What the file says of a structure, by 0-based position.

        Raises
        ------
        ConstraintError
            It says nothing of the structure, or names what that does not have.
        """

    def for_structure(
        self,
        structure: Structure,
        constraints: Constraints | None = None,
        path: str | None = None,
        pssm: PSSMUse | None = None,
    ) -> Constraints:
        """Constraints with what the file says of a structure.

        Fixed positions, omissions, biases and ties add up; chains, redesigned positions and a PSSM
        are stated once.

        Parameters
        ----------
        constraints : those to add to; None is none
        path : the path under which LigandMPNN's `_multi` files have it; None goes by the name
        pssm : how ProteinMPNN's file of PSSMs counts; None gives it no weight, as the original

        Raises
        ------
        ConstraintError
            The file says nothing of the structure, names what that does not have, or says again
            what is stated once; the message has file, key, structure and residue.
        """
        made = constraints or Constraints()
        for at, fields in self.parts(structure, path, pssm):
            made = added(made, structure, fields, at)
        return made


def with_files(
    constraints: Constraints,
    structure: Structure,
    files: Iterable[Source],
    path: str | None = None,
    pssm: PSSMUse | None = None,
) -> Constraints:
    """Constraints with what several files say of a structure, as `Source.for_structure`."""
    for file in files:
        constraints = file.for_structure(structure, constraints, path, pssm)
    return constraints


def added(
    constraints: Constraints, structure: Structure, fields: Mapping[str, Any], source: str
) -> Constraints:
    """Constraints and more of them; `source` is the file that a message names.

    Raises
    ------
    ConstraintError
        Chains, redesigned positions or a PSSM are stated twice.
    """
    changes: dict[str, Any] = dict(fields)
    for name in ("chains", "redesigned", "pssm"):
        if changes.get(name) is not None and getattr(constraints, name) is not None:
            raise ConstraintError(
                f"{source}: {structure.name}: {name} is stated elsewhere as well; expected once"
            )
    if "fixed" in changes:
        changes["fixed"] = [*divided(constraints.fixed), *divided(changes["fixed"])]
    if "omit" in changes:
        changes["omit"] = [*_letters_of(constraints.omit), *_letters_of(changes["omit"])]
    if "omit_at" in changes:
        omit_at = dict(constraints.omit_at)
        for at, letters in changes["omit_at"].items():
            omit_at[at] = ",".join([*filter(None, [omit_at.get(at)]), letters])
        changes["omit_at"] = omit_at
    if "bias" in changes:
        changes["bias"] = {
            letter: constraints.bias.get(letter, 0.0) + changes["bias"].get(letter, 0.0)
            for letter in {**constraints.bias, **changes["bias"]}
        }
    if "bias_at" in changes:
        both = [constraints.bias_at, changes["bias_at"]]
        changes["bias_at"] = np.sum(
            [Constraints(bias_at=at).biases(structure) for at in both], axis=0, dtype=np.float32
        )
    if "temperature_at" in changes:
        changes["temperature_at"] = {**constraints.temperature_at, **changes["temperature_at"]}
    if "tied" in changes:
        before = [constraints.tied] if isinstance(constraints.tied, str) else constraints.tied
        changes["tied"] = [*before, *changes["tied"]]
    if "tied_chains" in changes:
        both_sets = (constraints.tied_chains, changes["tied_chains"])
        changes["tied_chains"] = [
            ",".join(split_chains(one) if isinstance(one, str) else one)
            for stated in both_sets
            for one in sets_of_chains(stated)
        ]
    return replace(constraints, **changes)


def _letters_of(omit: str | Iterable[str]) -> list[str]:
    return [omit] if isinstance(omit, str) else list(omit)
