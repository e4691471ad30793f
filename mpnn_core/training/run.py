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
from safetensors import safe_open
from safetensors.torch import save as serialise

from mpnn_core.constants import UNKNOWN
from mpnn_core.network.checkpoints import Checkpoint, build_network, load_checkpoint
from mpnn_core.network.variants import find_variant
from mpnn_core.structures.files import write_atomically
from mpnn_core.training.corpus import Corpus
from mpnn_core.training.lessons import Minibatch, ResidentCorpus, whole_structures
from mpnn_core.training.metrics import recovered
from mpnn_core.training.recipes import DistillError, Lessons, Recipe
from mpnn_core.training.step import TrainingStep
from mpnn_core.training.students import Student

SAVE_SECONDS = 120.0  # from one saving to the next


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
        self.device = torch.device(device)
        self.lessons = lessons
        for checked in (corpus, validation):
            longest = max(checked.structures, key=lambda s: s.mask.sum()) if checked else None
            if longest is not None and longest.mask.sum() > lessons.nodes:
                raise DistillError(
                    f"{longest.name} of {checked} has {longest.mask.sum()} residues and a step "
                    f"takes {lessons.nodes}; leave it out, or take more residues per step"
                )
        checkpoint = load_checkpoint(lessons.teacher)
        baseline = find_variant("baseline")
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
            A loss is not finite. The folder keeps what was saved before.
        """
        begun = last_look = last_save = time.monotonic()
        looked_at, saved_seconds = self.step, self.seconds
        if self.step < self.lessons.steps:
            self.training_step.record(self.step)
        while self.step < self.lessons.steps:
            self.training_step.plan(self.step)
            steps = min(self.training_step.block, self.lessons.steps - self.step)
            losses = self.training_step.take(steps)
            for student, row in zip(self.students, losses, strict=True):
                if not bool(torch.isfinite(row).all()):
                    at = self.step + int((~torch.isfinite(row)).nonzero()[0])
                    raise DistillError(
                        f"{student.name}: the loss of step {at} is not finite. {folder} keeps "
                        "what was saved before; resume with a smaller learning rate"
                    )
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
        order = torch.rand(int(sizes.sum()) + 1, generator=generator).to(self.device)
        networks = [("teacher", self.teacher)] + [(s.name, s.network) for s in self.students]
        trained = [s.weights.clone() for s in self.students]
        for student in self.students:
            student.weights.copy_(student.averaged)
        by_residue = {  # whether the likeliest letter is the native one; divergence
            name: torch.zeros(len(order), 2, device=self.device) for name, _ in networks
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

    def save(self, folder: Path) -> None:
        """Write the weights of each student, its training record, and the state to resume from.

        These are NAME.safetensors, NAME.training.json and state/NAME.safetensors.
        """
        random = torch.cuda.get_rng_state() if self.device.type == "cuda" else torch.get_rng_state()
        shared = {"random": random, "drawn": self.corpus.drawn.to(torch.uint8)}
        position = {"step": str(self.step), "seconds": str(self.seconds)}
        for student in self.students:
            name = f"{self.lessons.teacher}-{find_variant(student.name).student}"
            checkpoint = Checkpoint(
                name, student.averages(), student.network.neighbours, self.lessons.noise
            )
            record = json.dumps(self._record_of(student), indent=1).encode()
            state = {k: v.contiguous() for k, v in student.state().items()}
            for path, content in (
                (folder / f"{student.name}.safetensors", checkpoint.serialised()),
                (folder / f"{student.name}.training.json", record),
                (
                    folder / "state" / f"{student.name}.safetensors",
                    serialise({**state, **shared}, position),
                ),
            ):
                write_atomically(path, methodcaller("write", content))

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
        """Continue from what `save` wrote. All students must be at the same step.

        Raises
        ------
        DistillError
            Nothing is saved, or it is of other students, another recipe or another corpus.
        """
        steps = set()
        for student in self.students:
            path = folder / "state" / f"{student.name}.safetensors"
            record_path = folder / f"{student.name}.training.json"
            if not path.is_file() or not record_path.is_file():
                raise DistillError(f"{folder} has no saved run of {student.name!r}")
            record = json.loads(record_path.read_text())
            if record["corpus"]["sha256"] != self.source.sha256:
                raise DistillError(
                    f"{folder} was begun on another corpus than {self.source}: "
                    f"{record['corpus']['structures']} structures, {record['corpus']['residues']} "
                    "residues; resume with that one"
                )
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            student.restore(state)
            steps.add(int(metadata["step"]))
            self.seconds, self.history = float(metadata["seconds"]), record["history"]
        if len(steps) > 1:
            raise DistillError(f"the students of {folder} are at different steps: {sorted(steps)}")
        self.step = steps.pop()
        self.corpus.drawn.copy_(state["drawn"].long())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"])
        else:
            torch.set_rng_state(state["random"])


def device_name(device: torch.device) -> str:
    """The name of the device in a training record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
