"""`mpnn-core pack`: side chains for sequences on backbones; and the options of `design --pack`."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mpnn_core as mpnn
from mpnn_core.commands.options import (
    CallError,
    check_outputs,
    complain,
    complain_of,
    exit_code,
    number,
    progress,
    structure_paths,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mpnn_core.design.packing import Packed, SideChainPacker

PACKED = "packed"
EVERYTHING, DESIGNED, NEAR = "everything", "designed", "near:"
NEAREST, FARTHEST = 0.1, 1000.0
"""Å, what may stand after near:."""
COLUMNS = ("model", "clashes", "log_density")


def add_packing_options(command: argparse.ArgumentParser, default: str) -> None:
    """The options of packing; `default` is what is packed without --repack."""
    command.add_argument(
        "--packs", type=number(int, 1, 1000), default=1, metavar="N",
        help="models of each sequence, under random numbers of their own (default: 1)",
    )  # fmt: skip
    command.add_argument(
        "--repack", type=_repack, default=default, metavar="everything|designed|near:6",
        help="which side chains are packed: all; those of designed residues, while the others keep "
        "the chi angles of the file; or those of residues within 6 Å of designed ones as well "
        f"(default: {default})",
    )  # fmt: skip
    command.add_argument(
        "--no-pack-ligand", action="store_true",
        help="pack as if nothing were around the protein; it is written all the same",
    )  # fmt: skip


def _repack(text: str) -> str:
    """Check --repack, for argparse."""
    if text in (EVERYTHING, DESIGNED):
        return text
    if text.startswith(NEAR):
        try:
            distance = float(text.removeprefix(NEAR))
        except ValueError:
            distance = 0.0
        if NEAREST <= distance <= FARTHEST:
            return text
    raise argparse.ArgumentTypeError(
        f"{text!r}: expected everything, designed or near:DISTANCE, {NEAREST:g} to {FARTHEST:g} Å, "
        "such as near:6"
    )


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    pack = commands.add_parser(
        "pack", help="put side chains on backbones, as LigandMPNN's packer does",
        description="Pack side chains with LigandMPNN's packer, and write full-atom models. Print "
        "a tab-separated row per model: its file, how many pairs of its atoms overlap (clashes), "
        "and the mean log-density of its chi angles.",
    )  # fmt: skip
    pack.add_argument(
        "files", nargs="+", type=Path, metavar="FILE",
        help="PDB or mmCIF files, plain or gzipped; a folder stands for all such files in it",
    )  # fmt: skip
    pack.add_argument(
        "--fasta", type=Path, metavar="FILE",
        help="sequences to put on one structure, chains joined by '/' or ':' in the order of the "
        "structure; residues that differ from it are the designed ones (default: its own sequence)",
    )  # fmt: skip
    pack.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="the folder to write: DIR/NAME_1_1.pdb for sequence 1, model 1",
    )  # fmt: skip
    pack.add_argument(
        "--format", choices=("pdb", "cif"), default="pdb", metavar="pdb|cif",
        help="what is written (default: pdb)",
    )  # fmt: skip
    add_packing_options(pack, EVERYTHING)
    pack.add_argument(
        "--samples", type=number(int, 1, 1000), default=16, metavar="N",
        help="draws of each angle, of which the likeliest is taken (default: 16)",
    )  # fmt: skip
    pack.add_argument(
        "--steps", type=number(int, 1, 1000), default=3, metavar="N",
        help="how often all angles are drawn anew (default: 3)",
    )  # fmt: skip
    pack.add_argument(
        "--read-chains", metavar="A,B",
        help="chains to read; the others, and their ligands, are not there at all (default: all)",
    )  # fmt: skip
    pack.add_argument(
        "--zero-occupancy", action="store_true",
        help="read atoms of occupancy 0 of ligands and side chains as well",
    )  # fmt: skip
    pack.add_argument(
        "--seed", type=number(int, 0), metavar="N",
        help="seed of the random numbers (default: one is drawn, and said)",
    )  # fmt: skip
    pack.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    pack.add_argument(
        "--backend", default="auto", metavar="NAME",
        help="the implementation that computes: auto, torch or native (default: auto)",
    )  # fmt: skip
    pack.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Pack every file, and print a row per model."""
    from mpnn_core.structures.containers import structure_name
    from mpnn_core.structures.fasta import read_sequences
    from mpnn_core.structures.files import output_name

    files = structure_paths(options.files)
    if options.fasta is not None and len(files) > 1:
        raise CallError(f"--fasta has sequences of one structure; {len(files)} were given")
    if options.fasta is None and options.repack != EVERYTHING:
        raise CallError(f"--repack {options.repack}: nothing is designed without --fasta")
    packing = Packing(options, options.out, options.format)
    names = [output_name(structure_name(file)) for file in files]
    check_outputs(
        [options.out],
        [] if options.fasta else [
            options.out / f"{name}_1_{i + 1}.{options.format}"
            for name in names for i in range(options.packs)
        ],
    )  # fmt: skip
    if options.seed is None:
        options.seed = secrets.randbits(32)
        complain(f"note: seed {options.seed}")
    reading: dict[str, Any] = {}
    if options.zero_occupancy:
        reading["zero_occupancy"] = True
    if options.read_chains is not None:
        reading["chains"] = options.read_chains
    failures = 0
    print(*COLUMNS, sep="\t")
    with progress(len(files), prints=True) as advance:
        for file, name in zip(files, names, strict=True):
            try:
                structure = mpnn.read_structure(file, **reading)
                sequences = [structure.sequence]
                if options.fasta is not None:
                    records = read_sequences(options.fasta, structure, structure.chains)
                    sequences = [sequence for _, sequence in records]
                labels = [f"{name}_{i + 1}" for i in range(len(sequences))]
                for path, clashes, density in packing.write(
                    structure, labels, sequences, options.seed,
                    samples=options.samples, steps=options.steps,
                ):  # fmt: skip
                    print(path.name, clashes, f"{density:.4f}", sep="\t", flush=True)
            except BrokenPipeError:  # nobody reads any further
                raise
            # Whatever is wrong with a file, the others are packed.
            except Exception as error:
                complain_of(file, error)
                failures += 1
            advance(1)
    return exit_code(failures, len(files))


class Packing:
    """Packs sequences on structures as the options say, and writes the models to a folder.

    A model depends on the seed, its backbone, its sequence and its number alone: a sequence is
    packed as the first one of its own call, whichever others there are.

    Raises
    ------
    CallError
        A device or a backend that this machine does not have.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, ending: str) -> None:
        self.options, self.folder, self.ending = options, folder, ending
        self.packer = load_packer(options.device, options.backend)

    def write(
        self,
        structure: mpnn.Structure,
        names: Sequence[str],
        sequences: Sequence[str],
        seed: int,
        designed: NDArray[np.bool_] | None = None,
        **counts: int,
    ) -> Iterator[tuple[Path, int, float]]:
        """Write FOLDER/NAME_1.pdb, ..., and give the path, the clashes and the mean log-density
        of each model.

        Parameters
        ----------
        designed : (L,) bool; None is where a sequence differs from the structure's
        counts : samples, steps, as `Model.pack` takes them
        """
        import numpy as np

        from mpnn_core.design.packing_quality import clashes
        from mpnn_core.structures.writers import write_structure

        options = self.options
        native = np.array(list(structure.sequence))
        incomplete = int((~structure.mask).sum())
        if incomplete:
            complain(
                f"note: {structure.name}: {incomplete} residues with an incomplete backbone are "
                "written without side chains"
            )
        for name, sequence in zip(names, sequences, strict=True):
            changed = native != np.array(list(sequence))
            packed = self.packer.pack(
                structure, sequence, packs=options.packs, seed=seed,
                keep=kept(structure, options.repack, changed if designed is None else designed),
                ligands=not options.no_pack_ligand, **counts,
            )  # fmt: skip
            ending = self._ending(structure, packed)
            for i, (xyz, b, overlaps) in enumerate(
                zip(packed.coordinates, packed.b_factors, clashes(packed), strict=True)
            ):
                path = self.folder / f"{name}_{i + 1}{ending}"
                write_structure(path, structure, sequence, b, xyz)
                there = np.isfinite(packed.chi[i])
                density = packed.log_densities[i][there].mean() if there.any() else 0.0
                yield path, int(overlaps), float(density)

    def _ending(self, structure: mpnn.Structure, packed: Packed) -> str:
        from mpnn_core.structures.writers import pdb_cannot_hold

        if self.ending == "pdb":
            why = pdb_cannot_hold(structure, atoms=packed.coordinates[0])
            if not why:
                return ".pdb"
            complain(f"note: {structure.name}: written as mmCIF, for {why}, and PDB has no room")
        return ".cif"


def kept(
    structure: mpnn.Structure, repack: str, designed: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """(L,) bool: the side chains that stay, by --repack; None is none."""
    from mpnn_core.selecting.selections import atoms_of, within

    if repack == EVERYTHING:
        return None
    if repack == DESIGNED:
        stays: NDArray[np.bool_] = ~designed
        return stays
    atoms = atoms_of(structure)
    near = within(atoms, atoms[designed].reshape(-1, 3), float(repack.removeprefix(NEAR)))
    return ~(designed | near)


def load_packer(device: str, backend: str) -> SideChainPacker:
    """The published packer, on the device of the model, with its errors as CallError."""
    try:
        return mpnn.load_packer(
            device=device, backend=backend if backend in ("torch", "native") else "auto"
        )
    except mpnn.CheckpointError:
        raise
    except ValueError as error:
        raise CallError(str(error)) from None
