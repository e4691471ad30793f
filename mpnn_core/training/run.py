"""Small students of the pretrained network: recipes, lessons, the training run.

A student learns the teacher's distribution over the 21 letters at every residue of real backbones
(Hinton et al., 2015, arXiv:1503.02531): the Kullback-Leibler divergence to the teacher, and a share
of cross-entropy to the native residue. No lesson comes twice: each has fresh backbone noise, a
random decoding order, a context that is the native sequence or a mixture of it with what the
teacher itself drew there last, and a structure that is bent a little and may be cut into several
chains or lack what lies beyond a plane. Teacher and student see the same.

The corpus lives on the device as one disjoint graph. A step takes whole structures up to a fixed
number of residues, so shapes never change: on a GPU the networks are compiled and a step, from
gathering residues to averaging weights, is one CUDA graph. Students of one run share the teacher's
work.

A run is a folder. It is cut wherever it is convenient: what was saved resumes, and resumed equals
uninterrupted.
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
from torch import Tensor

from mpnn_core.network.checkpoints import Checkpoint, build_network, load_checkpoint
from mpnn_core.network.graph import Graph
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.variants import find_variant
from mpnn_core.structures.files import write_atomically
from mpnn_core.training.corpus import Corpus
from mpnn_core.training.lessons import UNKNOWN, Batch, Lesson, ResidentCorpus, _whole_structures
from mpnn_core.training.recipes import DistillError, Lessons, Recipe, learning_rate
from mpnn_core.training.students import Student, forward

SAVE_SECONDS = 120.0


# ----------------------------------------------------------------------------- lessons


# ----------------------------------------------------------------------------- students


# ----------------------------------------------------------------------------- the run


@dataclass
class Look:
    """Where a run stands; `report` of `Run.train` gets one at every look.

    Attributes
    ----------
    divergence : student -> from the teacher, on the lessons of the last block, nats per residue
    recovery, held_out : what `Run.validate` found, if there are validation structures
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
    recipes : variant name -> recipe
    lessons : what the teacher shows
    corpus : what is learnt from
    validation : what `report` gets teacher-forced recovery on
    device : "cuda" compiles the networks and records a step as one graph; "cpu" is plain
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
        compiled = self.device.type == "cuda"
        self.forwards = {
            id(n): torch.compile(forward, dynamic=False, fullgraph=True) if compiled else forward
            for n in (self.teacher, *(s.network for s in self.students))
        }
        # What a recorded step reads and writes besides the students: the plan of a block.
        self.block = 200 if compiled else 10
        N, B = lessons.nodes, self.block
        self.rows = torch.zeros(B, N, dtype=torch.int32, device=self.device)
        self.rates = torch.zeros(len(self.students), B, device=self.device)
        self.losses = torch.zeros(len(self.students), B, device=self.device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.count = torch.zeros((), dtype=torch.int64, device=self.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    # -- one step

    def _forward(
        self, network: MPNN, batch: Batch, graph: Graph, tokens: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor]:
        b = batch.backbones
        assert graph.valid is not None
        found: tuple[Tensor, Tensor] = self.forwards[id(network)](
            network,
            b.coords,
            b.residue_index,
            b.chain,
            graph.neighbours,
            graph.valid,
            tokens,
            order,
        )
        return found

    def _lesson(self, batch: Batch, graph: Graph) -> Lesson:
        """Draws a context and an order, and asks the teacher; what it draws is kept."""
        luck = torch.rand(self.corpus.structures, 2, device=self.device)[batch.structure]  # (N, 2)
        native = luck[:, 0] < self.lessons.native
        redrawn = ~native & (torch.rand_like(luck[:, 0]) < luck[:, 1])
        tokens = torch.where(redrawn, self.corpus.drawn[batch.rows], batch.native)
        order = torch.rand_like(luck[:, 0])
        # Grad mode is left on: nothing of the teacher needs a gradient, and tiles are for no_grad.
        logits, states = self._forward(self.teacher, batch, graph, tokens, order)
        log_probs = logits.log_softmax(-1)
        gumbel = -torch.empty_like(log_probs[:, :UNKNOWN]).exponential_().log()
        drawn = (log_probs[:, :UNKNOWN] + gumbel).argmax(-1)
        self.corpus.drawn[batch.rows] = torch.where(
            batch.present, drawn, self.corpus.drawn[batch.rows]
        )
        return Lesson(tokens, order, native, log_probs, states)

    def _one_step(self) -> None:
        rows = self.rows.index_select(0, self.cursor)[0].long()
        batch = Batch.of(self.corpus, rows).varied(self.lessons, self.corpus)
        graph = batch.graph(self.teacher.neighbours)
        lesson = self._lesson(batch, graph)
        for i, student in enumerate(self.students):
            student.rate.copy_(self.rates[i].index_select(0, self.cursor)[0])
            said = self._forward(student.network, batch, graph, lesson.tokens, lesson.order)
            loss, divergence = student.loss(batch, *said, lesson)
            loss.backward()
            student.update(self.count)
            self.losses[i].index_copy_(0, self.cursor, divergence[None])
        self.cursor += 1
        self.count += 1

    def _record(self) -> None:
        """A step as one CUDA graph. Warming up changes nothing that lasts."""
        kept = [{k: v.clone() for k, v in s.state().items()} for s in self.students]
        drawn, random = self.corpus.drawn.clone(), torch.cuda.get_rng_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.cursor.zero_()
                self._one_step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._one_step()
        torch.cuda.synchronize()
        with torch.no_grad():
            for student, state in zip(self.students, kept, strict=True):
                now = student.state()
                for name in now:
                    # Moments that did not exist before the first step start at 0.
                    now[name].copy_(state[name]) if name in state else now[name].zero_()
                student.gradient.zero_()
            self.corpus.drawn.copy_(drawn)
        torch.cuda.set_rng_state(random)

    def train(
        self,
        folder: Path,
        minutes: float | None = None,
        report: Callable[[Look], None] = lambda _: None,
        pause: float = 30.0,
    ) -> bool:
        """Go on until the last step, or for so many minutes; True when the last step was done.

        Parameters
        ----------
        folder : where the run is saved, every two minutes and at the end
        minutes : stop and save after this long; a later run resumes
        report : gets a `Look` about every `pause` seconds

        Raises
        ------
        DistillError
            A loss is not finite. What was saved before stays.
        """
        begun = last_look = last_save = time.monotonic()
        looked_at, saved_seconds = self.step, self.seconds
        if self.device.type == "cuda" and self.graph is None and self.step < self.lessons.steps:
            self._plan()
            self._record()
        while self.step < self.lessons.steps:
            self._plan()
            steps = min(self.block, self.lessons.steps - self.step)
            for _ in range(steps):
                self.graph.replay() if self.graph is not None else self._one_step()
            losses = self.losses[:, :steps].cpu()  # waits for the block
            for student, row in zip(self.students, losses, strict=True):
                if not bool(torch.isfinite(row).all()):
                    at = self.step + int((~torch.isfinite(row)).nonzero()[0])
                    raise DistillError(
                        f"{student.name}: the loss of step {at} is not finite. What {folder} holds "
                        "is from before; resume with a smaller learning rate"
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

    def _plan(self) -> None:
        """The next block: its residues and its learning rates. A block's plan is its own."""
        step, lessons = self.step, self.lessons
        rows = self.corpus.plan(lessons.seed, step, self.block, lessons.nodes)
        self.rows.copy_(torch.from_numpy(rows))
        rates = [
            [learning_rate(s.recipe, step + i, lessons.steps) for i in range(self.block)]
            for s in self.students
        ]
        self.rates.copy_(torch.tensor(rates))
        self.cursor.zero_()
        self.count.fill_(step)

    # -- looking at it

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, float]]:
        """On the validation structures, whole and clean, with the averaged weights.

        One random order per structure, the same at every look.

        Returns
        -------
        teacher-forced recovery of teacher and students, and the students' divergence from the
        teacher in nats per residue, both means over structures
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
        found = {
            name: torch.zeros(len(order), 2, device=self.device)  # native letter?, divergence
            for name, _ in networks
        }
        for rows in _whole_structures(corpus, self.lessons.nodes):
            batch = Batch.of(corpus, torch.from_numpy(rows).to(self.device))
            graph = batch.graph(self.teacher.neighbours)
            taught = None
            for name, network in networks:
                with torch.enable_grad():  # the compiled networks know this mode
                    logits, _ = self._forward(
                        network, batch, graph, batch.native, order[batch.rows]
                    )
                log_probs = logits.log_softmax(-1)
                taught = log_probs if taught is None else taught
                found[name][batch.rows] = torch.stack(
                    [
                        (logits[:, :UNKNOWN].argmax(-1) == batch.native).float(),
                        (taught.exp() * (taught - log_probs)).sum(-1),
                    ],
                    1,
                )
        for student, weights in zip(self.students, trained, strict=True):
            student.weights.copy_(weights)
        means = {
            name: torch.stack([s.mean(0) for s in rows[:-1].cpu().split(sizes.tolist())]).mean(0)
            for name, rows in found.items()
        }
        recovery = {name: float(mean[0]) for name, mean in means.items()}
        divergence = {name: float(mean[1]) for name, mean in means.items() if name != "teacher"}
        return recovery, divergence

    # -- the folder

    def save(self, folder: Path) -> None:
        """Write the run: `NAME.safetensors`, what ships, `NAME.training.json` and `state/`."""
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
        """How a student was made: what a model card is written from."""
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
        """Go on from what `save` wrote. All students must be at the same step.

        Raises
        ------
        DistillError
            There is nothing saved, or it is of other students, another recipe or another corpus.
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
    """What a training record calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
