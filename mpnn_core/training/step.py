"""One training step: residues are gathered, the teacher predicts, every student learns.

Shapes never change, so on a GPU the networks are compiled and the whole step is one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mpnn_core.constants import UNKNOWN
from mpnn_core.network.graph import Graph
from mpnn_core.network.mpnn import MPNN
from mpnn_core.training.lessons import Lesson, Minibatch, ResidentCorpus
from mpnn_core.training.recipes import Lessons, learning_rate
from mpnn_core.training.students import Student, logits_and_states


class TrainingStep:
    """The step of a run, and the tensors that it reads and writes besides the students.

    Steps are planned and taken in blocks of up to `block`: `plan` fills in the residues and the
    learning rates of a block, `take` computes it.
    """

    def __init__(
        self,
        lessons: Lessons,
        corpus: ResidentCorpus,
        teacher: MPNN,
        students: Sequence[Student],
    ) -> None:
        self.lessons, self.corpus, self.teacher, self.students = lessons, corpus, teacher, students
        self.device = device = corpus.coords.device
        compiled = device.type == "cuda"
        self.forwards = {
            id(network): torch.compile(logits_and_states, dynamic=False, fullgraph=True)
            if compiled
            else logits_and_states
            for network in (teacher, *(s.network for s in students))
        }
        self.block = B = 200 if compiled else 10
        S = len(students)
        self.rows = torch.zeros(B, lessons.nodes, dtype=torch.int32, device=device)
        self.rates = torch.zeros(S, B, dtype=torch.float32, device=device)
        # Divergences from the teacher.
        self.losses = torch.zeros(S, B, dtype=torch.float32, device=device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=device)  # the step in its block
        self.count = torch.zeros((), dtype=torch.int64, device=device)  # the step in its run
        self.graph: torch.cuda.CUDAGraph | None = None

    def plan(self, step: int) -> None:
        """Fill in the block that begins at `step`, which depends on the seed and `step` alone."""
        lessons = self.lessons
        rows = self.corpus.plan(lessons.seed, step, self.block, lessons.nodes)
        self.rows.copy_(torch.from_numpy(rows))
        rates = [
            [learning_rate(s.recipe, step + i, lessons.steps) for i in range(self.block)]
            for s in self.students
        ]
        self.rates.copy_(torch.tensor(rates, dtype=torch.float32))
        self.cursor.zero_()
        self.count.fill_(step)

    def take(self, count: int) -> Tensor:
        """Take the first `count` steps of the block: divergences (students, count), on the CPU."""
        for _ in range(count):
            self.graph.replay() if self.graph is not None else self._compute()
        return self.losses[:, :count].cpu()  # waits for the block

    def predictions(
        self, network: MPNN, minibatch: Minibatch, graph: Graph, tokens: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, 21) and states (layers, N, H) of the teacher or a student."""
        b = minibatch.backbones
        assert graph.valid is not None
        logits, states = self.forwards[id(network)](
            network,
            b.coords,
            b.residue_index,
            b.chain,
            graph.neighbours,
            graph.valid,
            tokens,
            order,
        )
        return logits, states

    def _compute(self) -> None:
        rows = self.rows.index_select(0, self.cursor)[0].long()
        minibatch = Minibatch.of(self.corpus, rows).varied(self.lessons, self.corpus)
        graph = minibatch.graph(self.teacher.neighbours)
        lesson = self._lesson(minibatch, graph)
        for i, student in enumerate(self.students):
            student.rate.copy_(self.rates[i].index_select(0, self.cursor)[0])
            predictions = self.predictions(
                student.network, minibatch, graph, lesson.tokens, lesson.order
            )
            loss, divergence = student.loss(minibatch, *predictions, lesson)
            loss.backward()
            student.update(self.count)
            self.losses[i].index_copy_(0, self.cursor, divergence[None])
        self.cursor += 1
        self.count += 1

    def _lesson(self, minibatch: Minibatch, graph: Graph) -> Lesson:
        """A random context and order, and the teacher's predictions; keeps what it draws."""
        # Per structure.
        uniform = torch.rand(self.corpus.structures, 2, dtype=torch.float32, device=self.device)
        uniform = uniform[minibatch.structure]  # (N, 2)
        native = uniform[:, 0] < self.lessons.native
        redrawn = ~native & (torch.rand_like(uniform[:, 0]) < uniform[:, 1])
        previous = self.corpus.drawn[minibatch.rows]
        tokens = torch.where(redrawn, previous, minibatch.native)
        order = torch.rand_like(uniform[:, 0])
        # Gradients stay enabled, though the teacher needs none: with them disabled, the network
        # would compute in many small tiles.
        logits, states = self.predictions(self.teacher, minibatch, graph, tokens, order)
        log_probs = logits.log_softmax(-1)
        gumbel = -torch.empty_like(log_probs[:, :UNKNOWN]).exponential_().log()
        drawn = (log_probs[:, :UNKNOWN] + gumbel).argmax(-1)
        self.corpus.drawn[minibatch.rows] = torch.where(minibatch.present, drawn, previous)
        return Lesson(tokens, order, native, log_probs, states)

    def record(self, step: int) -> None:
        """On a GPU, record the step as a CUDA graph, once. Weights and random numbers stay."""
        if self.device.type != "cuda" or self.graph is not None:
            return
        self.plan(step)
        saved = [{k: v.clone() for k, v in s.state().items()} for s in self.students]
        drawn, random = self.corpus.drawn.clone(), torch.cuda.get_rng_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.cursor.zero_()
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._compute()
        torch.cuda.synchronize()
        with torch.no_grad():
            for student, state in zip(self.students, saved, strict=True):
                now = student.state()
                for name in now:
                    # Moments that did not exist before the first step start at 0.
                    now[name].copy_(state[name]) if name in state else now[name].zero_()
                student.gradient.zero_()
            self.corpus.drawn.copy_(drawn)
        torch.cuda.set_rng_state(random)
