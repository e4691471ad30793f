"""Designs of a stream of structures over several workers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from proteins import path_of, protein, rows_of

import mpnn_core as mpnn
from mpnn_core.runs.workers import Workers

STRUCTURES = [rows_of(protein("5L33"), slice(i, i + 20)) for i in range(8)]


@pytest.fixture(scope="module")
def expected():
    return mpnn.load_model().design(STRUCTURES, 2, 0.1, seed=5)


def stream(**options):
    return mpnn.design_stream(iter(STRUCTURES), ["cpu", "cpu"], 2, 0.1, 5, batch_size=2, **options)


def test_a_stream_has_the_designs_of_one_model_in_order(expected):
    found = list(stream(details=True))
    assert [d.structure.sequence for d in found] == [s.sequence for s in STRUCTURES]
    for a, b in zip(expected, found, strict=True):
        assert a.sequences == b.sequences
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)


def test_a_worker_that_is_killed_loses_nothing(expected):
    # Workers of the tests before may not have ended yet.
    others = {process.pid for process in active_children()}

    def killing():
        """Kills a worker while it still reads its weights, with two batches waiting for it."""
        for i, structure in enumerate(STRUCTURES):
            if i == 6:
                own = [p.pid for p in active_children() if p.pid not in others]
                os.kill(own[0], signal.SIGKILL)
            yield structure

    found = list(mpnn.design_stream(killing(), ["cpu", "cpu"], 2, 0.1, 5, batch_size=2))
    assert [d.sequences for d in found] == [d.sequences for d in expected]


def kill_at(place):
    """What squares numbers, and dies of 13."""

    def compute(batch):
        if 13 in batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return [(place, n * n) for n in batch]

    return compute


def lost(item, place, why):
    return (place, f"lost {item}", why)


def test_what_its_worker_dies_of_twice_is_lost_alone():
    workers = Workers(["a", "b"], kill_at, lost, "this test")
    found = list(workers.results(iter(range(20)), 3))
    assert [value for _, value, *_ in found[:13]] == [n * n for n in range(13)]
    assert found[13][1] == "lost 13" and "terminated abruptly" in found[13][2]
    assert [value for _, value, *_ in found[14:]] == [n * n for n in range(14, 20)]


def test_what_is_wrong_with_the_model_is_told():
    with pytest.raises(ValueError, match="no variant is called"):
        list(stream(variant="nonsense"))


def test_no_device_is_refused():
    with pytest.raises(ValueError, match="no device"):
        list(mpnn.design_stream(STRUCTURES, []))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_sequences": 0}, "num_sequences is 0"),
        ({"temperature": -1.0}, r"temperature is -1\.0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_wrong_call_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        mpnn.design_stream(
            iter(lambda: pytest.fail("a structure was read"), 0), ["cpu"], **arguments
        )


def test_a_structure_that_does_not_fit_is_lost_alone(expected):
    """In the middle of its batch, and of the stream."""
    short = rows_of(STRUCTURES[2], slice(0, 5))
    structures = [*STRUCTURES[:2], short, *STRUCTURES[2:]]
    constraints = mpnn.Constraints(fixed=[19])
    found = list(
        mpnn.design_stream(structures, ["cpu"], 2, 0.1, 5, constraints=constraints, batch_size=4)
    )
    lost = [d for d in found if isinstance(d, mpnn.Lost)]
    assert [d.structure.sequence for d in lost] == [short.sequence]
    assert "5L33 has the positions 0 to 4, not 19" in lost[0].reason
    assert lost[0].device == "cpu"
    designs = mpnn.load_model().design(STRUCTURES, 2, 0.1, 5, constraints)
    others = [d.sequences for d in found if not isinstance(d, mpnn.Lost)]
    assert others == [d.sequences for d in designs]


def test_what_was_read_before_an_error_is_designed(expected):
    def failing():
        yield from STRUCTURES[:3]
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        for designs in mpnn.design_stream(failing(), ["cpu"], 2, 0.1, 5, batch_size=2):
            found.append(designs.sequences)
    assert found == [d.sequences for d in expected[:3]]


def test_common_random_numbers_reach_the_workers():
    options = {"common_random_numbers": True}
    expected = mpnn.load_model().design(STRUCTURES[:2], 2, 0.1, 5, **options)
    found = mpnn.design_stream(STRUCTURES[:2], ["cpu"], 2, 0.1, 5, **options)
    assert [d.sequences for d in found] == [d.sequences for d in expected]


def run(script: Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, cwd=script.parent,
        **options,
    )  # fmt: skip


def test_the_documented_form_works_as_a_script(tmp_path):
    text = (Path(__file__).parents[1] / "docs/how-to/many-structures.md").read_text()
    [form] = [code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "_stream" in code]
    on_cpu = form.replace("cuda:0", "cpu").replace("cuda:1", "cpu")
    assert on_cpu != form, "the devices of the documented form are not those that this test knows"
    script = tmp_path / "script.py"
    script.write_text(on_cpu)
    (tmp_path / "backbones").mkdir()
    for name in ("5L33", "6MRR"):
        shutil.copy(path_of(name), tmp_path / "backbones")
    done = run(script)
    assert (done.returncode, done.stderr) == (0, "")
    expected = mpnn.load_model().design([protein("5L33"), protein("6MRR")], 8, seed=37)
    assert done.stdout.splitlines() == [
        " ".join([d.structure.name, *d.sequences]) for d in expected
    ]


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import mpnn_core as mpnn\n"
        f"structure = mpnn.read_structure({str(path_of('6MRR'))!r})\n"
        "for designs in mpnn.design_stream([structure] * 3, ['cpu', 'cpu']):\n"
        "    print(designs)\n"
    )
    done = run(script)
    assert done.returncode == 1
    assert done.stdout == "", "nothing is lost before the error"
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: the worker process of device 'cpu' ended while it started; what it printed "
        "says why. If it printed nothing, the script calls design_stream when it is imported, and "
        'each worker imports it: put the call below the line `if __name__ == "__main__":`'
    )
    assert done.stderr.count("Traceback") == 1, "the workers are quiet"


STREAM = """
import itertools, sys
from multiprocessing import active_children
import mpnn_core as mpnn

if __name__ == "__main__":
    structure = mpnn.read_structure(sys.argv[1])
    for designs in mpnn.design_stream(itertools.repeat(structure), ["cpu", "cpu"], batch_size=1):
        print(*(process.pid for process in active_children()), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(STREAM)
    command = [sys.executable, script, path_of("6MRR")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        workers = parent.stdout.readline().split()
        assert len(workers) == 2
        parent.kill()
    deadline = time.monotonic() + 20
    while (left := [pid for pid in workers if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"workers {left} outlive the process that started them"


def is_running(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # it has ended, and nobody has asked for its exit code
