"""Flags that several commands have."""

import argparse
from typing import Any


def add_output(parser: argparse.ArgumentParser) -> None:
    """What every command has, last."""
    parser.add_argument("--no-progress", action="store_true", help="nothing on stderr but errors and warnings")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    parser.add_argument("--config", metavar="FILE", help="JSON or YAML with flags; those given here override it")
    parser.add_argument(
        "--print-config", action="store_true", help="print these flags as such a file, and do nothing else"
    )


def add_task(parser: argparse.ArgumentParser, repeated: str = "") -> None:
    """What bits are chosen for, of what, by which loss and within what; `repeated` says what several budgets make."""
    add_model(parser)
    add_data(parser)
    add_budget(parser, repeated)
    add_candidates(parser)
    add_units(parser)
    add_recipe(parser)
    add_loss(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a timm name (resnet18), or package.module:function that returns a model")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights to load: .safetensors, or a torch file")
    parser.add_argument("--random-weights", action="store_true", help="do not fetch timm's pretrained weights")
    add_input_size(parser)


def add_saved(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("saved", metavar="FOLDER", help="what `ribs search --out` wrote")


def add_input_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input-size", metavar="CxHxW", help="size of one image (default: the model's own)")


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="a folder of images, or a torch file of tensors")


def add_samples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=1024, help="calibration samples (default: %(default)s)")


def add_batches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")


def add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-mib", type=float, default=1024, metavar="MIB", help="for what is kept (default: %(default)s)"
    )


def add_journal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", metavar="FOLDER", help="keep every measured loss, to go on after an interruption")


def add_budget(parser: argparse.ArgumentParser, repeated: str = "") -> None:
    bound = 'BOUND (or LOW..HIGH): a number, a uniform network ("4/4", "3.5/3.5"), "50% of 8/8"'
    group = parser.add_argument_group("budget, at least one of", bound + repeated)
    bounds: dict[str, Any] = {"action": "append", "default": [], "metavar": "BOUND"}
    group.add_argument("--budget-bops", **bounds, help='bit operations; "28.5 GBOPs"')
    group.add_argument("--budget-size", **bounds, help='MiB of weights; "512 KiB"')
    group.add_argument("--budget-bits", **bounds, help="mean bits, weighted by MACs")
    group.add_argument("--budget-weight-bits", **bounds, help="mean bits of the weights")
    group.add_argument("--budget-memory", **bounds, help="MiB of activations at their peak")
    group.add_argument(
        "--budget-cost",
        action="append",
        default=[],
        metavar="FILE=BOUND",
        help="costs of your own; CSV with the columns unit,weight_bits,activation_bits,cost; repeatable",
    )
    group.add_argument(
        "--accounting",
        choices=("paper", "deployment", "hawq", "ompq"),
        default="paper",
        help="what is counted (default: %(default)s); `ribs count` shows them side by side",
    )


def add_candidates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bits", default="2,3,4,5,6,7,8", help="candidate bit-widths (default: %(default)s)")
    parser.add_argument("--activation-bits", metavar="BITS", help="8: of all activations; 2,4,8: apart from weights")
    parser.add_argument(
        "--pin", action="append", default=[], metavar="UNIT=BITS", help="first=8, layer1.*=8/8; repeatable"
    )
    parser.add_argument("--allow", action="append", default=[], metavar="UNIT=BITS,...", help="fc=4,8; repeatable")
    parser.add_argument(
        "--tie", action="append", default=[], metavar="UNIT,UNIT,...", help='share bits; or "auto"; repeatable'
    )
    parser.add_argument("--target", metavar="RUNTIME", help="only bits that it honours: onnxruntime, tensorrt, ...")


def add_loss(parser: argparse.ArgumentParser) -> None:
    names = "kl-divergence, dense, embedding, language-model"
    parser.add_argument(
        "--loss",
        default="kl-divergence",
        metavar="NAME",
        help=f"{names}, or package.module:name of your own (default: %(default)s)",
    )


def add_units(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", choices=("layer", "block"), default="layer", help="default: %(default)s")
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="a layer or module left in float; patterns; repeatable",
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        choices=("minmax", "mse", "asymmetric", "residual", "repq", "repq+"),
        help="of the quantizers (default: repq+ where softmax outputs are multiplied, else mse)",
    )
