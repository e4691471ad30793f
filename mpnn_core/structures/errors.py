"""What is wrong with a structure, and where."""

from __future__ import annotations


def shown_chain(chain: str) -> str:
    """A chain id as messages show it: a blank one as ' '."""
    return chain if chain.strip() else repr(chain)


class StructureError(ValueError):
    """A structure that cannot be used, and where: `file`, `chain`, `residue` (None if unknown)."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        chain: str | None = None,
        residue: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.file, self.chain, self.residue = message, file, chain, residue

    def __str__(self) -> str:
        where = [self.file] if self.file is not None else []
        if self.chain is not None:
            where.append(f"chain {shown_chain(self.chain)}")
        if self.residue is not None:
            where.append(f"residue {self.residue}")
        return ": ".join([*where, self.message])
