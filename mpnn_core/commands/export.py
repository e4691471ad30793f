"""`mpnn-core export`: the network as packages for another runtime."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mpnn_core.commands.options import (
    CallError,
    add_weight_options,
    check_outputs,
    load_model,
    number,
)


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    export = commands.add_parser("export", help="write the network for another runtime")
    export.add_argument(
        "runtime", choices=["coreml"], help="coreml: Apple's Core ML, one .mlpackage per length"
    )
    export.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="the folder to write DIR/NAME.mlpackage to",
    )  # fmt: skip
    add_weight_options(export)
    export.add_argument(
        "--mode", action="append", default=[], metavar="MODE",
        help="forward, encoder, decoder or level, as docs/explanation/apple.md explains; "
        "repeatable (default: forward)",
    )  # fmt: skip
    export.add_argument(
        "--buckets", type=lengths, metavar="N,N",
        help="numbers of residues to write packages for; a structure runs in the smallest that "
        "holds it (default: those of the coreml backend, 64 to 512)",
    )  # fmt: skip
    export.add_argument(
        "--precision", default="float16", metavar="NAME",
        help="float16, for the Neural Engine, or float32, exact (default: float16)",
    )  # fmt: skip
    export.set_defaults(run=run)


def lengths(text: str) -> tuple[int, ...]:
    """ "256,64" -> (64, 256)."""
    read = number(int, 1, 100_000)
    return tuple(sorted({int(read(part)) for part in text.split(",")}))


def models_alike() -> tuple[str, ...]:
    """Names of the published models that can be exported."""
    from mpnn_core.network.families import PROTEIN_MPNN, published_names

    return published_names(PROTEIN_MPNN)


def run(options: argparse.Namespace) -> int:
    """Write the packages, and print the path of each."""
    from mpnn_core.backends.contract import UnavailableError
    from mpnn_core.backends.coreml.buckets import BUCKETS
    from mpnn_core.backends.coreml.packages import LEVEL_ROWS, Export, convert

    model = load_model(options.weights, options.variant)
    if model.network.requires:
        raise CallError(
            f"packages are written of ProteinMPNN's network, and {model.name} has another one; "
            f"expected --weights {' or '.join(models_alike())}"
        )
    try:
        exports = {
            Export(mode, LEVEL_ROWS if mode == "level" else rows, options.precision)
            for mode in options.mode or ["forward"]
            for rows in options.buckets or BUCKETS
        }
        stem = f"{model.name.replace('/', '-')}-{options.variant}"
        paths = {
            options.out / f"{stem}-{export.name}.mlpackage": export
            for export in sorted(exports, key=lambda e: (e.mode, e.rows))
        }
        check_outputs([options.out], paths)
        for path, export in paths.items():
            print(convert(model.network, export, path, model.name))
    except (ValueError, UnavailableError) as error:
        raise CallError(str(error)) from None
    return 0
