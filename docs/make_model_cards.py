"""Write docs/reference/models/<variant>.md: a card for each student that is in the package.

A card is made from what was recorded: mpnn_core/weights/<variant>.json by `mpnn-core eval`, and
<variant>.training.json by `mpnn-core distill`. Run from the repository's root:
python docs/make_model_cards.py
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.network import variants
from mpnn_core.training.metrics import METRICS

CARDS = Path(__file__).parent / "reference" / "models"
COMPLEXES = Path(__file__).parents[1] / "fixtures" / "complexes.json"
LOOKS_OF_CURVE = 12
WIDTH = 100


def students() -> list[mpnn.Variant]:
    """The variants that have weights of their own; a batched form is the same network."""
    return [v for v in mpnn.VARIANTS.values() if v.evaluation and v.student == v.name]


def card(variant: mpnn.Variant) -> str:
    """The model card of a student, as Markdown."""
    evaluation = variant.evaluation
    assert evaluation is not None
    path = variants.WEIGHTS / f"{variant.student}.training.json"
    record = json.loads(path.read_text("utf-8"))
    return "\n".join(
        [
            *_head(variant, evaluation),
            *_losses(evaluation),
            *_composition(evaluation),
            *_data(record),
            *_training(record),
            *_limits(variant, record),
        ]
    )


def _head(variant: mpnn.Variant, evaluation: dict[str, Any]) -> Iterator[str]:
    parameters = sum(p.numel() for p in mpnn.load_model(variant=variant.name).network.parameters())
    shape = f"{variant.encoder_layers}+{variant.decoder_layers} layers of width {variant.hidden}"
    teacher, chains = evaluation["teacher"], evaluation["sets"][variants.QUOTED]["chains"]
    yield f"# {variant.name}: {shape}, k = {variant.neighbours}"
    yield ""
    yield from paragraph(
        f"A student of {teacher['name']}: a smaller network, trained to give the same "
        f"probabilities. **It loses {variant.loss}.** The brackets are a 99 % prediction interval "
        f"for the mean loss on another {chains} chains ([how it is "
        "measured](../../explanation/evaluation.md)). **On four complexes it loses "
        f"{on_complexes(variant):.1f}.** `docs/make_model_cards.py` writes this card from the "
        "stored evaluation and training record."
    )
    yield "```python"
    yield f'model = mpnn_core.load_model("v_48_020", variant="{variant.name}")'
    yield "```"
    yield ""
    yield from table(
        ("", ""),
        [
            ("parameters", f"{parameters:,}, float32"),
            ("file", f"`mpnn_core/weights/{variant.student}.safetensors`"),
            ("sha256", f"`{evaluation['model']['sha256']}`"),
            ("teacher", f"{teacher['name']}, `{teacher['sha256']}`"),
            ("licence", "MIT, from weights under MIT (`mpnn_core/weights/LICENSE-ProteinMPNN`)"),
        ],
    )


def on_complexes(variant: mpnn.Variant) -> float:
    """Points of teacher-forced recovery lost on four complexes, as recorded."""
    recorded = json.loads(COMPLEXES.read_text("utf-8"))
    exact, own = recorded["baseline"], recorded[variant.name]
    return sum(exact[name] - own[name] for name in exact) / len(exact)


def trained_on(evaluation: dict[str, Any]) -> list[str]:
    """The chains of TS50 that are in the training set, where 2xr6A is 2xr6a_A or 2xr6_A."""
    listed = (CARDS / "training-set.tsv").read_text("utf-8").splitlines()[2:]
    names = [line.partition("\t")[0].lower() for line in listed]
    known = {name.partition("_")[0] for name in names} | {n.replace("_", "") for n in names}
    return [c for c in evaluation["sets"]["TS50"]["by_chain"]["id"] if c.lower() in known]


def _losses(evaluation: dict[str, Any]) -> Iterator[str]:
    settings = evaluation["settings"]
    yield "## What it loses"
    yield ""
    yield from paragraph(
        f"Means over chains; {settings['num_orders']} decoding orders, "
        f"{settings['num_sequences']} designs at T = {settings['temperature']}, seed "
        f"{settings['seed']}. A loss is the paired difference to the teacher, positive where the "
        "student is worse. Both intervals are of 99 %, by bootstrap over chains: one for the mean "
        "over all chains of this kind, one that predicts the mean of another sample of this size."
    )
    known = trained_on(evaluation)
    yield from paragraph(
        f"{variants.QUOTED} and the complexes chose nothing, neither a recipe nor the moment when "
        f"a training stopped. {_chosen_by(evaluation)} chose both, so the losses on it may flatter "
        f"the student. Of {variants.QUOTED}, {' and '.join(known) or 'no chain'} "
        f"{'are' if len(known) > 1 else 'is'} in the training set as well, and the families of the "
        "others were not kept out of it; those of the complexes were."
    )
    for name, of_set in evaluation["sets"].items():
        role = "chose nothing" if name == variants.QUOTED else "chose the recipes"
        yield f"**{name}** ({role}): {of_set['chains']} chains, {of_set['residues']:,} residues"
        yield ""
        rows = []
        for key, measured in of_set["metrics"].items():
            digits = 1 if METRICS[key].endswith("%") else 3
            sides = [measured["teacher"], measured["model"]]
            loss, another = measured["loss"], measured["loss_of_another_sample"]
            rows.append(
                (
                    METRICS[key],
                    *(f"{value:.{digits}f}" for value in sides),
                    f"{loss['value']:.{digits + 1}f}",
                    interval(loss, digits + 1),
                    interval(another, digits + 1),
                )
            )
            if key == "nll":
                perplexities = (f"{math.exp(value):.2f}" for value in sides)
                rows.append(("native perplexity, its exponential", *perplexities, "", "", ""))
        headings = ("metric", "teacher", "student", "loss", "mean", "another sample")
        yield from table(headings, rows, numbers=5)


def _chosen_by(evaluation: dict[str, Any]) -> str:
    """The name of the set of validation chains, which the recipes were chosen by."""
    return next(name for name in evaluation["sets"] if name != variants.QUOTED)


def _composition(evaluation: dict[str, Any]) -> Iterator[str]:
    yield "## Composition"
    yield ""
    name, of_set = variants.QUOTED, evaluation["sets"][variants.QUOTED]
    shares = of_set["composition"]
    yield f"Share of each amino acid in the native sequences and the designs of {name}, %:"
    yield ""
    rows = [
        (side, *(f"{share:.1f}" for share in shares[key]))
        for side, key in (("native", "native"), ("teacher", "teacher"), ("student", "model"))
    ]
    yield from table(("", *shares["letters"]), rows, numbers=len(shares["letters"]))


def _data(record: dict[str, Any]) -> Iterator[str]:
    corpus = record["corpus"]
    yield "## Data"
    yield ""
    yield from paragraph(
        f"{corpus['structures']:,} chains of experimental structures, {corpus['residues']:,} "
        f"residues, from {len(corpus['pdb']):,} PDB entries and a few others: single chains "
        "without their partners. No 30 % sequence cluster of them is among the validation chains, "
        "nor among ProteinMPNN's example proteins. Their names, PDB ids and clusters are in "
        "[training-set.tsv](training-set.tsv); the sha256 of the content, as "
        f"`mpnn_core.training.corpus` reads it, is `{corpus['sha256']}`."
    )


def _training(record: dict[str, Any]) -> Iterator[str]:
    before = record.get("before")
    if before:
        yield from _run("## Training, first part", before)
        yield from _run("## Training, second part, from the weights of the first", record)
    else:
        yield from _run("## Training", record)


def _run(heading: str, record: dict[str, Any]) -> Iterator[str]:
    yield heading
    yield ""
    settings = {"seed": record["seed"]} | record["recipe"]
    if "before" in record:
        settings["start"] = f"weights of sha256 {record['before']['sha256']}"
    yield from table(("setting", "value"), [(key, str(v)) for key, v in settings.items()])
    yield from table(
        ("run", ""), [(key.replace("_", " "), _shown(v)) for key, v in record["run"].items()]
    )
    curve, last = record["curve"], len(record["curve"]) - 1
    if not curve:
        return
    picked = sorted({round(last * i / (LOOKS_OF_CURVE - 1)) for i in range(LOOKS_OF_CURVE)})
    yield "KL from the teacher as it learned, in nats per residue:"
    yield ""
    rows = [("in lessons", *(f"{curve[i][2]:.3f}" for i in picked))]
    looks = {look["step"]: look.get("held_out") for look in record.get("history", [])}
    held_out = [looks.get(curve[i][0]) for i in picked]
    if all(held_out):
        name = record["student"]
        rows.append(("on validation chains", *(f"{look[name]:.3f}" for look in held_out)))
    yield from table(("step", *(str(curve[i][0]) for i in picked)), rows, numbers=len(picked))


def _limits(variant: mpnn.Variant, record: dict[str, Any]) -> Iterator[str]:
    yield "## Limits"
    yield ""
    for limit in (
        "It imitates its teacher, and no measurement found it better than its teacher.",
        "It saw single chains, some of them divided. On four complexes, which it never saw, it "
        f"loses {on_complexes(variant):.1f} points, most of them at the interfaces. Tied positions "
        "of homo-oligomers were not evaluated.",
        f"Backbones carried noise of up to {record['recipe']['noise']} Å in training.",
        "Recovery does not say whether a sequence folds; none of its designs was made in a "
        "laboratory.",
        "Where the log-probabilities of the original matter, use the variant `baseline`.",
    ):
        yield textwrap.fill(f"- {limit}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    yield ""


def paragraph(text: str) -> Iterator[str]:
    """Lines of at most `WIDTH`, and a blank one."""
    yield textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    yield ""


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0
) -> Iterator[str]:
    """A Markdown table, whose last `numbers` columns are aligned to the right, and a blank line."""
    left = len(headings) - numbers
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * left + "--:|" * numbers
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def interval(found: dict[str, Any], digits: int) -> str:
    if found["low"] is None:
        return "too few"
    return f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def main() -> None:
    CARDS.mkdir(exist_ok=True)
    for variant in students():
        path = CARDS / f"{variant.name}.md"
        path.write_text(card(variant), "utf-8")
        print(path)


if __name__ == "__main__":
    main()
