"""Inputs are regular files of a bounded size."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mpnn_core.structures.files import read_bounded


def test_a_file_within_its_bound_is_read_whole(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"ATOM")
    link.symlink_to(file)
    assert read_bounded(file, 4) == read_bounded(str(link), 4) == b"ATOM"


def test_a_file_beyond_its_bound_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(OSError, match=r"1,099,511,627,776 bytes or more; at most 1,000 are read"):
        read_bounded(file, 1000)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux has /proc")
def test_a_file_that_hides_its_size_is_bounded_as_well() -> None:
    with pytest.raises(OSError, match=r"101 bytes or more; at most 100 are read"):
        read_bounded("/proc/self/maps", 100)


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a folder", "a socket"])
def test_what_is_no_regular_file_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        path = Path("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
        with pytest.raises(OSError, match="it"):
            read_bounded(path, 10)
        return
    with pytest.raises(OSError, match=rf"it is {kind}; expected a regular file"):
        read_bounded(path, 10)


@pytest.mark.parametrize("name", ["a\0b", "no/such/file", "", "\udcff\ud800"])
def test_a_name_that_leads_to_no_file_is_an_error_of_the_system(name: str) -> None:
    with pytest.raises(OSError):
        read_bounded(name, 10)
