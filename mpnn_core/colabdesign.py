"""An adapter of ColabDesign's shape: `mk_mpnn_model`, for programs that call ColabDesign's.

What a caller sees is ColabDesign's: the names, the arguments, the order of letters, what is in
`_inputs`, and the keys and shapes of results. What is computed is this package's. Where the two
differ is said once, in docs/how-to/coming-from-colabdesign.md.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from mpnn_core.constants import ALPHABET, AMINO_ACIDS, LETTERS
from mpnn_core.design.model import load_model
from mpnn_core.network.graph import Backbones
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.sampling.labels import ConstraintError
from mpnn_core.sampling.noise import with_noise
from mpnn_core.structures.atoms import Atoms, read_atoms
from mpnn_core.structures.containers import read_text
from mpnn_core.structures.names import residue_letters
from mpnn_core.structures.structure import (
    Structure,
    StructureError,
    StructureWarning,
    shown_chain,
    shown_items,
)

THEIRS = "ARNDCQEGHILKMFPSTWYVX"
"""The letters in AlphaFold's order, in which everything is taken and given."""

aa_order = {letter: i for i, letter in enumerate(THEIRS[:20])}
order_aa = {i: letter for letter, i in aa_order.items()}

_OURS = np.array([ALPHABET.index(letter) for letter in THEIRS])  # of their letters, our token
_THEIRS = np.array([THEIRS.index(letter) for letter in ALPHABET])

ATOM_TYPES = (
    "N", "CA", "C", "CB", "O", "CG", "CG1", "CG2", "OG", "OG1", "SG", "CD", "CD1", "CD2", "ND1",
    "ND2", "OD1", "OD2", "SD", "CE", "CE1", "CE2", "CE3", "NE", "NE1", "NE2", "OE1", "OE2", "CH2",
    "NH1", "NH2", "OH", "CZ", "CZ2", "CZ3", "NZ", "OXT",
)  # fmt: skip
"""AlphaFold's 37 atoms, in its order."""

_BACKBONE = [ATOM_TYPES.index(atom) for atom in ("N", "CA", "C", "O")]

MODIFIED = (
    "MSE", "MLY", "FME", "HYP", "TPO", "CSO", "SEP", "M3L", "HSK", "SAC", "PCA", "DAL", "CME",
    "CSD", "OCS", "DPR", "B3K", "ALY", "YCM", "MLZ", "4BF", "KCX", "B3E", "B3D", "HZP", "CSX",
    "BAL", "HIC", "DBZ", "DCY", "DVA", "NLE", "SMC", "AGM", "B3A", "DAS", "DLY", "DSN", "GL3",
    "HY3", "LLP", "MGN", "MHS", "TRQ", "B3Y", "PHI", "PTR", "TYS", "IAS", "GPL", "KYN", "SEC",
)  # fmt: skip
"""The residues that are read of HETATM records, as their parents."""

BETWEEN_CHAINS = 50  # what is added to the residue index from one chain to the next
REMOVED, REQUIRED = -1e6, 1e7  # the bias of a letter that is removed, and of one that is fixed
NEVER = -1e5  # a letter whose bias is so far under the best one's is never drawn

_TOKEN = re.compile(
    r"(?P<chain>[A-Za-z])?(?P<first>-?\d+)(?P<icode>[A-Z])?(?:-[A-Za-z]?(?P<last>-?\d+))?"
)


class mk_mpnn_model:  # noqa: N801 (ColabDesign's name)
    """ProteinMPNN as ColabDesign's `mk_mpnn_model`.

    Parameters
    ----------
    model_name : "v_48_002", "v_48_010", "v_48_020" or "v_48_030"
    backbone_noise : standard deviation in Å of what is added to the coordinates, anew for each
        sequence
    dropout : 0; another value is refused
    seed : of everything that is drawn afterwards; None draws one
    verbose : taken, and not used, as in ColabDesign
    weights : "original" or "soluble"
    device, backend : those of `mpnn_core.load_model`

    Attributes
    ----------
    model : the `mpnn_core.Model` behind it
    _inputs : X (L, 4, 3) float64, Å, mask (L,), S (L,) and bias (L, 20) in the order `THEIRS`,
        residue_idx, chain_idx, lengths, and fix_pos if something is fixed. What is changed in it
        counts at the next call
    _lengths, _len : residues of each chain, and in all, or of one chain of a homo-oligomer
    _tied_lengths : whether the chains are tied
    pdb : what was read: idx (residue, chain), residue_index, lengths, and batch (aatype,
        all_atom_positions (L, 37, 3), all_atom_mask (L, 37))

    Raises
    ------
    ValueError, CheckpointError
        Other weights, a dropout, or as `mpnn_core.load_model`.
    """

    def __init__(
        self,
        model_name: str = "v_48_020",
        backbone_noise: float = 0.0,
        dropout: float = 0.0,
        seed: int | None = None,
        verbose: bool = False,
        weights: str = "original",
        device: str | torch.device = "cpu",
        backend: str = "auto",
    ) -> None:
        if weights not in ("original", "soluble"):
            raise ValueError(f"weights is {weights!r}; expected 'original' or 'soluble'")
        if dropout:
            raise ValueError(
                f"dropout is {dropout}; expected 0: the published networks are computed without"
            )
        if not (np.isfinite(backbone_noise) and backbone_noise >= 0):
            raise ValueError(f"backbone_noise is {backbone_noise}; expected Å, 0 or more")
        name = f"soluble/{model_name}" if weights == "soluble" else model_name
        self.model = load_model(name, "baseline", device, backend)
        self.backbone_noise = backbone_noise
        self.set_seed(seed)
        self._inputs: dict[str, Any] = {}
        self._lengths: list[int] = []
        self._len = 0
        self._tied_lengths = False
        self.pdb: dict[str, Any] = {}

    def set_seed(self, seed: int | None = None) -> None:
        """Begin the random numbers anew; None draws a seed."""
        self._rng = np.random.default_rng(seed)

    def key(self) -> int:
        """A seed, another one at each call; what `key` takes in `sample` and `score`."""
        return int(self._rng.integers(2**32))

    def prep_inputs(
        self,
        pdb_filename: Any = None,
        chain: str | Sequence[str] | None = None,
        homooligomer: bool = False,
        ignore_missing: bool | Sequence[bool] = True,
        fix_pos: str | None = None,
        inverse: bool = False,
        rm_aa: str | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> None:
        """Read a structure, and say what is designed.

        Parameters
        ----------
        pdb_filename : a PDB or mmCIF file, or the text of one
        chain : "A", "A,B" or ["A", "B"], read in this order; None is the only chain of the file
        homooligomer : whether the chains are tied; they must be of one length
        ignore_missing : whether numbers that a chain lacks are left out; else each is a residue X
            without coordinates. A list has an entry for each chain
        fix_pos : what keeps its residue, "A,B10-20,B25": chains, residues and ranges by the numbers
            of the file; without a letter they are of the first chain
        inverse : whether `fix_pos` is what is designed
        rm_aa : letters that are never drawn, "C" or "C,W"
        verbose : whether the lengths and what is fixed are printed

        Raises
        ------
        StructureError
            The file is not read, has no such chain, or tied chains have different lengths.
        ConstraintError
            `fix_pos` names a chain or a residue that is not there, or `rm_aa` no letter.
        """
        if kwargs:
            warnings.warn(
                f"prep_inputs takes no {', '.join(sorted(kwargs))}; ignored, as in ColabDesign",
                StructureWarning,
                stacklevel=2,
            )
        pdb = _read(pdb_filename, chain, ignore_missing)
        lengths, batch = pdb["lengths"], pdb["batch"]
        if homooligomer and len(set(lengths)) > 1:
            shown = ", ".join(map(str, lengths))
            raise StructureError(
                f"{pdb['name']}: the chains of a homo-oligomer have {shown} residues; expected "
                "equal lengths; name other chains, or leave out homooligomer"
            )
        L = sum(lengths)
        inputs = {
            "X": batch["all_atom_positions"][:, _BACKBONE],
            "mask": batch["all_atom_mask"][:, _BACKBONE[1]].copy(),
            "S": batch["aatype"].copy(),
            "residue_idx": pdb["residue_index"],
            "chain_idx": np.repeat(np.arange(len(lengths)), lengths),
            "lengths": np.array(lengths),
            "bias": np.zeros((L, 20)),
        }
        for letter in (rm_aa or "").split(","):
            if letter := letter.strip().upper():
                if letter not in aa_order:
                    raise ConstraintError(
                        f"rm_aa has {letter!r}; expected letters of {THEIRS[:20]}, such as 'C,W'"
                    )
                inputs["bias"][:, aa_order[letter]] += REMOVED
        if fix_pos is not None:
            positions = _positions(fix_pos, pdb)
            if inverse:
                positions = np.delete(np.arange(L), positions)
            _fix(inputs, positions)
        self._inputs, self.pdb, self._lengths = inputs, pdb, lengths
        self._tied_lengths = homooligomer
        self._len = lengths[0] if homooligomer else L
        if verbose:
            print("lengths", lengths)
            if "fix_pos" in inputs:
                print("the following positions will be fixed:")
                print(inputs["fix_pos"])

    def get_af_inputs(self, af: Any) -> None:
        """Take a structure, its bias and what is fixed from a model of AfDesign.

        Raises
        ------
        ValueError
            It has an "offset", as cyclic peptides do.
        """
        if "offset" in af._inputs:
            raise ValueError("the AfDesign model has an 'offset' of residues, which is not taken")
        lengths = [int(length) for length in af._lengths]
        inputs = {
            **self._inputs,
            "residue_idx": np.asarray(af._inputs["residue_index"]),
            "chain_idx": np.asarray(af._inputs["asym_id"]),
            "lengths": np.array(lengths),
            "bias": np.zeros((sum(lengths), 20)),
        }
        inputs["bias"][-af._len :] = af._inputs["bias"]
        if "batch" in af._inputs:
            batch = af._inputs["batch"]
            inputs["X"] = np.asarray(batch["all_atom_positions"])[:, _BACKBONE]
            inputs["mask"] = np.array(batch["all_atom_mask"])[:, _BACKBONE[1]]
            inputs["S"] = np.array(batch["aatype"])
        inputs.pop("fix_pos", None)
        binder = af.protocol == "binder"
        fixed = np.arange(af._target_len) if binder else af.opt.get("fix_pos", None)
        if fixed is not None:
            _fix(inputs, np.asarray(fixed))
        self._inputs, self._lengths, self._len = inputs, lengths, af._len
        self._tied_lengths = bool(af._args["homooligomer"])

    def sample(
        self,
        num: int = 1,
        batch: int = 1,
        temperature: float = 0.1,
        rescore: bool = False,
        **kwargs: Any,
    ) -> dict[str, NDArray[Any]]:
        """`sample_parallel` of num * batch sequences."""
        return self.sample_parallel(num * batch, temperature, rescore, **kwargs)

    def sample_parallel(
        self, batch: int = 10, temperature: float = 0.1, rescore: bool = False, **kwargs: Any
    ) -> dict[str, NDArray[Any]]:
        """Design sequences.

        Parameters
        ----------
        batch : how many, n
        temperature : divides the logits
        rescore : whether logits and scores are of the finished sequences under the same orders
        kwargs : entries of `_inputs` for this call alone; `key`, a seed; `decoding_order`, (L,)
            positions, or a row of tied positions per step

        Returns
        -------
        S : (n, L, 21) float32, one-hot
        logits : (n, L, 21) float32, the logarithms of probabilities at temperature 1 without bias
        decoding_order : (n, L, 1) int64; of tied chains (n, L / chains, chains)
        seq : (n,) str, chains joined by "/"; of tied chains the first alone
        score : (n,) float32, mean negative log-probability of what is not fixed
        seqid : (n,) float32, share of what is not fixed that is as in the structure
        """
        inputs = self._given(kwargs)
        seed = _seed(inputs.pop("key", None), self._rng)
        order = inputs.get("decoding_order")
        if order is not None:
            order = np.asarray(order).reshape(-1)
        structure = self._structure(inputs)
        constraints = self._constraints(inputs, structure)
        alone = not self.backbone_noise
        structures = [structure] if alone else self._noisy(structure, batch, seed)
        designs = self.model.design(
            structures, batch if alone else 1, temperature, seed, constraints,
            None if order is None else [order] * len(structures), common_random_numbers=False,
        )  # fmt: skip
        sequences = [sequence for design in designs for sequence in design.sequences]
        orders = np.concatenate([design.decoding_order for design in designs])
        if rescore:
            n = batch if alone else 1
            log_probs = self.model.log_probs(
                structures,
                [sequences[i * n : i * n + n] for i in range(len(structures))],
                [orders[i * n : i * n + n] for i in range(len(structures))],
            )
        else:
            log_probs = [design.log_probs for design in designs]
        tokens = np.array([[THEIRS.index(letter) for letter in s] for s in sequences])
        logits = np.concatenate(log_probs)[..., _OURS]
        copies = len(self._lengths) if self._tied_lengths else 1
        if self._tied_lengths:
            orders = _by_step(orders, copies)
        return {
            "S": np.eye(LETTERS, dtype=np.float32)[tokens],
            "logits": logits,
            "decoding_order": orders.reshape(batch, -1, copies),
            "seq": np.array([self._divided(sequence) for sequence in sequences]),
            **_scores(inputs, structure, np.eye(LETTERS)[tokens], logits, self._inputs["S"]),
        }

    def score(self, seq: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """How well a sequence fits, under one decoding order.

        Parameters
        ----------
        seq : L letters, "/" between chains or not; those of what is not fixed, or of one chain of a
            homo-oligomer; None is the structure's own
        kwargs : entries of `_inputs` for this call alone, of which S may be (L, 20) or (L, 21)
            numbers too; `key`, a seed; `decoding_order`, (L,) positions; `ar_mask`, (L, L), which
            residues (columns) each residue (row) sees, instead of an order

        Returns
        -------
        logits : (L, 21) float32
        S : (L, 21) float32, one-hot
        decoding_order : (L,) int64, None with an `ar_mask`
        score, seqid : float32, as `sample_parallel`

        Raises
        ------
        ValueError
            The sequence has another length, or a letter that is none.
        """
        inputs = self._given(kwargs)
        seed = _seed(inputs.pop("key", None), self._rng)
        letters = self._letters(inputs, seq)
        structure = self._structure(inputs)
        L = len(structure)
        order: NDArray[np.int64] | None = None
        if inputs.get("ar_mask") is not None:
            sees = np.asarray(inputs["ar_mask"]) != 0
            if sees.shape != (L, L):
                raise ValueError(f"ar_mask has shape {sees.shape}; expected {(L, L)}")
        else:
            order = self._order(inputs, L, seed)
            rank = np.argsort(order)
            sees = rank[None] < rank[:, None]
        if self.backbone_noise:
            (structure,) = self._noisy(structure, 1, seed)
        logits = _logits(
            self.model.network, structure, letters[:, _THEIRS], sees, self.model.device
        )
        logits = logits[:, _OURS]
        return {
            "logits": logits,
            "decoding_order": order,
            "S": letters.astype(np.float32),
            **_scores(inputs, structure, letters, logits, self._inputs["S"]),
        }

    def get_logits(self, **kwargs: Any) -> NDArray[np.float32]:
        """The logits (L, 21) of `score`."""
        return self.score(**kwargs)["logits"]

    def get_unconditional_logits(self, **kwargs: Any) -> NDArray[np.float32]:
        """Logits (L, 21) that know the backbone and no residue."""
        L = len(self._read_inputs()["X"])
        return self.score(**{**kwargs, "ar_mask": np.zeros((L, L))})["logits"]

    def _read_inputs(self) -> dict[str, Any]:
        if "X" not in self._inputs:
            raise ValueError("no structure was read; call prep_inputs(pdb_filename=...) first")
        return self._inputs

    def _given(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of one call."""
        if kwargs.get("offset") is not None or self._read_inputs().get("offset") is not None:
            raise ValueError("an 'offset' of residues is not taken; residue_idx and chain_idx are")
        return {**self._read_inputs(), **kwargs}

    def _structure(self, inputs: dict[str, Any]) -> Structure:
        """The inputs as a structure; a residue that lacks an atom has no coordinates."""
        X = np.array(inputs["X"], dtype=np.float32)
        absent = (np.asarray(inputs["mask"]) == 0) | (X == 0).all(2).any(1)
        X[absent] = np.nan
        given = np.asarray(inputs["S"])
        tokens = given if given.ndim == 1 else np.asarray(self._inputs["S"])
        name = self.pdb.get("name", "structure")
        L = len(X)
        return Structure(
            name,
            X,
            "".join(THEIRS[t] for t in tokens.tolist()),
            np.array([f"{c:04d}" for c in np.asarray(inputs["chain_idx"]).tolist()]),
            np.asarray(inputs["residue_idx"]),
            np.arange(1, L + 1).astype(str),
        )

    def _noisy(self, structure: Structure, n: int, seed: int) -> list[Structure]:
        """n copies whose coordinates have noise."""
        return [with_noise(structure, self.backbone_noise, seed, i) for i in range(n)]

    def _constraints(self, inputs: dict[str, Any], structure: Structure) -> Constraints:
        """What is fixed, removed and tied."""
        L = len(structure)
        bias = np.asarray(inputs["bias"], dtype=np.float64)[:, :20]
        best = bias.max(1, keepdims=True)
        never = bias - best < NEVER  # (L, 20)
        of_letters = np.zeros((L, LETTERS), np.float32)
        of_letters[:, _OURS[:20]] = np.where(never, 0, bias - best)
        fixed = np.zeros(L, bool)
        fixed[np.asarray(inputs.get("fix_pos", ()), dtype=int)] = True
        groups: list[list[int]] = []
        if self._tied_lengths:
            copies = np.arange(L).reshape(len(self._lengths), -1)
            fixed = np.tile(fixed.reshape(copies.shape).all(0), len(copies))
            groups = copies.T.tolist()
        rows: dict[int | str, str] = {
            i: ",".join(THEIRS[a] for a in np.flatnonzero(never[i]))
            for i in np.flatnonzero(never.any(1) & ~fixed).tolist()
        }
        return Constraints(
            fixed=np.flatnonzero(fixed).tolist(), omit_at=rows, bias_at=of_letters, tied=groups
        )

    def _order(self, inputs: dict[str, Any], L: int, seed: int) -> NDArray[np.int64]:
        """The order (L,) that was given, or a random one in which what is fixed comes first."""
        if inputs.get("decoding_order") is not None:
            order = np.asarray(inputs["decoding_order"]).reshape(-1)
            if sorted(order.tolist()) != list(range(L)):
                raise ValueError(
                    f"decoding_order does not list each of the positions 0 to {L - 1} once"
                )
            return order.astype(np.int64)
        noise = np.random.default_rng(seed).random(L) + (np.asarray(inputs["mask"]) == 0)
        noise[np.unique(np.asarray(inputs.get("fix_pos", ()), dtype=int))] -= 1
        return noise.argsort(kind="stable")

    def _letters(self, inputs: dict[str, Any], seq: str | None) -> NDArray[np.float64]:
        """The sequence to score (L, 21), one-hot unless S was given otherwise."""
        S = np.array(inputs["S"])
        L = len(S)
        if S.ndim == 2:
            if S.shape[1] not in (20, 21):
                raise ValueError(f"S has shape {S.shape}; expected ({L},), ({L}, 20) or ({L}, 21)")
            S = np.pad(S.astype(np.float64), [(0, 0), (0, LETTERS - S.shape[1])])
        else:
            S = np.where((S < 0) | (S > 20), -1, S)
            S = np.eye(LETTERS)[S]
        if seq is None:
            return S
        letters = "".join(seq).replace("/", "")
        at = np.arange(L)
        free = np.delete(at, np.asarray(inputs.get("fix_pos", ()), dtype=int))
        expected = {L: at, len(free): free}
        if self._tied_lengths and len(letters) == self._lengths[0]:
            letters *= len(self._lengths)
        if len(letters) not in expected:
            lengths = " or ".join(map(str, sorted(expected)))
            raise ValueError(f"the sequence has {len(letters)} letters; expected {lengths}")
        wrong = sorted(set(letters) - set(THEIRS))
        if wrong:
            raise ValueError(f"the sequence has {wrong[0]!r}; expected letters of {THEIRS}")
        S[at if len(letters) == L else free] = np.eye(LETTERS)[[THEIRS.index(x) for x in letters]]
        return S

    def _divided(self, sequence: str) -> str:
        """A sequence with "/" between its chains, or the first of tied ones."""
        ends = np.cumsum(self._lengths).tolist()
        chains = [sequence[end - n : end] for end, n in zip(ends, self._lengths, strict=True)]
        return chains[0] if self._tied_lengths else "/".join(chains)


def _fix(inputs: dict[str, Any], positions: NDArray[np.int64]) -> None:
    """Positions keep their residue."""
    inputs["fix_pos"] = positions
    letters = np.eye(LETTERS)[np.asarray(inputs["S"])[positions]]
    inputs["bias"][positions] = REQUIRED * letters[:, :20]


def _by_step(orders: NDArray[np.int64], copies: int) -> NDArray[np.int64]:
    """Orders (n, L) in which tied residues are visited together: (n, L / copies, copies)."""
    length = orders.shape[1] // copies
    steps = [list(dict.fromkeys((order % length).tolist())) for order in orders]
    return np.array(steps)[:, :, None] + np.arange(copies) * length


def _seed(key: Any, rng: np.random.Generator) -> int:
    """A seed from what was given as a key, a number or an array of some; drawn for None."""
    if key is None:
        return int(rng.integers(2**32))
    numbers = [abs(int(number)) for number in np.asarray(key).reshape(-1)]
    return numbers[0] if len(numbers) == 1 else int(np.random.default_rng(numbers).integers(2**32))


def _logits(
    network: MPNN,
    structure: Structure,
    letters: NDArray[Any],
    sees: NDArray[np.bool_],
    device: torch.device,
) -> NDArray[np.float32]:
    """Logits (L, 21) in our order of letters (L, 21), each residue seeing those that it `sees`.

    Of an order it is `MPNN.decode`; here the letters may be mixtures, and `sees` any relation.
    """
    complete = np.flatnonzero(structure.mask)
    with torch.inference_mode():
        encoding = network.encode(Backbones.from_structures([structure], device))
        neighbours, h_V = encoding.graph.neighbours, encoding.h_V
        N = len(h_V)
        seen = torch.from_numpy(sees[np.ix_(complete, complete)]).to(device).gather(1, neighbours)
        rows = torch.where(seen, neighbours + N, neighbours)
        embedded = torch.from_numpy(letters[complete]).float().to(device) @ network.W_s.weight
        for layer, edges, undecoded in zip(
            network.decoders, encoding.edges, encoding.undecoded, strict=True
        ):
            _, _, C, D = layer.blocks()
            decoded = F.linear(embedded, C) + F.linear(h_V, D)
            table = torch.cat([undecoded, decoded])
            h_V = layer(h_V, edges, table, rows, None, encoding.graph)
        of_complete = network.W_out(h_V).cpu().numpy()
        logits = np.tile(network.W_out.bias.cpu().numpy(), (len(structure), 1))
    logits[complete] = of_complete
    return logits


def _scores(
    inputs: dict[str, Any],
    structure: Structure,
    letters: NDArray[Any],
    logits: NDArray[Any],
    native: ArrayLike,
) -> dict[str, Any]:
    """score and seqid (...) of letters and logits (..., L, 21)."""
    counted = structure.mask.astype(np.float64)
    counted[np.asarray(inputs.get("fix_pos", ()), dtype=int)] = 0
    largest = logits.max(-1, keepdims=True)
    log_q = logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))
    nll = -(letters[..., :20] * log_q[..., :20]).sum(-1)
    same = letters[..., :20].argmax(-1) == np.asarray(native)
    total = counted.sum() + 1e-8
    score, seqid = ((values * counted).sum(-1) / total for values in (nll, same))
    return {"score": np.float32(score), "seqid": np.float32(seqid)}


# What is read.


def _read(
    source: Any, chain: str | Sequence[str] | None, ignore_missing: bool | Sequence[bool]
) -> dict[str, Any]:
    """The chains of a file as AlphaFold's features, as ColabDesign's `prep_pdb` gives them."""
    if source is None:
        raise StructureError("no structure; give pdb_filename, a PDB or mmCIF file")
    text = str(source)
    name = "structure" if "\n" in text else Path(text).name
    try:
        if "\n" in text:
            with tempfile.NamedTemporaryFile("w", suffix=".pdb", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                content = read_text(Path(file.name))
        else:
            content = read_text(Path(text))
        atoms = read_atoms(content, lambda _: None)
        kept = np.flatnonzero(
            ~atoms.hetero | np.isin(atoms.residue, [r.encode() for r in _modified(content)])
        )
        chains = _chains(chain, atoms, kept)
        some = (
            [ignore_missing] * len(chains) if isinstance(ignore_missing, bool) else ignore_missing
        )
        if len(some) != len(chains):
            raise ValueError(
                f"ignore_missing has {len(some)} values for {len(chains)} chains; expected one "
                "bool, or one for each"
            )
        parts = [_chain(atoms, kept, c, left) for c, left in zip(chains, some, strict=True)]
    except StructureError as error:
        error.file = error.file or (None if "\n" in text else text)
        raise
    last, index = 0, []
    for part, left_out in zip(parts, some, strict=True):
        numbers = part["number"] if left_out else np.arange(len(part["number"]))
        index.append(numbers + last)
        last = int(index[-1][-1]) + BETWEEN_CHAINS
    lengths = [len(part["number"]) for part in parts]

    def joined(key: str) -> NDArray[Any]:
        return np.concatenate([part[key] for part in parts])

    return {
        "name": name,
        "batch": {key: joined(key) for key in ("aatype", "all_atom_positions", "all_atom_mask")},
        "residue_index": np.concatenate(index),
        "idx": {"residue": joined("number"), "chain": np.repeat(np.array(chains), lengths)},
        "icode": joined("icode"),
        "lengths": lengths,
    }


def _modified(text: str) -> set[str]:
    """Names of HETATM residues that count as residues: those known, and those of MODRES records."""
    standard = {name for name, letter in residue_letters().items() if letter in AMINO_ACIDS}
    records = {
        line[12:15].strip()
        for line in text.split("\n")
        if line.startswith("MODRES") and line[24:27].strip() in standard
    }
    return {*MODIFIED} | records


def _chains(chain: str | Sequence[str] | None, atoms: Atoms, kept: NDArray[np.int64]) -> list[str]:
    """The chains to read, in the order in which they are named."""
    ids = np.char.decode(atoms.chain[kept])
    there = list(dict.fromkeys(ids[atoms.atom[kept] == b"CA"].tolist()))
    shown = ", ".join(map(shown_chain, there)) or "none"
    if chain is None:
        if len(there) != 1:
            raise StructureError(f"protein chains there: {shown}; name some: chain='A' or 'A,B'")
        return there
    chains = [c.strip() for c in (chain.split(",") if isinstance(chain, str) else chain)]
    chains = [c for c in chains if c]
    absent = [c for c in chains if c not in there]
    if absent or not chains:
        what = f"no protein chain {shown_chain(absent[0])}" if absent else "no chain asked for"
        raise StructureError(f"{what}; protein chains there: {shown}")
    return chains


def _chain(
    atoms: Atoms, kept: NDArray[np.int64], chain: str, left_out: bool
) -> dict[str, NDArray[Any]]:
    """One chain: of each atom the first in the file, in the order of the residues in the file.

    left_out : whether numbers without an N are left out; else they are residues X
    """
    rows = kept[atoms.chain[kept] == chain.encode()]
    keys = list(
        zip(atoms.number[rows].tolist(), np.char.decode(atoms.icode[rows]).tolist(), strict=True)
    )
    place = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    first: dict[tuple[int, str], int] = {}
    xyz, mask = np.zeros((len(place), 37, 3)), np.zeros((len(place), 37))
    known = {atom.encode(): a for a, atom in enumerate(ATOM_TYPES)}
    read = [row for row in rows.tolist() if atoms.atom[row] in known]
    atoms.check(np.array(read, dtype=np.int64))
    for key, row in zip(keys, rows.tolist(), strict=True):
        first.setdefault(key, row)
        a = known.get(atoms.atom[row])
        if a is not None and not mask[place[key], a] and np.isfinite(atoms.xyz[row]).all():
            xyz[place[key], a], mask[place[key], a] = atoms.xyz[row], 1
    letters = residue_letters()
    names = [atoms.residue[first[key]].decode() for key in place]
    aatype = np.array([THEIRS.index(letters.get(name.upper(), "X")) for name in names])
    number = np.array([n for n, _ in place])
    icode = np.array([i for _, i in place])
    _add_cb(xyz, mask)
    has_n = mask[:, 0] == 1
    part = {
        "number": number,
        "icode": icode,
        "aatype": aatype,
        "all_atom_positions": xyz,
        "all_atom_mask": mask,
    }
    part = {key: values[has_n] for key, values in part.items()}
    if not len(part["number"]):
        raise StructureError("no residue with an N", chain=chain)
    return part if left_out else _with_gaps(part)


def _with_gaps(part: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A chain with a residue X for each number that it lacks."""
    number = part["number"]
    before = np.concatenate([[0], np.maximum(np.diff(number) - 1, 0)])
    at = np.arange(len(number)) + np.cumsum(before)
    blanks: dict[str, Any] = {"number": -1, "icode": "", "aatype": -1}
    whole = {}
    for key, values in part.items():
        shape = (int(at[-1]) + 1, *values.shape[1:])
        whole[key] = np.full(shape, blanks.get(key, 0), dtype=values.dtype)
        whole[key][at] = values
    return whole


def _add_cb(xyz: NDArray[np.float64], mask: NDArray[np.float64]) -> None:
    """Put a CB where there is none, from N, CA and C; in place."""
    n, ca, c, cb = (ATOM_TYPES.index(atom) for atom in ("N", "CA", "C", "CB"))
    lacks = (mask[:, cb] == 0) & (mask[:, [n, ca, c]] == 1).all(1)
    b, d = xyz[lacks, ca] - xyz[lacks, n], xyz[lacks, c] - xyz[lacks, ca]
    ideal = -0.58273431 * np.cross(b, d) + 0.56802827 * b - 0.54067466 * d
    xyz[lacks, cb], mask[lacks, cb] = xyz[lacks, ca] + ideal, 1


def _positions(text: str, pdb: dict[str, Any]) -> NDArray[np.int64]:
    """The positions that a text such as "A,B10-20,25" names, each once."""
    numbers, chains, icodes = pdb["idx"]["residue"], pdb["idx"]["chain"], pdb["icode"]
    found: dict[int, None] = {}
    for token in filter(None, (part.strip() for part in text.split(","))):
        if token in chains:
            found.update(dict.fromkeys(np.flatnonzero(chains == token).tolist()))
            continue
        match = _TOKEN.fullmatch(token)
        if match is None and not token.isalpha():
            raise ConstraintError(
                f"{pdb['name']}: fix_pos has {token!r}; expected a chain, a residue or a range, "
                "such as A, A10 or A10-20"
            )
        chain = token if match is None else match["chain"] or str(chains[0])
        if match is None or chain not in chains:
            there = ", ".join(map(shown_chain, dict.fromkeys(chains.tolist())))
            raise ConstraintError(
                f"{pdb['name']}: fix_pos names chain {shown_chain(chain)}; chains read: {there}"
            )
        first = int(match["first"])
        last = first if match["last"] is None else int(match["last"])
        of_chain = chains == chain
        for number in range(first, last + 1):
            at = of_chain & (numbers == number)
            if match["last"] is None:
                at &= icodes == (match["icode"] or "")
            if not at.any():
                there = numbers[of_chain & (numbers >= 0)]
                raise ConstraintError(
                    f"{pdb['name']}: fix_pos names {chain}{number}{match['icode'] or ''}, which is "
                    f"not there; chain {shown_chain(chain)} has {_ranges(there.tolist())}"
                )
            found.update(dict.fromkeys(np.flatnonzero(at).tolist()))
    return np.array(list(found), dtype=np.int64)


def _ranges(numbers: Iterable[int]) -> str:
    """ "1-20, 25" of the numbers of residues."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number in (runs[-1][1], runs[-1][1] + 1):
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return shown_items([str(a) if a == b else f"{a}-{b}" for a, b in runs])
