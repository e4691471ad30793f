"""A peer in a process of its own: it answers until its orders end.

Run as a script by opening.py, with the Python of the peer's environment, which needs NumPy alone;
so it imports nothing of mpnn_core, and runs on any Python from 3.8 on. A message in either
direction is a line of JSON, and the bytes of the arrays that this line names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import traceback
from typing import IO, Any, Dict, List, Mapping, Optional, Sequence, Tuple  # noqa: UP035

import numpy as np

JITTER = 1e-3  # Å: timed structures differ, so that nothing is won by remembering one
Arrays = Dict[str, Any]  # noqa: UP006


class PlainStructure:
    """A structure as peers get it; `Backbone` in contract.py says what its attributes are."""

    def __init__(
        self, name: str, coords: Any, sequence: str, chain_ids: Any, residue_index: Any
    ) -> None:
        self.name, self.coords, self.sequence = name, coords, sequence
        self.chain_ids, self.residue_index = chain_ids, residue_index
        self.mask = np.isfinite(coords).all(axis=(1, 2))

    def __len__(self) -> int:
        return len(self.sequence)

    def moved(self, rng: Any) -> PlainStructure:
        """The same structure, each atom moved by about `JITTER`."""
        noise = rng.normal(0, JITTER, self.coords.shape).astype(np.float32)
        return PlainStructure(
            self.name, self.coords + noise, self.sequence, self.chain_ids, self.residue_index
        )


# Messages.


def send(stream: IO[bytes], message: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write a message and its arrays, to the bit."""
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.hasobject:
            raise TypeError(f"{name} is an array of Python objects; expected numbers or strings")
    head = [[name, array.dtype.str, list(array.shape)] for name, array in plain.items()]
    stream.write(json.dumps({**message, "arrays": head}).encode("utf-8") + b"\n")
    for array in plain.values():
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> Optional[Tuple[Dict[str, Any], Arrays]]:  # noqa: UP006, UP045
    """Read a message and its arrays; None where the stream has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    message = json.loads(line)
    arrays = {}
    for name, dtype, shape in message.pop("arrays"):
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        data = stream.read(size)
        if len(data) < size:
            return None
        arrays[name] = np.frombuffer(data, np.dtype(dtype)).reshape(shape).copy()
    return message, arrays


def packed(structures: Sequence[Any]) -> Tuple[List[Dict[str, str]], Arrays]:  # noqa: UP006
    """Structures as the texts and the arrays of a message."""
    texts = [{"name": s.name, "sequence": s.sequence} for s in structures]
    arrays = {
        f"{i}.{field}": getattr(s, field)
        for i, s in enumerate(structures)
        for field in ("coords", "chain_ids", "residue_index")
    }
    return texts, arrays


def unpacked(texts: Sequence[Mapping[str, str]], arrays: Arrays) -> List[PlainStructure]:  # noqa: UP006
    """The structures of a message."""
    return [
        PlainStructure(
            text["name"],
            arrays[f"{i}.coords"],
            text["sequence"],
            arrays[f"{i}.chain_ids"],
            arrays[f"{i}.residue_index"],
        )
        for i, text in enumerate(texts)
    ]


# The process.


def load(path: str, function: str) -> Any:
    """The peer of a candidate file."""
    spec = importlib.util.spec_from_file_location("candidate", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules["candidate"] = module  # dataclasses look for their module
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise AttributeError(f"it has no function {function}(); expected one that returns a peer")
    peer = getattr(module, function)()
    missing = [
        name for name in ("name", "version", "log_probs", "design") if not hasattr(peer, name)
    ]
    if missing:
        raise AttributeError(f"what {function}() returned lacks {', '.join(missing)}")
    return peer


class Worker:
    """The orders that a peer is given; each returns a reply and its arrays."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer

    def about(self) -> Dict[str, Any]:  # noqa: UP006
        """What the peer is, and what it has of what it need not have."""
        optional = ("neighbours", "design_many", "log_probs_many", "batch")
        has = [name for name in optional if hasattr(self.peer, name)]
        return {
            "name": str(self.peer.name),
            "version": str(self.peer.version),
            "weights": str(getattr(self.peer, "weights", "v_48_020")),
            "takes_order": bool(getattr(self.peer, "takes_order", True)),
            "has": has,
        }

    def log_probs(self, message: Any, arrays: Arrays) -> Any:
        (structure,) = unpacked(message["structures"], arrays)
        order = arrays["order"] if getattr(self.peer, "takes_order", True) else None
        return {}, {"log_probs": self.peer.log_probs(structure, message["sequence"], order)}

    def log_probs_many(self, message: Any, arrays: Arrays) -> Any:
        structures = unpacked(message["structures"], arrays)
        orders = [arrays[f"{i}.order"] for i in range(len(structures))]
        found = self.peer.log_probs_many(structures, message["sequences"], orders)
        return {"count": len(found)}, {str(i): array for i, array in enumerate(found)}

    def design(self, message: Any, arrays: Arrays) -> Any:
        structures = unpacked(message["structures"], arrays)
        self._set_batch(message["batch"])
        return {"sequences": self._designs(structures, message)}, {}

    def neighbours(self, message: Any, arrays: Arrays) -> Any:
        (structure,) = unpacked(message["structures"], arrays)
        return {}, {"neighbours": self.peer.neighbours(structure)}

    def time(self, message: Any, arrays: Arrays) -> Any:
        """Seconds of one call, from plain arrays to sequences, on structures moved a little."""
        rng = np.random.default_rng(message["seed"])
        structures = [s.moved(rng) for s in unpacked(message["structures"], arrays)]
        self._set_batch(message["batch"])
        if message["call"] == "log_probs":
            structure = structures[0]
            order = rng.permutation(len(structure))
            given = order if getattr(self.peer, "takes_order", True) else None
            started = time.perf_counter()
            self.peer.log_probs(structure, structure.sequence, given)
        else:
            started = time.perf_counter()
            self._designs(structures, message)
        return {"seconds": time.perf_counter() - started}, {}

    def _set_batch(self, batch: Optional[int]) -> None:  # noqa: UP045
        if batch is not None and hasattr(self.peer, "batch"):
            self.peer.batch = batch

    def _designs(self, structures: Any, message: Any) -> Any:
        settings = message["n"], message["temperature"], message["seed"]
        if len(structures) > 1 and hasattr(self.peer, "design_many"):
            return [list(map(str, s)) for s in self.peer.design_many(structures, *settings)]
        return [list(map(str, self.peer.design(s, *settings))) for s in structures]


def said(error: BaseException, path: str) -> str:
    """An error in the peer's own words, with the last line of its file that led to it."""
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.abspath(frame.filename) == os.path.abspath(path)
    ]
    return f"line {lines[-1]}: {words}" if lines else words


def main() -> None:
    """worker.py SETTINGS, a JSON object: file, function, paths (searched for modules first)."""
    settings = json.loads(sys.argv[1])
    # What a peer prints must not be taken for a reply.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders = os.fdopen(os.dup(0), "rb")
    sys.path[0:1] = settings["paths"]  # instead of the folder of this script
    path = settings["file"]
    try:
        started = time.perf_counter()
        worker = Worker(load(path, settings["function"]))
        ready = {**worker.about(), "seconds": time.perf_counter() - started}
    except Exception as error:
        send(replies, {"error": said(error, path)}, {})
        return
    send(replies, ready, {})
    while True:
        order = receive(orders)
        if order is None:
            return
        message, arrays = order
        try:
            reply, result = getattr(worker, message["order"])(message, arrays)
            send(replies, reply, result)
        except Exception as error:
            send(replies, {"error": said(error, path)}, {})


if __name__ == "__main__":
    main()
