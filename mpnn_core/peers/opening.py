"""Peers by name or by file, each opened in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET
from mpnn_core.peers import environments, worker
from mpnn_core.peers.contract import Backbone, PeerError

HERE = Path(__file__).parent
# The peers that come with this package: the file of the adapter, and its function.
ADAPTERS = {
    "original": ("original.py", "peer"),
    "ours": ("ours.py", "peer"),
    "ligandmpnn": ("ligandmpnn.py", "peer"),
    "ligandmpnn-v32": ("ligandmpnn.py", "ligand_peer"),
    "colabdesign": ("colabdesign.py", "peer"),
    "aminx": ("aminx.py", "peer"),
}
LAST_WORDS = 500  # letters of what a peer printed before it died


@dataclass(frozen=True)
class Place:
    """Where a peer is: its file, the function in it, its Python ("" until it is built)."""

    spec: str
    file: Path
    function: str
    python: str
    paths: tuple[str, ...] = ()


def place_of(spec: str) -> Place:
    """Where the peer of a spec is: NAME, FILE.py, and either with :PYTHON.

    Raises
    ------
    PeerError
        There is no such name, file or Python.
    """
    name, colon, python = spec.partition(":")
    if name in ADAPTERS:
        file, function = ADAPTERS[name]
        path, paths = HERE / file, tuple[str, ...]()
        if not colon and name in environments.ENVIRONMENTS:
            return Place(spec, path, function, "")
        if not colon:
            return Place(spec, path, function, sys.executable, (str(HERE.parents[1]),))
    else:
        start, found, python = spec.partition(".py:")
        path = Path(f"{start}.py" if found else spec)
        if not path.is_file() or path.suffix != ".py":
            raise PeerError(
                f"peer {spec}: there is no file of Python {path}; expected one of "
                f"{', '.join(ADAPTERS)}, or FILE.py or FILE.py:PYTHON"
            )
        function, paths = "peer", (str(path.parent.resolve()),)
        if not found:
            return Place(spec, path.resolve(), function, sys.executable, paths)
    command = shutil.which(os.path.expanduser(python)) if python else None
    if command is None:
        raise PeerError(
            f"peer {spec}: there is no Python {python!r}; expected the path of an interpreter, "
            "such as .venv/bin/python"
        )
    return Place(spec, path.resolve(), function, os.path.abspath(command), paths)


class OpenPeer:
    """A peer in a process of its own: what `Peer` says, and its times."""

    def __init__(self, place: Place) -> None:
        self.spec = place.spec
        # A file, since a pipe could fill up; closed with the process.
        self._output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        foreign = place.python != sys.executable
        environment = {k: v for k, v in os.environ.items() if not (foreign and k == "PYTHONPATH")}
        settings = {
            "file": str(place.file), "function": place.function, "paths": list(place.paths)
        }  # fmt: skip
        try:
            self._process = subprocess.Popen(
                [place.python, worker.__file__, json.dumps(settings)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output,
                env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        except OSError as error:
            self._output.close()
            raise PeerError(f"peer {self.spec}: {place.python}: {error.strerror}") from None
        try:
            about, _ = self._reply("it could not be opened")
        except PeerError:
            self.close()
            raise
        self.name, self.version = about["name"], about["version"]
        self.weights: str = about["weights"]
        self.takes_order, self.has = about["takes_order"], frozenset(about["has"])
        self.seconds_to_open: float = about["seconds"]

    def log_probs(
        self, structure: Backbone, sequence: str, order: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """See `Peer`."""
        _, arrays = self._order("log_probs", [structure], sequence=sequence, order=order)
        return self._log_probs(structure, arrays["log_probs"])

    def log_probs_many(
        self,
        structures: Sequence[Backbone],
        sequences: Sequence[str],
        orders: Sequence[NDArray[np.int64]],
    ) -> list[NDArray[np.float32]]:
        """`log_probs` of several structures in one call; for a peer that `has` this."""
        reply, arrays = self._order(
            "log_probs_many", structures, sequences=list(sequences), orders=orders
        )
        self._expect(reply["count"], len(structures), "structures with log_probs:")
        return [self._log_probs(s, arrays[str(i)]) for i, s in enumerate(structures)]

    def _log_probs(self, structure: Backbone, log_probs: NDArray[Any]) -> NDArray[np.float32]:
        """What a peer answered, checked."""
        self._expect(log_probs.shape, (len(structure), len(ALPHABET)), "log_probs gave the shape")
        if log_probs.dtype.kind != "f":
            self._expect(str(log_probs.dtype), "float32", "log_probs gave the dtype")
        lost = int((~np.isfinite(log_probs[structure.mask])).any(-1).sum())
        self._expect(lost, 0, "residues whose log_probs are not finite:")
        result: NDArray[np.float32] = log_probs.astype(np.float32, copy=False)
        return result

    def design(
        self, structure: Backbone, n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[str]:
        """See `Peer`."""
        return self.design_many([structure], n, temperature, seed)[0]

    def design_many(
        self, structures: Sequence[Backbone], n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[list[str]]:
        """Designs for several structures, in one call where the peer takes several."""
        reply, _ = self._order("design", structures, n=n, temperature=temperature, seed=seed)
        designs: list[list[str]] = reply["sequences"]
        self._expect(len(designs), len(structures), "structures designed:")
        for structure, sequences in zip(structures, designs, strict=True):
            lengths = [len(sequence) for sequence in sequences]
            self._expect(lengths, [len(structure)] * n, "design gave sequences of the lengths")
            letters = "".join(sorted(set("".join(sequences)) - set(ALPHABET)))
            self._expect(letters, "", f"letters that are not in {ALPHABET}:")
        return designs

    def neighbours(self, structure: Backbone) -> NDArray[np.int64]:
        """(L, k): the nearest residues that the network sees; for a peer that `has` this."""
        _, arrays = self._order("neighbours", [structure])
        neighbours = arrays["neighbours"]
        self._expect(neighbours.shape[:-1], (len(structure),), "neighbours gave rows of the shape")
        result: NDArray[np.int64] = neighbours.astype(np.int64)
        return result

    def time(
        self, call: str, structures: Sequence[Backbone], n: int, seed: int, batch: int | None = None
    ) -> float:
        """Seconds of one `design` at T = 0.1, or of one `log_probs` of the native sequence.

        From plain arrays to sequences: what the peer makes of them is in its time, the pipe is not.
        """
        settings = {"call": call, "n": n, "temperature": 0.1, "seed": seed, "batch": batch}
        reply, _ = self._order("time", structures, **settings)
        return float(reply["seconds"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._output.close()

    def _order(
        self, what: str, structures: Sequence[Backbone], /, **settings: Any
    ) -> tuple[dict[str, Any], worker.Arrays]:
        texts, arrays = worker.packed(structures)
        if "order" in settings:
            arrays["order"] = settings.pop("order")
        for i, order in enumerate(settings.pop("orders", ())):
            arrays[f"{i}.order"] = order
        message = {"batch": None, **settings, "order": what, "structures": texts}
        assert self._process.stdin is not None
        with suppress(OSError):  # it is dead, and the reply says so
            worker.send(self._process.stdin, message, arrays)
        return self._reply(f"{what} failed")

    def _reply(self, what: str) -> tuple[dict[str, Any], worker.Arrays]:
        assert self._process.stdout is not None
        reply = worker.receive(self._process.stdout)
        if reply is None:
            code = self._process.wait()
            self._output.seek(0)
            words = self._output.read().strip()[-LAST_WORDS:] or "without a word"
            raise PeerError(f"peer {self.spec}: {what}: its process ended, code {code}: {words}")
        if "error" in reply[0]:
            raise PeerError(f"peer {self.spec}: {what}: {reply[0]['error']}")
        return reply

    def _expect(self, received: object, expected: object, what: str) -> None:
        if received != expected:
            raise PeerError(f"peer {self.spec}: {what} {received}; expected {expected}")


@contextmanager
def open_peer(spec: str, say: Callable[[str], None] = lambda line: None) -> Iterator[OpenPeer]:
    """A peer in a process of its own, which ends with the block.

    Parameters
    ----------
    spec : a name of `ADAPTERS`, whose environment is built where it is missing; FILE.py, a
        candidate file (contract.py); FILE.py:PYTHON or NAME:PYTHON, in another environment
    say : takes a line about what takes long

    Raises
    ------
    PeerError
        It cannot be opened, or fails while it is open.
    """
    place = place_of(spec)
    if not place.python:
        python = environments.python_of(spec, say)
        place = Place(spec, place.file, place.function, str(python), place.paths)
    peer = OpenPeer(place)
    try:
        yield peer
    finally:
        peer.close()
