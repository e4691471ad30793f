"""A structure file gives atoms: one table, whatever the format, in the order of the file.

gemmi parses both formats. What it takes without a word and this project does not (a coordinate
that is no number, a record cut short) is checked for the atoms that count: `Atoms.check`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET, THREE_LETTER_NAMES
from mpnn_core.structures.names import letter_of_four, residue_letters
from mpnn_core.structures.structure import StructureError

Say = Callable[[str], None]
"""Takes one sentence about what is left out or changed."""

LARGEST_NUMBER = 10**9
"""Residue numbers lie between minus this and this."""


class Molecule(NamedTuple):
    """Atoms that a file keeps together."""

    block: int  # how many END records stand before it
    name: str  # the segment in PDB, the label_asym_id in mmCIF
    ended: bool  # by a TER


@dataclass(frozen=True, eq=False)
class Atoms:
    """The atoms of the first model of a file, in its order; A is how many there are.

    Attributes
    ----------
    chain : (A,) bytes, as all text here: the author's chain id, " " where it is blank
    molecule : (A,) int64, equal for atoms that the file keeps together: between two TER or END
        records or changes of the segment in PDB, and with one label_asym_id in mmCIF
    molecules : what is known of each molecule
    number : (A,) int64, the author's residue number
    icode : (A,) bytes, the insertion code, "" for none
    place : (A,) int64, the place in the chain's full sequence (label_seq_id), 0 where unknown
    residue : (A,) bytes, the residue's name
    hetero : (A,) bool, a HETATM record
    altloc : (A,) bytes, the label of alternative conformations, "" for none
    atom : (A,) bytes, the atom's name
    element : (A,) int64, the atomic number: 1 for deuterium, 0 where unknown
    xyz : (A, 3) float64, Å; NaN where unknown
    occupancy : (A,) float64
    where : of the number of an atom, where in the file it is: "line 12"
    check : raises StructureError if one of these atoms (n,) int64 has an unreadable field
    """

    chain: NDArray[np.bytes_]
    molecule: NDArray[np.int64]
    molecules: Sequence[Molecule]
    number: NDArray[np.int64]
    icode: NDArray[np.bytes_]
    place: NDArray[np.int64]
    residue: NDArray[np.bytes_]
    hetero: NDArray[np.bool_]
    altloc: NDArray[np.bytes_]
    atom: NDArray[np.bytes_]
    element: NDArray[np.int64]
    xyz: NDArray[np.float64]
    occupancy: NDArray[np.float64]
    where: Callable[[int], str]
    check: Callable[[NDArray[np.int64]], None]

    def readable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) bool: which of these atoms (n,) int64 have a finite position and no fault."""
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            known = np.asarray(np.isfinite(self.xyz[rows].astype(np.float32)).all(1))
        try:
            self.check(rows)
        except StructureError:
            for n, row in enumerate(rows.tolist()):
                try:
                    self.check(np.array([row]))
                except StructureError:
                    known[n] = False
        return known

    def of_chains(self, chains: Iterable[str]) -> Atoms:
        """The atoms of some chains alone."""
        rows = np.flatnonzero(np.isin(self.chain, [chain.encode() for chain in chains]))
        arrays: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(
            self,
            **arrays,
            where=lambda row: self.where(int(rows[row])),
            check=lambda some: self.check(rows[some]),
        )


def read_atoms(text: str, say: Say) -> Atoms:
    """The atoms of a PDB or mmCIF text, whose content says which it is."""
    return _mmcif_atoms(text, say) if _is_mmcif(text) else _pdb_atoms(text, say)


def _is_mmcif(text: str) -> bool:
    """Whether the first line that is no comment opens a data block, or a line is a tag of atoms."""
    first = _FIRST_WORD.match(text)
    opens = first is not None and first[1].lower().startswith("data_")
    return opens or "\n_atom_site." in text


_FIRST_WORD = re.compile(r"(?:\s+|#[^\n]*\n)*+(\S{0,6})")


# ---------------------------------------------------------------------------------------- PDB


def _pdb_atoms(text: str, say: Say) -> Atoms:
    import gemmi

    records = _Records(text, say)
    try:
        flat = gemmi.FlatStructure(gemmi.read_pdb_string(records.for_parser()))
    except (ValueError, RuntimeError) as error:
        raise StructureError(f"not read: {error}") from None
    A = len(records.lines)
    if len(flat.pos) != A:
        raise StructureError(f"{A} atom records, of which the parser reads {len(flat.pos)}")
    chain, icode = _text(flat.chain_ids), _text(flat.icodes[:, None])
    chain[chain == b""] = b" "
    icode[icode == b" "] = b""
    return Atoms(
        chain,
        records.molecules,
        records.of_molecules,
        flat.resnums.astype(np.int64),
        icode,
        np.zeros(A, np.int64),
        _text(flat.residue_names),
        flat.het_flags == ord("H"),
        _text(flat.altlocs[:, None]),
        _text(flat.atom_names),
        records.elements(flat.elements),
        flat.pos,
        flat.occ.astype(np.float64),
        lambda row: f"line {records.lines[row]}",
        records.check,
    )


def _text(characters: Any) -> NDArray[np.bytes_]:
    """(A, n) characters as (A,) bytes."""
    rows = np.array(characters, np.int8, order="C")
    return rows.view(f"S{rows.shape[1]}")[:, 0]


WIDTH = 80
"""Columns of a PDB record."""

_ATOM, _NAME, _CHAIN, _NUMBER = slice(12, 16), slice(17, 21), slice(21, 22), slice(22, 26)
_RESIDUE = slice(17, 27)  # name, chain, number, insertion code
_BLANK, _XYZ, _OCCUPANCY = slice(27, 30), slice(30, 54), slice(54, 60)
_SEGMENT, _ELEMENT, _CHARGE = slice(72, 76), slice(76, 78), slice(78, 80)

_DEUTERIUM = 119
"""What gemmi numbers deuterium, after the elements."""


# The usual form of columns 23 to 60: a residue's number and insertion code, coordinates and an
# occupancy. In the columns # are spaces, then a minus or none, then digits.
_SPACE, _MINUS, _DIGIT, _POINT, _OTHER = 1, 2, 4, 8, 16
_KINDS = np.full(256, _OTHER, np.uint8)  # of characters
_KINDS[list(b"0123456789")] = _DIGIT
_KINDS[list(b" -.")] = _SPACE, _MINUS, _POINT
_NUMBER_FORM = "###d?sss" + "###d.ddd" * 3 + "##d.dd"
_ALLOWED = {"d": _DIGIT, "s": _SPACE, ".": _POINT, "#": _SPACE | _MINUS | _DIGIT, "?": 31}
_EXPECTED = np.array([_ALLOWED[kind] for kind in _NUMBER_FORM], np.uint8)
_FREE = np.array([kind == "#" for kind in _NUMBER_FORM])


class _Records:
    """The atom records of the first model of a PDB file, and what divides them.

    Attributes
    ----------
    lines : (A,) the number of each atom's line
    molecules, of_molecules : `molecule` and `molecules` of `Atoms`
    """

    def __init__(self, text: str, say: Say) -> None:
        _check_columns(text)
        self._file = text.encode("ascii", "replace").split(b"\n")
        table = np.array(self._file, f"S{WIDTH}")  # a row a line, cut or filled with zeros
        kinds = table.astype("S6")
        head, three = kinds.astype("S4"), kinds.astype("S3")
        every = _atom_lines(table, head)
        if not len(every):  # in small letters?
            kinds = np.char.upper(kinds)
            head, three = kinds.astype("S4"), kinds.astype("S3")
            every = _atom_lines(table, head)
        if not len(every):
            first = next(line for line in text.split("\n") if line.strip())
            raise StructureError(
                "not a structure: neither PDB atom records nor an mmCIF data block; it begins with "
                f"{first[:60]!r}"
            )
        models, ends_of_models = np.flatnonzero(head == b"MODE"), np.flatnonzero(kinds == b"ENDMDL")
        ends = np.flatnonzero((three == b"END") & (kinds != b"ENDMDL"))
        dividers = np.sort(np.concatenate([np.flatnonzero(three == b"TER"), ends]))
        self._check_whole(every, kinds, models, ends_of_models, ends, dividers)

        # The first model ends at the first ENDMDL, or where a second one begins.
        last = min([*ends_of_models[:1], *models[1:2], len(table)])
        atoms = every[every < last]
        if not len(atoms):
            raise StructureError("not a structure: the first model has no atoms")
        count = max(len(models), len(ends_of_models))
        if count > 1:
            say(f"the first of {count} models is read")
        self.lines = atoms + 1
        self._table = table[atoms].view(np.uint8).reshape(len(atoms), WIDTH)
        self._table[self._table == 0] = ord(" ")
        self._fill_occupancies()
        self._name_residues()
        count = int(np.searchsorted(dividers, last))
        self._divide(np.searchsorted(dividers, atoms), np.searchsorted(ends, atoms), count)

    def _check_whole(
        self,
        atoms: NDArray[np.int64],
        kinds: NDArray[np.bytes_],
        models: NDArray[np.int64],
        ends_of_models: NDArray[np.int64],
        ends: NDArray[np.int64],
        dividers: NDArray[np.int64],
    ) -> None:
        """Raise StructureError if the file is cut short."""
        if len(models) and models[-1] > max(ends_of_models, default=-1) and not len(ends):
            raise StructureError(
                f"truncated: the model begun on line {models[-1] + 1} is not ended; fetch the file "
                "again, or, if it is complete, add a line ENDMDL"
            )
        closed = max(dividers, default=-1) > atoms[-1] or bool(
            np.isin(kinds[atoms[-1] :], [b"ENDMDL", b"CONECT", b"MASTER"]).any()
        )
        if not closed and (kinds == b"HEADER").any() and (kinds == b"SEQRES").any():
            raise StructureError(
                "truncated: a PDB entry with no TER or END after its last atom; fetch it again, "
                "or, if it is complete, add a line END"
            )
        # A file may lack its last newline. Its last record is cut if all others are longer.
        last = self._file[-1]
        cut = bool(last) and (b"ATOM".startswith(last) or b"HETATM".startswith(last))
        if last.strip() and atoms[-1] == len(self._file) - 1:
            widths = [len(self._file[n].rstrip()) for n in atoms.tolist()]
            cut |= widths[-1] < min(widths[:-1], default=0)
        if cut:
            raise StructureError(
                f"truncated: line {len(self._file)} is cut short: {last.decode()!r}; fetch the "
                "file again, or, if it is complete, add the end of its last line"
            )

    def _fill_occupancies(self) -> None:
        blank = (self._table[:, _OCCUPANCY] == ord(" ")).all(1)
        self._table[blank, _OCCUPANCY] = np.frombuffer(b"  1.00", np.uint8)

    def _name_residues(self) -> None:
        """Residue names of four letters, which the parser would divide, and chain ids of two.

        Force fields write NMET or CYS2, into the column before the chain's. A chain id has two
        letters where every record has the first of them, and the residue's name is known without.
        """
        letters = residue_letters()
        table = self._table
        fourth = table[:, _NAME.stop - 1]
        longer = np.flatnonzero(fourth != ord(" "))
        if not len(longer):
            return
        names = np.char.upper(table[longer, _NAME].copy().view("S4")[:, 0])
        chains = table[:, 21]
        of_one_letter = set(chains[fourth == ord(" ")].tolist())
        for name in set(names.tolist()):
            text = name.decode().strip()
            rows = longer[names == name]
            known = text[:3].strip() in letters
            if known and text not in letters:
                rows = rows[[chain in of_one_letter for chain in chains[rows].tolist()]]
            letter = letter_of_four(text)
            three = name[:3] if letter is None else _THREE[letter].encode()
            table[rows, _NAME] = np.frombuffer(three + b" ", np.uint8)

    def _divide(self, dividers: NDArray[np.int64], blocks: NDArray[np.int64], count: int) -> None:
        """Molecules, from segments and from how many TER and END records stand before each atom
        and in all."""
        table = self._table
        segments = table[:, _SEGMENT].copy().view("S4")[:, 0]
        first = np.zeros(len(table), bool)  # of a run of atoms of one residue
        first[:1] = True
        first[1:] = (table[1:, _RESIDUE] != table[:-1, _RESIDUE]).any(1)
        one_chain = np.zeros(len(table), bool)
        one_chain[1:] = table[1:, 21] == table[:-1, 21]
        change = np.zeros(len(table), bool)
        change[1:] = dividers[1:] != dividers[:-1]
        change[1:] |= one_chain[1:] & (segments[1:] != segments[:-1])
        # A division within a residue is none.
        runs = np.cumsum(first) - 1
        divided = np.bincount(runs[change & first], minlength=runs[-1] + 1) > 0
        self.molecules = np.cumsum(divided)[runs].astype(np.int64)
        starts = np.flatnonzero(np.diff(self.molecules, prepend=-1))
        ends = np.append(starts[1:], len(table)) - 1
        ended = np.append(dividers, count)[ends + 1] > dividers[ends]
        names = [segment.decode().strip() for segment in segments[starts].tolist()]
        self.of_molecules = [
            Molecule(*parts)
            for parts in zip(blocks[starts].tolist(), names, ended.tolist(), strict=True)
        ]
        self._runs = runs

    def for_parser(self) -> bytes:
        """The records as gemmi is to read them.

        It joins what has one residue number and one segment, wherever it stands; a segment for
        every run of atoms keeps the order of the file. A charge, which is not used, could be one
        that it refuses.
        """
        table = self._table.copy()
        rest = self._runs.copy()
        for column in range(_SEGMENT.start, _SEGMENT.stop):
            table[:, column] = ord("0") + rest % 64
            rest //= 64
        table[:, _CHARGE] = ord(" ")
        lines = np.full((len(table), WIDTH + 1), ord("\n"), np.uint8)
        lines[:, :WIDTH] = table
        return lines.tobytes()

    def elements(self, parsed: Any) -> NDArray[np.int64]:
        """(A,) atomic numbers, from what gemmi says of a record: the element, or if its columns
        are blank what the name says by the column that it begins in. Programs that write no
        elements may write an ion's name, which is its residue's, in any column."""
        elements = np.where(parsed == _DEUTERIUM, 1, parsed).astype(np.int64)
        table = self._table
        blank = np.flatnonzero((table[:, _ELEMENT] == ord(" ")).all(1))
        if len(blank):
            name, residue = (
                np.char.strip(table[blank, columns].copy().view(f"S{columns.stop - columns.start}"))
                for columns in (_ATOM, _NAME)
            )
            for n in np.flatnonzero(name == residue).tolist():
                number = _ion(name[n, 0].decode())
                if number:
                    elements[blank[n]] = number
        return elements

    def check(self, rows: NDArray[np.int64]) -> None:
        """Raise StructureError if a number of one of these atoms is none."""
        rows = rows[~self._is_ordinary[rows]]
        if not len(rows):
            return
        table = self._table[rows]
        fields = ((_XYZ, 8, float), (_OCCUPANCY, 6, float), (_NUMBER, 4, int))
        try:
            numeric = table[:, _NUMBER.start : _OCCUPANCY.stop]
            if (table[:, _BLANK] != ord(" ")).any() or (numeric == ord("_")).any():
                raise ValueError
            for field, width, kind in fields:
                np.ascontiguousarray(table[:, field]).view(f"S{width}").astype(kind)
        except ValueError:
            for row in rows.tolist():
                self._check_line(self._line(row), int(self.lines[row]))

    @cached_property
    def _is_ordinary(self) -> NDArray[np.bool_]:
        """(A,) bool: whether a record has all its numbers in the usual form, as "  -1.234"."""
        columns = slice(_NUMBER.start, _OCCUPANCY.stop)
        kinds = _KINDS.take(np.ascontiguousarray(self._table[:, columns]))
        bad = kinds & _EXPECTED == 0
        before, after = kinds.reshape(-1)[:-1], kinds.reshape(-1)[1:]
        falls = np.zeros(kinds.size, bool)  # from a column to the next
        falls[:-1] = (before > after) | ((before == _MINUS) & (after == _MINUS))
        bad |= falls.reshape(kinds.shape) & _FREE
        if not bad.any():  # as in most files, and faster
            return np.ones(len(kinds), bool)
        good: NDArray[np.bool_] = ~bad.any(1)
        return good

    def _check_line(self, line: str, n: int) -> None:
        if len(line.rstrip()) < _XYZ.stop:
            raise StructureError(
                f"line {n}: truncated within its coordinates: {line!r}; fetch the file again",
                **_place(line),
            )
        fields = [("coordinate", start, start + 8) for start in range(30, 54, 8)]
        for name, start, stop in [*fields, ("occupancy", 54, 60)]:
            value = line[start:stop]
            try:
                float("none" if "_" in value else value or "1")
            except ValueError:
                if name == "occupancy" and not value.strip():
                    continue
                raise StructureError(
                    f"line {n}: unreadable {name} {value!r} in columns {start + 1} to {stop}; "
                    "expected a number; if another field is too wide, the columns are shifted",
                    **_place(line),
                ) from None
        if not _HYBRID_36.fullmatch(line[_NUMBER]):
            raise StructureError(
                f"line {n}: unreadable residue number {line[_NUMBER]!r} in columns 23 to 26; "
                "expected a number, or from 10,000 on hybrid-36 (A000)",
                **_place(line),
            )

        if line[_BLANK].strip():
            raise StructureError(
                f"line {n}: {line[_BLANK]!r} in columns 28 to 30, which are blank; another "
                "field is too wide, and the columns are shifted",
                **_place(line),
            )

    def _line(self, row: int) -> str:
        return self._file[self.lines[row] - 1].decode()


def _atom_lines(table: NDArray[np.bytes_], head: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """The lines that are atom records: ATOM or HETATM, and then a space or a serial number."""
    fifth = table.view(np.uint8).reshape(len(table), WIDTH)[:, 4]
    is_record = (fifth == ord(" ")) | ((fifth >= ord("0")) & (fifth <= ord("9")))
    return np.flatnonzero(((head == b"ATOM") & is_record) | (head == b"HETA"))


def _place(line: str) -> dict[str, Any]:
    """The chain and the residue of a record, for an error."""
    return {"chain": line[21:22] or None, "residue": line[22:27].strip() or None}


def _check_columns(text: str) -> None:
    """Raise StructureError for an atom record whose columns are not those that one sees."""
    if text.isascii() and "\t" not in text:
        return
    found = _NO_COLUMN.search(text)
    if found:
        n = text.count("\n", 0, found.start()) + 1
        raise StructureError(
            f"line {n}: {found[0][-1]!r} in column {len(found[0])}; the records of a PDB file are "
            "ASCII in fixed columns, filled with spaces"
        )


_NO_COLUMN = re.compile(r"^(?:ATOM|HETA)[^\n]{0,49}?[^\x00-\x08\x0a-\x7f]", re.MULTILINE)
_HYBRID_36 = re.compile(r" *-?\d+ *|[A-Z][0-9A-Z]{3}")
_THREE = dict(zip(ALPHABET, (*THREE_LETTER_NAMES, "UNK"), strict=True))


# -------------------------------------------------------------------------------------- mmCIF


def _mmcif_atoms(text: str, say: Say) -> Atoms:
    import gemmi

    if not text.isascii():  # its names are; what its remarks are written in does not matter
        text = text.encode("ascii", "replace").decode()
    try:
        document = gemmi.cif.read_string(text)
        blocks = [block for block in document if block.find_values("_atom_site.Cartn_x")]
        categories = [block.get_mmcif_category("_atom_site") for block in blocks[:1]]
    except (ValueError, RuntimeError) as error:
        raise StructureError(_mmcif_fault(str(error))) from None
    _check_mmcif_whole(text)
    if not blocks:
        raise StructureError("not a structure: an mmCIF without _atom_site.Cartn_x")
    if len(blocks) > 1:
        names = ", ".join(block.name for block in blocks)
        say(f"the first of {len(blocks)} data blocks with atoms is read, {blocks[0].name}: {names}")
    if not categories[0]:
        raise StructureError("not mmCIF: the loop of _atom_site has columns of another category")
    sites = _Sites(categories[0])
    if sites.models > 1:
        say(f"the first of {sites.models} models is read")
    return sites.atoms()


def _mmcif_fault(error: str) -> str:
    """What the parser says, in our words where they say more."""
    told = re.sub(r"^string(?::(\d+))?\S*", lambda m: f"line {m[1]}" if m[1] else "", error).strip()
    loop = re.search(r"Wrong number of values in loop (\S+)\.", error)
    if loop:
        return (
            f"truncated: the {loop[1]} loop ends within a row, or a value in it lacks its quotes; "
            f"if it is cut short, fetch the file again ({told})"
        )
    return f"truncated, or not mmCIF: {told}"


def _check_mmcif_whole(text: str) -> None:
    """Raise StructureError for an entry of the wwPDB that is cut short between two rows."""
    # Such an entry closes every category with a "#" line.
    if "_database_2.database_id" in text and "\n#" in text:
        last = text.rstrip().rpartition("\n")[2].strip()
        if last != "#":
            raise StructureError(
                f"truncated: a PDB entry that ends in {last[:40]!r}, not '#'; fetch it again, or, "
                "if it is complete, add a line #"
            )


class _Sites:
    """The _atom_site category of an mmCIF block; the author's names where a row has them."""

    def __init__(self, category: dict[str, list[Any]]) -> None:
        # None is "?", unknown, and False is ".", not applicable.
        columns = {key.lower(): values for key, values in category.items()}
        rows = len(next(iter(columns.values())))
        model = columns.get("pdbx_pdb_model_num", [None] * rows)
        self.models = len(set(model))
        if self.models > 1:
            columns = {
                key: [v for v, m in zip(values, model, strict=True) if m == model[0]]
                for key, values in columns.items()
            }
        self._columns = columns
        self._rows = len(next(iter(columns.values())))
        self._faults: dict[int, str] = {}

    def atoms(self) -> Atoms:
        label_asym = self._strings("label_asym_id", "auth_asym_id", default=" ")
        chain = self._strings("auth_asym_id", "label_asym_id", default=" ")
        number, icode = self._numbers()
        keys, molecule = np.unique(label_asym, return_inverse=True)
        return Atoms(
            chain,
            molecule.astype(np.int64),
            [Molecule(0, key.decode(), ended=False) for key in keys.tolist()],
            number,
            icode,
            self._places(),
            self._strings("label_comp_id", "auth_comp_id"),
            self._strings("group_pdb", default="ATOM") == b"HETATM",
            self._strings("label_alt_id"),
            self._strings("label_atom_id", "auth_atom_id"),
            self._elements(),
            np.stack([self._floats(f"cartn_{axis}", np.nan) for axis in "xyz"], axis=1),
            self._floats("occupancy", 1.0),
            lambda row: f"row {row + 1} of _atom_site",
            self._check,
        )

    def _values(self, *names: str) -> list[Any]:
        """In each row, the value of the first of the columns that has one."""
        present = [self._columns[name] for name in names if name in self._columns]
        if not present:
            return [None] * self._rows
        first, *others = present
        if not others or all(first):
            return first
        return [next((v for v in row if v), None) for row in zip(*present, strict=True)]

    def _strings(self, *names: str, default: str = "") -> NDArray[np.bytes_]:
        values = self._values(*names)
        kinds = set(values)
        if not all(kinds):
            values = [value or default for value in values]
        try:
            if len(kinds) == 1:  # as in most files whole columns are
                return np.full(self._rows, (kinds.pop() or default).encode("ascii"))
            return np.array(values, dtype=np.bytes_)
        except UnicodeEncodeError as error:
            raise StructureError(
                f"{error.object!r} in _atom_site.{names[0]}; the names of mmCIF are ASCII"
            ) from None

    def _elements(self) -> NDArray[np.int64]:
        """Atomic numbers, from the symbol, or from the name where there is none."""
        symbols = self._columns.get("type_symbol", [None] * self._rows)
        number: dict[Any, int] = {symbol: _atomic_number(symbol) for symbol in set(symbols)}
        elements = np.array([number[symbol] for symbol in symbols], np.int64)
        blank = [row for row, symbol in enumerate(symbols) if not symbol]
        if blank:
            names = self._values("label_atom_id", "auth_atom_id")
            residues = self._values("label_comp_id", "auth_comp_id")
            elements[blank] = [_element_of(names[row] or "", residues[row] or "") for row in blank]
        return elements

    def _floats(self, name: str, default: float) -> NDArray[np.float64]:
        if name not in self._columns:
            return np.full(self._rows, default)
        values = self._columns[name]
        unknown = not all(values)
        if unknown:
            values = [value or None for value in values]
        try:
            numbers = np.array(values, dtype=np.float64)
        except ValueError:
            numbers = np.array([self._float(v, name, r) for r, v in enumerate(values)])
        if unknown:
            numbers[[value is None for value in values]] = default
        return numbers

    def _float(self, value: str | None, name: str, row: int) -> float:
        if value is None:
            return np.nan
        try:
            return float(_UNCERTAINTY.sub("", value))
        except ValueError:
            kind = "occupancy" if name == "occupancy" else "coordinate"
            self._faults[row] = f"unreadable {kind} {value!r}; expected a number"
            return np.nan

    def _numbers(self) -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
        """Residue numbers and insertion codes; the author's number may end in the code itself."""
        values = list(self._values("auth_seq_id", "label_seq_id"))
        icodes = np.char.strip(self._strings("pdbx_pdb_ins_code"))
        try:
            numbers = np.array(values, dtype=np.int64)
        except (ValueError, TypeError, OverflowError):
            numbers = np.zeros(self._rows, np.int64)
            codes = icodes.tolist()
            for row, value in enumerate(values):
                match = _AUTHOR_NUMBER.fullmatch(value or "")
                if match is None:
                    self._faults[row] = (
                        f"unreadable residue number {value!r}; expected a number, with a letter "
                        "after it or none"
                        if value
                        else "no residue number: auth_seq_id and label_seq_id are unknown"
                    )
                elif abs(int(match[1])) > LARGEST_NUMBER:
                    self._faults[row] = f"residue number {value[:20]} is out of range"
                else:
                    numbers[row] = int(match[1])
                    codes[row] = codes[row] or match[2].encode()
            icodes = np.array(codes, dtype=np.bytes_)
        for row in np.flatnonzero(np.abs(numbers) > LARGEST_NUMBER).tolist():
            self._faults[row] = f"residue number {numbers[row]} is out of range"
        return numbers, icodes

    def _places(self) -> NDArray[np.int64]:
        values = self._columns.get("label_seq_id", [])
        digits = [
            value if value and value.isascii() and value.isdigit() else "0" for value in values
        ]
        if not digits or max(map(len, digits)) > 9:
            return np.zeros(self._rows, np.int64)
        return np.array(digits, dtype=np.int64)

    def _check(self, rows: NDArray[np.int64]) -> None:
        for row in self._faults.keys() & set(rows.tolist()) if self._faults else ():
            value = {name: values[row] for name, values in self._columns.items()}
            raise StructureError(
                f"row {row + 1} of _atom_site: {self._faults[row]}",
                chain=value.get("auth_asym_id") or value.get("label_asym_id") or None,
                residue=value.get("auth_seq_id") or value.get("label_seq_id") or None,
            )


def _atomic_number(symbol: str | None) -> int:
    """The atomic number of an element's symbol, 0 if it is none."""
    import gemmi

    number: int = gemmi.Element(symbol).atomic_number if symbol and len(symbol) < 3 else 0
    return number


# What CHARMM calls ions whose names do not begin with their symbols.
_CHARMM_IONS = {"SOD": "Na", "POT": "K", "CLA": "Cl", "CAL": "Ca", "CES": "Cs", "CAD": "Cd"}


def _ion(name: str) -> int:
    """The atomic number of an ion, by the name that is its residue's too, as CA, CL- or SOD."""
    letters = name.upper().rstrip("+-0123456789")
    return _atomic_number(_CHARMM_IONS.get(letters, letters))


def _element_of(name: str, residue: str) -> int:
    """The atomic number that the name of an atom says, 0 if none, where no column tells.

    CA is a carbon, as most atoms of this name are: a symbol of two letters counts in the name of an
    ion, and where no atom of an organic molecule begins with its first.
    """
    if name == residue and _ion(name):
        return _ion(name)
    letters = (re.match(r"[0-9'\"*]*([A-Za-z]*)", name) or [name, ""])[1].upper()
    if letters[:2] in ("CL", "BR") or letters[:1] not in ("H", "C", "N", "O", "P", "S"):
        return _atomic_number(letters[:2]) or _atomic_number(letters[:1])
    return _atomic_number(letters[:1])


_UNCERTAINTY = re.compile(r"\(\d+\)$")  # 1.234(5)
_AUTHOR_NUMBER = re.compile(r"([-+]?\d+)([A-Za-z]?)", re.ASCII)
