"""A structure that cannot be computed fails alone, not the ones that it is computed with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mpnn_core.structures.structure import Structure

Result = TypeVar("Result")

# Their messages say what is wrong; those of others ("list index out of range") need their names.
PLAIN = (ValueError, OSError, MemoryError)


def isolated(
    compute: Callable[[Sequence[Structure]], Iterator[Result]], structures: Sequence[Structure]
) -> Iterator[tuple[Structure, Result | Exception]]:
    """Each structure with its result, or with the error that it alone raises.

    `compute` gives the results of many structures in their order. Where it fails, those without a
    result are computed again, each by itself: what memory does not hold together it may hold apart.
    """
    done = 0
    try:
        for result in compute(structures):
            done += 1
            yield structures[done - 1], result
        return
    except Exception as error:
        # Its frames hold what was being computed.
        failure = error.with_traceback(None)
    if len(structures) == 1:
        yield structures[0], failure
        return
    for structure in structures[done:]:
        yield from isolated(compute, [structure])


def reason(error: Exception) -> str:
    """What an error says, in one line; with its kind, unless its message is meant for users."""
    text = " ".join(str(error).split())
    if text and isinstance(error, PLAIN):
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")
