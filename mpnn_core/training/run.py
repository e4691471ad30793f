"""The training run of small students of the pretrained network.

A student learns the teacher's distribution over the 21 letters at every residue of real backbones
(Hinton et al., 2015, arXiv:1503.02531). Its loss is the Kullback-Leibler divergence from the
teacher, and a share of the cross-entropy to the native residue. No example comes twice: each has
fresh backbone noise and a random decoding order; its sequence is the native one, or a mixture of it
with residues that the teacher drew; its structure is bent a little, and may be divided into several
chains or cropped by a plane. Teacher and students get the same input.

The corpus lies on the device as one disjoint graph. A step takes whole structures up to a fixed
number of residues (step.py). The students of one run share the teacher's predictions.

A run is a folder. It can be stopped at any time and resumed from what was saved last; a resumed run
gives the same weights as an uninterrupted one.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from mpnn_core.backends.float32 import choose_kernels
from mpnn_core.constants import UNKNOWN
from mpnn_core.design.devices import find_device
from mpnn_core.network.checkpoints import (
    Checkpoint,
    build_network,
    file_sha256,
    load_checkpoint,
    weights_file,
)
from mpnn_core.network.families import PROTEIN_MPNN
from mpnn_core.network.variants import find_variant
from mpnn_core.structures.files import read_bounded, write_atomically
from mpnn_core.training.corpus import Corpus
from mpnn_core.training.lessons import Minibatch, ResidentCorpus, whole_structures
from mpnn_core.training.metrics import recovered
from mpnn_core.training.recipes import DistillError, Lessons, Recipe
from mpnn_core.training.step import TrainingStep
from mpnn_core.training.students import Student

SAVE_SECONDS = 120.0  # from one saving to the next
STATE = "state.safetensors"  # in the folder of a run
LARGEST_STATE_BYTES = 4 * 2**30


@dataclass
class Look:
    """The state of a run, which `Run.train` reports now and then.

    Attributes
    ----------
    divergence : student -> KL divergence from the teacher in the last steps, nats per residue
    recovery, held_out : the results of `Run.validate`, if there are validation structures
    """

    step: int
    steps: int
    seconds: float
    residues_per_second: float
    divergence: dict[str, float]
    recovery: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)


class Run:
    """Students, their teacher and a corpus on one device.

    Parameters
    ----------
    recipes : variant name -> recipe of its student
    lessons : how the training examples are made
    corpus : structures to train on
    validation : structures to measure teacher-forced recovery on as training goes
    device : "cuda" compiles the networks and records a step as one CUDA graph; "cpu" does neither
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        lessons: Lessons,
        corpus: Corpus,
        validation: Corpus | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not recipes:
            raise DistillError("no student was named")
        try:
            self.device = find_device(device)
        except ValueError as error:
            raise DistillError(str(error)) from None
        if self.device.type not in ("cpu", "cuda"):
            raise DistillError(f"students are trained on cpu or cuda, not on {self.device}")
        self.lessons = lessons
        for checked in (corpus, validation):
            longest = max(checked.structures, key=lambda s: s.mask.sum()) if checked else None
            if longest is not None and longest.mask.sum() > lessons.nodes:
                raise DistillError(
                    f"{longest.name} of {checked} has {longest.mask.sum()} residues and a step "
                    f"takes {lessons.nodes}; leave it out, or take more residues per step"
                )
        checkpoint = load_checkpoint(lessons.teacher)
        if checkpoint.architecture != PROTEIN_MPNN:
            raise DistillError(
                f"teacher {checkpoint.name!r} is a {checkpoint.architecture} model; students learn "
                f"from a {PROTEIN_MPNN}, which reads backbones alone"
            )
        baseline = find_variant("baseline")
        choose_kernels()
        self.teacher = build_network(checkpoint, baseline).to(self.device)
        self.source = corpus
        self.corpus = ResidentCorpus.of(corpus, self.device)
        self.validation = ResidentCorpus.of(validation, self.device) if validation else None
        torch.manual_seed(lessons.seed)
        self.students = [Student(n, r, self.teacher, self.device) for n, r in recipes.items()]
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.training_step = TrainingStep(lessons, self.corpus, self.teacher, self.students)

    def train(
        self,
        folder: Path,
        minutes: float | None = None,
        report: Callable[[Look], None] = lambda _: None,
        pause: float = 30.0,
    ) -> bool:
        """Train to the last step, or for some minutes.

        Parameters
        ----------
        folder : where the run is saved, every two minutes and at the end
        minutes : stop and save after so many; the run can be resumed
        report : called with a `Look` about every `pause` seconds

        Returns
        -------
        Whether the last step was reached.

        Raises
        ------
        DistillError
            A loss or a weight is not finite. The folder keeps what was saved before.
        """
        begun = last_look = last_save = time.monotonic()
        looked_at, saved_seconds = self.step, self.seconds
        if self.step < self.lessons.steps:
            self.training_step.record(self.step)
        while self.step < self.lessons.steps:
            self.training_step.plan(self.step)
            steps = min(self.training_step.block, self.lessons.steps - self.step)
            losses = self.training_step.take(steps)
            self._check_finite(losses, folder)
            self.step += steps
            now = time.monotonic()
            self.seconds = saved_seconds + now - begun
            over = minutes is not None and now - begun > 60 * minutes
            done = self.step >= self.lessons.steps
            if now - last_look > pause or over or done:
                rate = (self.step - looked_at) * self.lessons.nodes / max(now - last_look, 1e-9)
                look = Look(
                    self.step,
                    self.lessons.steps,
                    self.seconds,
                    rate,
                    {s.name: float(r.mean()) for s, r in zip(self.students, losses, strict=True)},
                    *(self.validate() if self.validation is not None else ({}, {})),
                )
                self.history.append(asdict(look))
                report(look)
                last_look, looked_at = time.monotonic(), self.step
            if now - last_save > SAVE_SECONDS or over or done:
                self.save(folder)
                last_save = time.monotonic()
            if over:
                break
        return self.step >= self.lessons.steps

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, float]]:
        """Recovery and divergence on the validation structures, with the averaged weights.

        The structures are whole and without noise; each has one random decoding order, the same in
        every call.

        Returns
        -------
        Teacher-forced recovery of teacher and students, as `metrics.recovery` defines it, and the
        students' KL divergence from it in nats per residue; both are means over structures.
        """
        assert self.validation is not None
        corpus = self.validation
        sizes = torch.from_numpy(corpus.sizes)
        generator = torch.Generator().manual_seed(0)
        order = torch.rand(int(sizes.sum()) + 1, generator=generator, dtype=torch.float32).to(
            self.device
        )
        networks = [("teacher", self.teacher)] + [(s.name, s.network) for s in self.students]
        trained = [s.weights.clone() for s in self.students]
        for student in self.students:
            student.weights.copy_(student.averaged)
        by_residue = {  # whether the likeliest letter is the native one; divergence
            name: torch.zeros(len(order), 2, dtype=torch.float32, device=self.device)
            for name, _ in networks
        }
        for rows in whole_structures(corpus, self.lessons.nodes):
            minibatch = Minibatch.of(corpus, torch.from_numpy(rows).to(self.device))
            graph = minibatch.graph(self.teacher.neighbours)
            taught = None
            for name, network in networks:
                with torch.enable_grad():  # the mode that the networks are compiled for
                    logits, _ = self.training_step.predictions(
                        network, minibatch, graph, minibatch.native, order[minibatch.rows]
                    )
                log_probs = logits.log_softmax(-1)
                taught = log_probs if taught is None else taught
                by_residue[name][minibatch.rows] = torch.stack(
                    [
                        torch.where(
                            minibatch.native == UNKNOWN,
                            torch.nan,
                            recovered(logits, minibatch.native).float(),
                        ),
                        (taught.exp() * (taught - log_probs)).sum(-1),
                    ],
                    1,
                )
        for student, weights in zip(self.students, trained, strict=True):
            student.weights.copy_(weights)
        means = {
            name: torch.stack(
                [s.nanmean(0) for s in values[:-1].cpu().split(sizes.tolist())]
            ).nanmean(0)
            for name, values in by_residue.items()
        }
        recovery = {name: float(mean[0]) for name, mean in means.items()}
        divergence = {name: float(mean[1]) for name, mean in means.items() if name != "teacher"}
        return recovery, divergence

    def _check_finite(self, losses: Tensor, folder: Path) -> None:
        """Refuse to go on, and so to save, once a number is not finite; `losses` are of a block."""
        for student, row in zip(self.students, losses, strict=True):
            # The weights as well: the last step of a block has no loss after it.
            found = [*torch.isfinite(row).tolist(), student.is_finite()]
            if not all(found):
                at = self.step + min(found.index(False), len(row) - 1)
                raise DistillError(
                    f"{student.name}: the loss of step {at} is not finite, or the weights after "
                    f"it. {folder} keeps what was saved before; begin another run with a smaller "
                    "learning rate"
                )

    def save(self, folder: Path) -> None:
        """Write the state to resume from, and the weights and training record of each student.

        The state is one file, STATE, so that all students are at one step in it whenever the
        process ends. NAME.safetensors and NAME.training.json follow from it; `resume` writes them
        anew.
        """
        random = torch.cuda.get_rng_state() if self.device.type == "cuda" else torch.get_rng_state()
        tensors = {"random": random, "drawn": self.corpus.drawn.to(torch.uint8)}
        for student in self.students:
            for key, value in student.state().items():
                tensors[f"{student.name}.{key}"] = value.contiguous()
        position = {"step": self.step, "seconds": self.seconds, "history": self.history}
        content = serialise(tensors, {"run": json.dumps(self._identity() | position)})
        write_atomically(folder / STATE, methodcaller("write", content))
        self._write_results(folder)

    def _write_results(self, folder: Path) -> None:
        """Write the weights of each student and its training record."""
        for student in self.students:
            name = f"{self.lessons.teacher}-{find_variant(student.name).student}"
            checkpoint = Checkpoint(
                name, student.averages(), student.network.neighbours, self.lessons.noise
            )
            record = json.dumps(self._record_of(student), indent=1).encode()
            for path, content in (
                (folder / f"{student.name}.safetensors", checkpoint.serialised()),
                (folder / f"{student.name}.training.json", record),
            ):
                write_atomically(path, methodcaller("write", content))

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on: settings, teacher, corpus, kind of device."""
        return {
            "settings": asdict(self.lessons),
            "students": {s.name: asdict(s.recipe) for s in self.students},
            "teacher": file_sha256(weights_file(self.lessons.teacher)),
            "corpus": {
                "sha256": self.source.sha256,
                "structures": len(self.source),
                "residues": self.source.residues,
            },
            "device": self.device.type,
        }

    def _record_of(self, student: Student) -> dict[str, Any]:
        """The training record of a student, from which its model card is written."""
        return {
            "student": student.name,
            "seed": self.lessons.seed,
            "recipe": {**asdict(self.lessons), **asdict(student.recipe)},
            "corpus": {
                "name": self.source.name,
                "sha256": self.source.sha256,
                "structures": len(self.source),
                "residues": self.source.residues,
                "pdb": sorted(set(self.source.pdb) - {""}),
            },
            "run": {
                "device": device_name(self.device),
                "torch": torch.__version__,
                "students": [s.name for s in self.students],
                "seconds": round(self.seconds, 1),
                "steps": self.step,
                "residues_per_second": round(
                    self.step * self.lessons.nodes / max(self.seconds, 1e-9)
                ),
            },
            "curve": [
                [p["step"], round(p["seconds"], 1), p["divergence"][student.name]]
                for p in self.history
            ],
            "history": self.history,
            **({"before": student.before} if student.before else {}),
        }

    def resume(self, folder: Path) -> None:
        """Continue from what `save` wrote, and write what a killed process left behind.

        Raises
        ------
        DistillError
            Nothing is saved, or it is damaged, or it is of other students, another recipe, teacher,
            corpus or kind of device; the message says what differs.
        """
        path = folder / STATE
        try:
            content = read_bounded(path, LARGEST_STATE_BYTES)
        except FileNotFoundError:
            names = " and ".join(repr(s.name) for s in self.students)
            raise DistillError(f"{folder} has no saved run of {names}") from None
        except OSError as error:
            raise DistillError(f"{path} is no saved run: {error.strerror}") from None
        try:
            state = deserialise(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            saved = json.loads(header["__metadata__"]["run"])
            self._check_same(folder, saved)
            for student in self.students:
                own = f"{student.name}."
                student.restore(
                    {k.removeprefix(own): v for k, v in state.items() if k.startswith(own)}
                )
            self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
            self.history = list(saved["history"])
            self.corpus.drawn.copy_(state["drawn"].long())
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(state["random"])
            else:
                torch.set_rng_state(state["random"])
        except DistillError:
            raise
        # Whatever a damaged file leads to.
        except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
            raise DistillError(f"{path} is damaged: {error!r}; begin another run") from error
        self._write_results(folder)

    def _check_same(self, folder: Path, saved: Mapping[str, Any]) -> None:
        """Raise DistillError with all that differs between a saved run and this one."""
        now = self._identity()
        if saved["corpus"]["sha256"] != now["corpus"]["sha256"]:
            raise DistillError(
                f"{folder} was begun on another corpus than {self.source}: "
                f"{saved['corpus']['structures']} structures, {saved['corpus']['residues']} "
                "residues; resume with that one"
            )
        if saved["students"].keys() != now["students"].keys():
            raise DistillError(
                f"{folder} was begun with the students {', '.join(saved['students'])}, not "
                f"{', '.join(now['students'])}; resume with those"
            )
        differing = [
            f"{where}{name} is {own.get(name)!r}, was {was.get(name)!r}"
            for where, own, was in (
                ("", now["settings"], saved["settings"]),
                *(
                    (f"{student}: ", now["students"][student], saved["students"][student])
                    for student in now["students"]
                ),
            )
            for name in own.keys() | was.keys()
            if own.get(name) != was.get(name)
        ]
        if saved["teacher"] != now["teacher"] and not differing:
            differing = [f"the weights called {self.lessons.teacher} are another file"]
        if saved["device"] != now["device"]:
            differing.append(f"the device is {now['device']}, was {saved['device']}")
        if differing:
            raise DistillError(
                f"{folder} was begun otherwise: {'; '.join(sorted(differing))}. Resume with what "
                "it was begun with, or begin another run"
            )


def device_name(device: torch.device) -> str:
    """The name of the device in a training record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
