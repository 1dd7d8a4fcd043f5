"""The flags of `ribs qat`."""

import argparse

from ribs.cli.commands.shared import (
    add_budget,
    add_candidates,
    add_device,
    add_model,
    add_recipe,
    add_samples,
    add_units,
)

HELP = "find bits within a budget, or take given ones, and train at them"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--data", required=True, help="a folder of train/ and val/, each with a folder for each class")
    parser.add_argument("--at", metavar="BITS", help="in place of a budget: 4, 4/8, bits.json, or a saved result")
    add_budget(parser)
    add_candidates(parser)
    add_units(parser)
    add_recipe(parser)
    add_samples(parser)
    parser.add_argument("--method", choices=("lsq", "lsq+", "pact"), default="lsq", help="default: %(default)s")
    parser.add_argument("--per-channel", action="store_true", help="a step for each output channel of weights")
    parser.add_argument("--teacher", metavar="MODEL", help="a timm name, or package.module:function")
    parser.add_argument("--teacher-checkpoint", metavar="FILE", help="its weights (default: timm's, fetched)")
    parser.add_argument("--distillation", type=float, default=1.0, help="share of the teacher (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the teacher (default: %(default)s)")
    parser.add_argument(
        "--features", metavar="NAME[=TEACHER'S],...", help="layer3,layer4=stages.3: outputs to be as the teacher's"
    )
    numbers: tuple[tuple[str, float | None, str], ...] = (
        ("--lr", 0.01, "learning rate of weights"),
        ("--step-lr", None, "of steps (default: --lr)"),
        ("--warm-up", 0.0, "epochs of rising learning rates"),
        ("--momentum", 0.9, "of the optimizer"),
        ("--weight-decay", 1e-4, "of weights"),
        ("--label-smoothing", 0.0, "of labels"),
        ("--feature-weight", 1.0, "of --features beside the rest of the loss"),
        ("--ema", None, "decay of an average of weights, which is kept in their place"),
        ("--clip", None, "largest norm of the gradients"),
        ("--dampening", 0.0, "of weights that oscillate"),
        ("--freezing", None, "frequency of oscillations from which on a weight stays"),
        ("--least-crop", 0.35, "least share of an image that a random crop shows"),
    )
    for name, value, text in numbers:
        shown = "" if value is None else " (default: %(default)s)"
        parser.add_argument(name, type=float, default=value, help=text + shown)
    parser.add_argument("--epochs", type=int, default=90, help="default: %(default)s")
    parser.add_argument("--progressive", metavar="BITS,...", help="8,5: stages with no fewer bits than these, first")
    parser.add_argument(
        "--most-skipped", type=int, default=20, help="steps in a row without finite gradients (default: %(default)s)"
    )
    parser.add_argument("--optimizer", default="momentum", help="by timm's name (default: %(default)s)")
    parser.add_argument("--augment", metavar="POLICY", help="timm's auto-augment policy, such as rand-m9-mstd0.5")
    parser.add_argument("--precision", choices=("no", "fp16", "bf16"), default="no", help="half (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="of a process (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")
    add_device(parser)
    parser.add_argument("--checkpoints", metavar="FOLDER", help="keep each epoch, to go on if interrupted")
    parser.add_argument("--out", metavar="FOLDER", help="save the result: bits, packed weights, history")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
