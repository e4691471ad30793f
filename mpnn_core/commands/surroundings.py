"""The options on what surrounds a protein, and files read as they say."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mpnn_core as mpnn
from mpnn_core.commands.options import CallError, complain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIGANDS = {
    "no_ligand": "--no-ligand",
    "ligands": "--ligands",
    "zero_occupancy": "--zero-occupancy",
}
LABELS = {
    "membrane_buried": "--membrane-buried",
    "membrane_interface": "--membrane-interface",
}
ONE_LABEL = {"membrane_global": "--membrane-global"}
INTERFACE, BURIED = 1, 2


def add_surroundings_options(command: argparse.ArgumentParser) -> None:
    """The options of `design` and `score` for the models that read more than backbones."""
    command.add_argument(
        "--no-ligand", action="store_true",
        help="leave out ligands, metals and nucleic acids; of the ligand models, as the four after "
        "this",
    )  # fmt: skip
    command.add_argument(
        "--ligands", action="append", metavar="NAME,NAME",
        help="of what is around the protein, residues of these names only, such as HEM,ZN; "
        "repeatable (default: all but water)",
    )  # fmt: skip
    command.add_argument(
        "--side-chain-context", action="store_true",
        help="show the side chains of the residues that are kept as well (default: the ligands "
        "alone)",
    )  # fmt: skip
    command.add_argument(
        "--zero-occupancy", action="store_true",
        help="read atoms of occupancy 0 of ligands and side chains as well",
    )  # fmt: skip
    command.add_argument(
        "--membrane-buried", action="append", metavar="POSITIONS",
        help="residues that are buried in a membrane, in the form of --fixed; of the membrane "
        "models with a label per residue; repeatable",
    )  # fmt: skip
    command.add_argument(
        "--membrane-interface", action="append", metavar="POSITIONS",
        help="residues at the surface of a membrane, in the same form; repeatable",
    )  # fmt: skip
    command.add_argument(
        "--membrane-global", choices=("yes", "no"), metavar="yes|no",
        help="whether the protein is one of a membrane; of the membrane models with one label",
    )  # fmt: skip


class Reader:
    """Reads files for a model as the options say, each with what the model reads of it.

    Raises
    ------
    CallError
        An option is for other models, or names ligands that no file has.
    """

    def __init__(self, options: argparse.Namespace, model: mpnn.Model, files: Sequence[Path]):
        self.options, self.model = options, model
        self.sees_ligands = "context" in model.reads
        self.one_label = bool(getattr(model.network, "one_label", False))
        self.has_labels = "membrane" in model.reads
        check_model(options, model, self.sees_ligands, self.has_labels, self.one_label)
        self.reading: dict[str, Any] = {}
        if options.zero_occupancy:
            self.reading["zero_occupancy"] = True
        if model.ca_only:
            self.reading["ca_only"] = True
        if options.read_chains is not None:
            self.reading["chains"] = options.read_chains
        self.names = _names(options.ligands)
        if self.names is not None:
            self._check_names(files)
        if self.has_labels:
            self._say_if_there_are_no_labels()

    def __call__(self, file: Path) -> mpnn.Structure:
        """The structure of a file."""
        return self.of(mpnn.read_structure(file, **self.reading), file)

    def of(self, structure: mpnn.Structure, file: Path) -> mpnn.Structure:
        """A structure that was read from `file`, as the model is to see it."""
        if self.options.cyclic:
            structure = structure.with_cyclic(",".join(self.options.cyclic))
        if self.options.no_ligand:
            return structure.with_ligands(())
        if self.names is not None:
            structure = structure.with_ligands(self.names)
        if self.sees_ligands and not len(structure.context):
            of_names = f" of {', '.join(self.names)}" if self.names else ""
            complain(
                f"note: {file}: no atom{of_names} is around the protein, so {self.model.name} sees "
                "the protein alone"
            )
        if self.has_labels:
            return structure.with_membrane(self._labels(structure))
        return structure

    def _check_names(self, files: Sequence[Path]) -> None:
        """Refuse names that are in none of the files; those are read until all names are found."""
        assert self.names is not None
        there: set[str] = set()
        is_read = False
        for file in files:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # they come when the file is used
                    context = mpnn.read_structure(file, **self.reading).context
            except Exception:  # it is said when the file is used
                continue
            is_read = True
            there |= {str(name).upper() for name in context.residue_names}
            if there.issuperset(self.names):
                return
        unknown = [name for name in self.names if name not in there]
        if is_read and unknown:
            has = f"expected some of {', '.join(sorted(there))}" if there else "there is no ligand"
            raise CallError(f"--ligands: no structure has {', '.join(unknown)}; {has}")

    def _labels(self, structure: mpnn.Structure) -> NDArray[np.int64] | bool:
        """The labels of a structure: one for all, or one per residue."""
        if self.one_label:
            return bool(self.options.membrane_global == "yes")
        buried, interface = self.options.membrane_buried, self.options.membrane_interface
        return membrane_labels(structure, buried or (), interface or ())

    def _say_if_there_are_no_labels(self) -> None:
        options = ONE_LABEL if self.one_label else LABELS
        names = " or ".join(options.values())
        if not any(map(vars(self.options).get, options)):
            taken = "not of a membrane" if self.one_label else "neither buried nor at the interface"
            complain(
                f"note: {self.model.name} reads membrane labels; without {names} all "
                f"residues are taken as {taken}"
            )


def check_model(
    options: argparse.Namespace, model: mpnn.Model, ligands: bool, labels: bool, one_label: bool
) -> None:
    """Refuse options that are for other models, and those that exclude each other."""
    from mpnn_core.network.architectures import models_that_read
    from mpnn_core.network.families import GLOBAL_MEMBRANE

    membrane = models_that_read("membrane")
    for of_options, is_used, what, models in (
        (LIGANDS, ligands, "see ligands", models_that_read("context")),
        (
            LABELS, labels and not one_label, "read a membrane label per residue",
            [name for name in membrane if name != GLOBAL_MEMBRANE],
        ),
        (ONE_LABEL, labels and one_label, "read one membrane label", [GLOBAL_MEMBRANE]),
    ):  # fmt: skip
        for name, option in of_options.items():
            if vars(options)[name] and not is_used:
                raise CallError(
                    f"{option} is for models that {what}, and {model.name} does not; expected "
                    f"--weights {' or '.join(models)}"
                )
    if options.no_ligand and options.ligands:
        raise CallError("--no-ligand and --ligands exclude each other; expected one of them")


def _names(given: Iterable[str] | None) -> list[str] | None:
    """["hem,ZN"] -> ["HEM", "ZN"]."""
    if given is None:
        return None
    names = [name.strip().upper() for text in given for name in text.split(",")]
    if not all(names):
        raise CallError("--ligands: a name is empty; expected names of residues, such as HEM,ZN")
    return list(dict.fromkeys(names))


def membrane_labels(
    structure: mpnn.Structure, buried: Iterable[str], interface: Iterable[str]
) -> NDArray[np.int64]:
    """Labels of residues, (L,): 2 buried in a membrane, 1 at its interface, 0 other.

    Raises
    ------
    ConstraintError
        A position is not in the structure, or is given as both.
    """
    import numpy as np

    from mpnn_core.sampling.labels import divided, label, positions

    labels = np.zeros(len(structure), np.int64)
    for value, given in ((INTERFACE, interface), (BURIED, buried)):
        for selection in divided(given):
            for position in positions(structure, selection):
                if labels[position] not in (0, value):
                    raise mpnn.ConstraintError(
                        f"{structure.name}: {label(structure, position)} is given as buried and as "
                        "at the interface of the membrane; expected one of them"
                    )
                labels[position] = value
    return labels
