"""`mpnn-core ligand-mpnn` and `ligand-mpnn-score`: LigandMPNN's run.py and score.py, with their
options and their files."""

from __future__ import annotations

import argparse
import os
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
    load_model,
    number,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mpnn_core.compatible.ligand_designs import Run
    from mpnn_core.compatible.ligand_options import PerPath
    from mpnn_core.compatible.ligand_reading import Complex
    from mpnn_core.design.packing import SideChainPacker

FOLDER = "./model_params/"
"""Where the originals look for their weights by default; headers name it."""
DEFAULT_MODEL = "protein_mpnn"
MODELS = (
    DEFAULT_MODEL, "ligand_mpnn", "per_residue_label_membrane_mpnn", "global_label_membrane_mpnn",
    "soluble_mpnn",
)  # fmt: skip
ONE_LABEL = "global_label_membrane_mpnn"
LABELS = "per_residue_label_membrane_mpnn"

# Options as the originals have them: name, type, default, help.
_INPUTS = (
    ("pdb_path", str, "", "the structure, PDB or mmCIF"),
    ("pdb_path_multi", str, "", "a JSON file whose keys are the paths of structures"),
    ("fixed_residues", str, "", "residues to keep, as 'A12 A13 B2'"),
    ("fixed_residues_multi", str, "", "a JSON file of these by path"),
    ("redesigned_residues", str, "", "residues to design; all others are kept"),
    ("redesigned_residues_multi", str, "", "a JSON file of these by path"),
    ("symmetry_residues", str, "", "residues that get one amino acid, as 'A12,A13|C2,C3'"),
    ("homo_oligomer", int, 0, "1 ties all chains, residue by residue"),
    ("file_ending", str, "", "what is put to the end of the names of files"),
    ("seed", number(int, 0), 0, "seed of the random numbers; 0 draws one"),
    ("batch_size", number(int, 1), 1, "sequences in a batch; tied ones share a decoding order"),
    ("number_of_batches", number(int, 1), 1, "batches; batch_size times this are all sequences"),
    ("verbose", int, 1, "0 prints nothing"),
    ("ligand_mpnn_use_atom_context", int, 1, "0 leaves out ligands, metals and nucleic acids"),
    ("ligand_mpnn_use_side_chain_context", int, 0, "1 shows the side chains of kept residues"),
    ("ligand_mpnn_cutoff_for_score", float, 8.0, "how near a ligand its confidence counts, in A"),
    ("chains_to_design", str, "", "chains to design, as A,B; the others are kept"),
    ("parse_these_chains_only", str, "", "chains to read, as A,B, with what is around them"),
    ("transmembrane_buried", str, "", "residues buried in a membrane, as 'A12 A13'"),
    ("transmembrane_interface", str, "", "residues at the surface of a membrane"),
    ("global_transmembrane_label", int, 0, "1 for a protein of a membrane, 0 for a soluble one"),
    ("parse_atoms_with_zero_occupancy", int, 0, "1 reads atoms of occupancy 0 as well"),
)  # fmt: skip
_OF_DESIGNS = (
    ("fasta_seq_separation", str, ":", "what stands between chains in the FASTA"),
    ("bias_AA", str, "", "numbers added to logits everywhere, as 'A:-1.0,P:2.3'"),
    ("bias_AA_per_residue", str, "", "a JSON file of these by residue, {'A12': {'G': -0.3}}"),
    ("bias_AA_per_residue_multi", str, "", "a JSON file of these by path"),
    ("omit_AA", str, "", "amino acids that are never drawn, as ACG; X never is"),
    ("omit_AA_per_residue", str, "", "a JSON file of these by residue, {'A12': 'APQ'}"),
    ("omit_AA_per_residue_multi", str, "", "a JSON file of these by path"),
    ("symmetry_weights", str, "", "of each residue of --symmetry_residues the weight of its logits "
     "in the group's sum, as '0.5,0.5|1,1' (default: equal, with a sum of 1)"),
    ("zero_indexed", str, "", "1 numbers designs from 0; 0 from 1, as without it"),
    ("temperature", number(float, 0), 0.1, "sampling temperature"),
    ("save_stats", int, 0, "1 writes stats/NAME.pt, numbers of every residue"),
)  # fmt: skip
_OF_SCORES = (
    ("zero_indexed", str, "", "of no effect, as in the original"),
    ("use_sequence", int, 1, "0 scores what the backbone alone says"),
    ("autoregressive_score", int, 0, "1 scores each residue given those decoded before it"),
    ("single_aa_score", int, 1, "1 scores each residue given all others"),
)  # fmt: skip
_OF_PACKING = (
    ("pack_side_chains", int, 0, "1 writes packed/NAME_packed_1_1.pdb, full-atom models"),
    ("checkpoint_path_sc", str, "ligandmpnn_sc_v_32_002_16.pt", "weights of the packer"),
    ("number_of_packs_per_design", number(int, 0, 1000), 4, "models of each design"),
    ("sc_num_denoising_steps", number(int, 1, 1000), 3, "how often all angles are drawn anew"),
    ("sc_num_samples", number(int, 1, 1000), 16, "draws of each angle; the likeliest is taken"),
    ("repack_everything", int, 0, "1 packs kept residues too; 0 keeps the angles of the file"),
    ("force_hetatm", int, 0, "1 writes ATOM and HETATM as the file has them; 0 ATOM for "
     "nucleic acids alone, around the protein"),
    ("packed_suffix", str, "_packed", "what stands in the names of models after NAME"),
    ("pack_with_ligand_context", int, 1, "0 packs as if nothing were around the protein"),
)  # fmt: skip


def add_parser(commands: Any) -> None:
    """Add both commands to `mpnn-core`."""
    design = commands.add_parser(
        "ligand-mpnn", help="LigandMPNN's run.py: its options, its files",
        description="Design sequences with the options of LigandMPNN's run.py, and write the files "
        "that it writes: seqs, backbones, packed and stats.",
    )  # fmt: skip
    _add_options(design, _INPUTS + _OF_DESIGNS + _OF_PACKING)
    design.set_defaults(run=run)
    score = commands.add_parser(
        "ligand-mpnn-score", help="LigandMPNN's score.py: its options, its files",
        description="Score the sequences of structures with the options of LigandMPNN's score.py, "
        "and write the files that it writes: OUT/NAME.pt.",
    )  # fmt: skip
    _add_options(score, _INPUTS + _OF_SCORES)
    score.set_defaults(run=run_score)


def _add_options(command: argparse.ArgumentParser, options: Sequence[tuple[Any, ...]]) -> None:
    """Options as in the originals; of one that is given twice the last counts, as there."""
    command.add_argument(
        "--model_type", action="store", default=DEFAULT_MODEL, choices=MODELS, metavar="NAME",
        help=f"the model: {', '.join(MODELS)} (default: {DEFAULT_MODEL})",
    )  # fmt: skip
    for model in MODELS:
        command.add_argument(
            f"--checkpoint_{model}", action="store", metavar="FILE",
            help=f"weights of {model}: a file, or the name of one that is published (default: the "
            "authors')",
        )  # fmt: skip
    for name, kind, default, text in options:
        shown = "" if default == "" else f" (default: {default})"
        command.add_argument(
            f"--{name}", action="store", type=kind, default=default, metavar="X",
            help=text.replace("%", "%%") + shown,
        )  # fmt: skip
    command.add_argument(
        "--out_folder", action="store", required=True, metavar="DIR", help="the folder to write"
    )
    command.add_argument(
        "--legacy", action="store_true",
        help="do what the original does also where that is not what an option's name says "
        "(docs/explanation/exactness.md)",
    )  # fmt: skip
    command.add_argument(
        "--device", help="cpu, cuda or mps (default: cuda if there is one, otherwise cpu)"
    )
    command.add_argument(
        "--backend", default="auto", metavar="NAME",
        help="the implementation that computes (default: auto, the fastest exact one)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Design every structure, and write its files."""
    first = 1 - _zero_indexed(options)
    call = _Call(options)
    letters = call.letters()
    packer = _packer(options, call.model)
    out = Path(options.out_folder)
    folders = ["seqs", "backbones", "packed", *(["stats"] if options.save_stats else [])]
    check_outputs(
        [out / folder for folder in folders],
        [path for name in call.names for path in _paths(options, call, name, first)],
        "--out_folder",
    )
    failures = 0
    for path, complex in call.complexes():
        try:
            if isinstance(complex, Exception):
                raise complex
            designs = call.designs(path, complex, letters)
            _write(options, call, designs, first, packer)
        except BrokenPipeError:  # nobody reads any further
            raise
        # Whatever is wrong with a structure, the others are designed.
        except Exception as error:
            complain_of(Path(path), error)
            failures += 1
    return exit_code(failures, len(call.paths))


def run_score(options: argparse.Namespace) -> int:
    """Score every structure, and write its file."""
    from mpnn_core.compatible.ligand_designs import save
    from mpnn_core.structures.files import write_atomically

    if not (options.autoregressive_score or options.single_aa_score):
        raise CallError("expected --autoregressive_score 1 or --single_aa_score 1")
    call = _Call(options)
    out = Path(options.out_folder)
    files = [out / f"{name}{options.file_ending}.pt" for name in call.names]
    check_outputs([out], files, "--out_folder")
    failures = 0
    for (path, complex), file in zip(call.complexes(), files, strict=True):
        try:
            if isinstance(complex, Exception):
                raise complex
            values = call.scores(path, complex)
            write_atomically(file, lambda opened, values=values: save(values, opened))  # type: ignore[misc]
        except BrokenPipeError:  # nobody reads any further
            raise
        # Whatever is wrong with a structure, the others are scored.
        except Exception as error:
            complain_of(Path(path), error)
            failures += 1
    return exit_code(failures, len(call.paths))


def _packer(options: argparse.Namespace, model: mpnn.Model) -> SideChainPacker | None:
    """The packer, if side chains are packed; its other options are of no effect without."""
    from mpnn_core.compatible.ligand_options import weights_of

    if not options.pack_side_chains:
        given = [f"--{n}" for n, _, value, _ in _OF_PACKING[1:] if getattr(options, n) != value]
        if given:
            complain(f"note: {', '.join(given)}: of no effect without --pack_side_chains 1")
        return None
    try:
        return mpnn.load_packer(weights_of(options.checkpoint_path_sc), model.device)
    except mpnn.CheckpointError as error:
        raise CallError(f"--checkpoint_path_sc: {error}") from None


def _zero_indexed(options: argparse.Namespace) -> bool:
    """Whether designs are numbered from 0. To the original every text is yes, "0" too."""
    text: str = options.zero_indexed
    if options.legacy:
        return text != ""
    if text.strip() not in ("", "0", "1"):
        raise CallError(f"--zero_indexed is {text!r}; expected 0 or 1")
    return text.strip() == "1"


class _Call:
    """What a call of either command asks for."""

    def __init__(self, options: argparse.Namespace) -> None:
        from mpnn_core.compatible.ligand_designs import Run
        from mpnn_core.compatible.ligand_options import pdb_paths
        from mpnn_core.structures.files import output_name

        self.options = options
        self.legacy: bool = options.legacy
        if options.global_transmembrane_label not in (0, 1):
            raise CallError(
                f"--global_transmembrane_label is {options.global_transmembrane_label}; expected 0 "
                "or 1"
            )
        try:
            self.paths = pdb_paths(options.pdb_path, options.pdb_path_multi)
            self.fixed = self._per_path("fixed_residues", options.fixed_residues)
            self.redesigned = self._per_path("redesigned_residues", options.redesigned_residues)
        except mpnn.ConstraintError as error:
            raise CallError(str(error)) from None
        self.names = [output_name(Path(p).name.removesuffix(".pdb")) for p in self.paths]
        twice = [name for i, name in enumerate(self.names) if name in self.names[:i]]
        if twice:
            raise CallError(
                f"two structures are called {twice[0]}, and would be written to the same files; "
                "rename one, or run them apart"
            )
        self.checkpoint, self.model = _model(options)
        seed = options.seed or 1 + secrets.randbelow(99_998)
        self.run: Run = Run(
            options.batch_size,
            options.number_of_batches,
            getattr(options, "temperature", 0.1),
            seed,
        )

    def _per_path(self, name: str, one: Any) -> PerPath:
        """The values of the option --NAME, or of --NAME_multi, by path."""
        from mpnn_core.compatible.ligand_options import PerPath

        return PerPath.of(f"--{name}", self.paths, one, getattr(self.options, f"{name}_multi"))

    def complexes(self) -> Iterator[tuple[str, Complex | Exception]]:
        """Every path with what is there, or with the error of reading it."""
        from mpnn_core.compatible.ligand_reading import read_complex

        options = self.options
        # Letters without commas are what score.py takes.
        text: str = options.parse_these_chains_only
        chains = text.split(",") if "," in text or options.run is run else list(text)
        for path in self.paths:
            self.say("Designing protein from this path:", path)
            try:
                complex = read_complex(
                    path,
                    [c for c in chains if c.strip()],
                    bool(options.parse_atoms_with_zero_occupancy),
                )
            except Exception as error:
                yield path, error
            else:
                yield path, complex

    def say(self, *words: object) -> None:
        """A line on standard output, as the original prints it."""
        if self.options.verbose:
            print(*words, flush=True)

    def letters(self) -> Any:
        """The options on amino acids, with their files read."""
        from mpnn_core.compatible.ligand_options import (
            Residues,
            numbers_of_letters,
            omitted_letters,
            read_json,
        )

        options = self.options
        given: list[PerPath | None] = []
        try:
            numbers_of_letters(options.bias_AA, "--bias_AA")
            omitted_letters(options.omit_AA, self.legacy)
            for name in ("omit_AA_per_residue", "bias_AA_per_residue"):
                one, multi = getattr(options, name), getattr(options, f"{name}_multi")
                if not (one or multi):
                    given.append(None)
                    continue
                table = None if multi else read_json(one, f"--{name}")
                given.append(self._per_path(name, table))
        except mpnn.ConstraintError as error:
            raise CallError(str(error)) from None
        return Residues(options.omit_AA, options.bias_AA, *given, legacy=self.legacy)

    def asked(self, path: str, complex: Complex) -> NDArray[np.bool_]:
        """(L,) bool: what is to be designed."""
        from mpnn_core.compatible.ligand_options import asked_for, contained, named

        marks = []
        for of in (self.fixed, self.redesigned):
            # score.py does not divide the texts of its files.
            if self.legacy and self.options.run is run_score and "_multi" in of.source:
                marks.append(contained(complex, of.values[path]))
            else:
                marks.append(named(complex, of.residues(path), of.source, self.legacy))
        redesigned = marks[1] if self.redesigned.residues(path) else None
        asked = asked_for(
            complex, self.options.chains_to_design or "", marks[0], redesigned, self.legacy
        )
        for words, which in (("redesigned", asked), ("fixed", ~asked)):
            labels = [label for label, of in zip(complex.labels, which, strict=True) if of]
            self.say(f"These residues will be {words}: ", labels)
        return asked

    def mask_type(self, path: str) -> Any:
        """The type of chain_mask in files: int64 where residues are named, as in the originals."""
        import numpy as np

        is_named = self.fixed.residues(path) or self.redesigned.residues(path)
        return np.int64 if is_named else np.int32

    def seen(self, complex: Complex) -> mpnn.Structure:
        """The structure as the model is to see it."""
        from mpnn_core.compatible.ligand_options import membrane_labels

        options, structure = self.options, complex.structure
        atoms = len(structure.context)
        if not atoms:
            self.say("No ligand atoms parsed")
        elif options.model_type == "ligand_mpnn":
            self.say(f"The number of ligand atoms parsed is equal to: {atoms}")
        if not options.ligand_mpnn_use_atom_context:
            structure = structure.with_ligands(())
        if options.model_type == ONE_LABEL:
            return structure.with_membrane(bool(options.global_transmembrane_label))
        if options.model_type == LABELS:
            buried, interface = options.transmembrane_buried, options.transmembrane_interface
            return structure.with_membrane(
                membrane_labels(complex, buried.split(), interface.split(), self.legacy)
            )
        return structure

    def ties(self, complex: Complex, structure: mpnn.Structure) -> dict[str, Any]:
        """How residues are tied, as arguments of Constraints."""
        from mpnn_core.compatible.ligand_options import Ties

        options = self.options
        ties = Ties(
            options.symmetry_residues,
            getattr(options, "symmetry_weights", ""),
            bool(options.homo_oligomer),
        )
        if ties.homo_oligomer:
            self.say("Designing HOMO-OLIGOMER")
        return ties.arguments(complex, structure)

    def designs(self, path: str, complex: Complex, letters: Any) -> Any:
        """LigandDesigns of a complex."""
        from mpnn_core.compatible.ligand_designs import design_complex
        from mpnn_core.compatible.ligand_options import constraints_for

        asked = self.asked(path, complex)
        structure = self.seen(complex)
        constraints = constraints_for(
            complex, structure, asked,
            **letters.arguments(complex, path),
            **self.ties(complex, structure),
        )  # fmt: skip
        return design_complex(
            self.model, complex, structure, constraints, asked, self.run,
            self.options.ligand_mpnn_cutoff_for_score,
        )  # fmt: skip

    def scores(self, path: str, complex: Complex) -> dict[str, Any]:
        """What the file of scores of a complex holds."""
        from mpnn_core.compatible import ligand_scores
        from mpnn_core.compatible.ligand_options import constraints_for

        options = self.options
        asked = self.asked(path, complex)
        structure = self.seen(complex)
        use_sequence = bool(options.use_sequence)
        designed = asked & structure.mask
        if options.autoregressive_score:
            tied = self.ties(complex, structure)
            everything = constraints_for(complex, structure, asked | True, **tied)
            groups = [list(group) for group in everything.groups(structure)]
            scored: tuple[Any, Any] = ligand_scores.autoregressive(
                self.model, structure, designed, groups, self.run, use_sequence
            )
        else:
            scored = ligand_scores.single(
                self.model, structure, designed, self.run, use_sequence != self.legacy
            )
        return ligand_scores.score_file(
            complex, *scored, asked.astype(self.mask_type(path)), self.run.seed
        )


def _model(options: argparse.Namespace) -> tuple[str, mpnn.Model]:
    """The checkpoint as it was named, and the model of it."""
    import torch

    from mpnn_core.compatible.ligand_options import MODEL_TYPES, weights_of

    kind = options.model_type
    checkpoint = getattr(options, f"checkpoint_{kind}") or FOLDER + MODEL_TYPES[kind]
    sees_ligands = kind == "ligand_mpnn"
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    shows = sees_ligands and bool(options.ligand_mpnn_use_side_chain_context)
    model = load_model(weights_of(checkpoint), "baseline", device, options.backend, shows)
    expected = "context" if sees_ligands else "membrane" if "membrane" in kind else "backbone"
    if expected not in model.reads or (expected == "backbone" and len(model.reads) > 1):
        raise CallError(
            f"--checkpoint_{kind}: {checkpoint} is of another model; expected weights such as "
            f"{MODEL_TYPES[kind]}"
        )
    return checkpoint, model


def _paths(options: argparse.Namespace, call: _Call, name: str, first: int) -> list[Path]:
    """The files of one structure's designs: the FASTA file, backbones, statistics and models."""
    out, ending = Path(options.out_folder), options.file_ending
    numbers = range(first, first + call.run.sequences)
    return [
        out / "seqs" / f"{name}{ending}.fa",
        *(out / "backbones" / f"{name}_{i}{ending}.pdb" for i in numbers),
        *([out / "stats" / f"{name}{ending}.pt"] if options.save_stats else []),
        *(
            out / "packed" / f"{name}{options.packed_suffix}_{i}_{pack + 1}{ending}.pdb"
            for i in (numbers if options.pack_side_chains else ())
            for pack in range(options.number_of_packs_per_design)
        ),
    ]


def _write(
    options: argparse.Namespace,
    call: _Call,
    designs: Any,
    first: int,
    packer: SideChainPacker | None,
) -> None:
    """The files of one structure's designs; the FASTA file last."""
    from mpnn_core.compatible import ligand_designs as files
    from mpnn_core.structures.files import output_name, write_atomically

    out, name = Path(options.out_folder), output_name(designs.complex.name)
    if options.save_stats:
        values = files.statistics(designs, call.mask_type(call.paths[call.names.index(name)]))
        write_atomically(
            out / "stats" / f"{name}{options.file_ending}.pt", lambda file: files.save(values, file)
        )
    b_factors = files.b_factors(designs, options.legacy)
    for i, (sequence, of_design) in enumerate(
        zip(designs.sequences, b_factors, strict=True), start=first
    ):
        backbone = files.backbone_text(designs.complex, sequence, of_design)
        write_atomically(
            out / "backbones" / f"{name}_{i}{options.file_ending}.pdb",
            lambda file, text=backbone: file.write(text.encode("ascii")),  # type: ignore[misc]
        )
    if packer is not None:
        call.say("Packing side chains...")
        _pack(options, designs, first, packer)
    text = files.fasta_text(
        designs,
        call.checkpoint,
        bool(options.ligand_mpnn_use_atom_context),
        float(options.ligand_mpnn_cutoff_for_score),
        options.fasta_seq_separation,
        first,
    )
    write_atomically(
        out / "seqs" / f"{name}{options.file_ending}.fa",
        lambda file: file.write(os.fsencode(text)),
    )


def _pack(options: argparse.Namespace, designs: Any, first: int, packer: SideChainPacker) -> None:
    """The full-atom models of one structure's designs."""
    from mpnn_core.compatible.ligand_designs import packed_text
    from mpnn_core.structures.files import output_name, write_atomically

    if not options.number_of_packs_per_design:
        return
    structure = designs.complex.structure
    unwritten = (~structure.mask | (designs.tokens == len(mpnn.ALPHABET) - 1)).any(0)
    if unwritten.any():
        labels = [label for label, of in zip(designs.complex.labels, unwritten, strict=True) if of]
        complain(
            f"note: {structure.name}: residues without a letter or a complete backbone are not in "
            f"packed models: {' '.join(labels)}"
        )
    folder = Path(options.out_folder) / "packed"
    name = output_name(designs.complex.name)
    for i, sequence in enumerate(designs.sequences):
        packed = packer.pack(
            structure, sequence, options.sc_num_samples, options.sc_num_denoising_steps,
            options.number_of_packs_per_design, designs.run.seed,
            None if options.repack_everything else ~designs.asked,
            bool(options.pack_with_ligand_context),
        )  # fmt: skip
        for pack in range(len(packed)):
            text = packed_text(designs.complex, packed, pack, bool(options.force_hetatm))
            label = f"{name}{options.packed_suffix}_{first + i}_{pack + 1}{options.file_ending}"
            write_atomically(
                folder / f"{label}.pdb",
                lambda file, text=text: file.write(text.encode("ascii")),  # type: ignore[misc]
            )
