"""The `ribs` command. It parses first and imports torch only when a command runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

DONE, USAGE, INFEASIBLE, INTERRUPTED = 0, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 when done, 2 for bad usage or input, 3 for a budget that cannot be met."""
    arguments = _parser().parse_args(argv)
    try:
        import_module(f"ribs.cli.{arguments.command}").run(arguments)
    except KeyboardInterrupt:
        journal = getattr(arguments, "journal", None)
        rest = f"the same command goes on from {journal}" if journal else "nothing was written"
        print(f"ribs: interrupted; {rest}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if not isinstance(error, (ValueError, TypeError, OSError, ImportError)):
            raise
        print(f"ribs: {error}", file=sys.stderr)
        return INFEASIBLE if type(error).__name__ == "InfeasibleBudgetError" else USAGE
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ribs", description="Choose the bit-width of every layer of a trained network under a budget."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_search(commands.add_parser("search", help="find the best bits of a network within a budget"))
    _add_sweep(commands.add_parser("sweep", help="the best bits of a network at each of many budgets"))
    _add_evaluate(commands.add_parser("evaluate", help="top-1 accuracy of a saved result on labelled images"))
    _add_report(commands.add_parser("report", help="a page of HTML about a saved result"))
    _add_compare(commands.add_parser("compare", help="ribs beside other ways to choose bits, at the same budgets"))
    _add_count(commands.add_parser("count", help="MACs, bit operations and size of a network"))
    _add_demo(commands.add_parser("demo", help="the main job on a small network and real digits, offline"))
    _add_reproduce(commands.add_parser("reproduce", help="a row of the paper, beside its published figures"))
    return parser


def _add_search(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--data", required=True, help="a folder of images, or a torch file of tensors")
    _add_budget(parser)
    _add_candidates(parser)
    _add_units(parser)
    _add_recipe(parser)
    _add_loss(parser)
    parser.add_argument(
        "--algorithm", choices=("adaptive", "paper"), default="adaptive", help="paper: Algorithm 1 of RIBS as written"
    )
    parser.add_argument("--iterations", type=int, help="programs solved (default: 1.5 a unit; 10 of paper)")
    parser.add_argument("--update-size", type=int, metavar="M", help="units changed at first (paper: after the first)")
    parser.add_argument("--samples", type=int, default=1024, help="calibration samples (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument(
        "--profile", choices=("full", "race"), default="full", help="race: measure hopeless candidates on fewer samples"
    )
    parser.add_argument(
        "--execution", choices=("float32", "int8"), default="float32", help="int8: products of integers, on CPUs"
    )
    parser.add_argument("--max-seconds", type=float, metavar="S", help="return the best found in about this time")
    parser.add_argument(
        "--cache-mib", type=float, default=1024, metavar="MIB", help="for what is kept (default: %(default)s)"
    )
    parser.add_argument("--journal", metavar="FOLDER", help="keep every measured loss, to go on after an interruption")
    parser.add_argument("--out", metavar="FOLDER", help="save the result: bits, packed weights, history")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--no-progress", action="store_true", help="no bars")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--data", required=True, help="a folder of images, or a torch file of tensors")
    _add_budget(parser, "; repeated, it makes several budgets")
    _add_candidates(parser)
    _add_units(parser)
    _add_recipe(parser)
    _add_loss(parser)
    parser.add_argument("--proposals", type=int, metavar="N", help="configurations measured (default: 8 a unit)")
    parser.add_argument("--samples", type=int, default=1024, help="calibration samples (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="return the best found in about this time")
    parser.add_argument(
        "--cache-mib", type=float, default=1024, metavar="MIB", help="for what is kept (default: %(default)s)"
    )
    parser.add_argument("--journal", metavar="FOLDER", help="keep every measured loss, to go on after an interruption")
    parser.add_argument("--out", metavar="FILE", help="save the points (.json, .csv)")
    parser.add_argument("--plot", metavar="FILE", help="save a picture of loss over cost (.png, .svg)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--no-progress", action="store_true", help="no bars")
    parser.add_argument("--json", action="store_true", help="print the points as JSON")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("saved", metavar="FOLDER", help="what `ribs search --out` wrote")
    parser.add_argument("model", help="the network it was made of: a timm name, or package.module:function")
    parser.add_argument("--data", required=True, help="images with those of each class in a folder of their own")
    parser.add_argument("--input-size", metavar="CxHxW", help="size of one image (default: the model's own)")
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate on N of the images (default: all)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the images that are taken (default: %(default)s)")
    parser.add_argument("--no-progress", action="store_true", help="no bars")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("saved", metavar="FOLDER", help="what `ribs search --out` wrote")
    parser.add_argument("out", metavar="OUT.html", help="the page; a file that is there is replaced")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--data", required=True, help="a folder of images, or a torch file of tensors")
    _add_budget(parser, "; repeated, it makes several budgets")
    _add_candidates(parser)
    parser.add_argument("--methods", default="ribs,uniform,random,kl", help="by name (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="run seeds 0..N-1 (default: %(default)s)")
    _add_units(parser)
    _add_recipe(parser)
    _add_loss(parser)
    parser.add_argument("--iterations", type=int, help="of ribs and paper (default: as for a search)")
    parser.add_argument("--update-size", type=int, metavar="M", help="of ribs and paper (default: as for a search)")
    parser.add_argument("--samples", type=int, default=1024, help="calibration samples (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument(
        "--cache-mib", type=float, default=1024, metavar="MIB", help="for what is kept (default: %(default)s)"
    )
    parser.add_argument("--plot", metavar="FILE", help="save a picture of loss over cost (.png, .svg)")
    parser.add_argument("--no-progress", action="store_true", help="no bars")
    parser.add_argument("--json", action="store_true", help="print all runs as JSON")


def _add_budget(parser: argparse.ArgumentParser, repeated: str = "") -> None:
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


def _add_candidates(parser: argparse.ArgumentParser) -> None:
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


def _add_count(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_units(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of the search (default: %(default)s)")
    parser.add_argument("--seeds", type=int, metavar="N", help="run seeds 0..N-1 and print a line for each")
    parser.add_argument("--picture", metavar="FILE", help="save a picture of the result (.png, .svg)")


def _add_reproduce(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("row", nargs="?", metavar="ROW", help="such as table1a/ribs-28.5")
    parser.add_argument("--list", action="store_true", help="list all rows with what each waits for")
    parser.add_argument("--data", metavar="IMAGENET", help="a folder that holds train/ and val/")
    parser.add_argument("--checkpoint", metavar="FILE", help="the network's weights (default: timm's, fetched)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")
    parser.add_argument("--journal", metavar="FOLDER", help="keep every measured loss, to go on after an interruption")
    parser.add_argument("--seed", type=int, help="of the samples and the search (default: the row's)")
    parser.add_argument("--samples", type=int, help="calibration samples (default: the row's, 1024)")
    parser.add_argument("--iterations", type=int, help="of a search (default: the row's)")
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate on N of the images in val/ (default: all)")
    parser.add_argument("--random-weights", action="store_true", help="do not fetch weights: to try the whole way")
    parser.add_argument("--no-progress", action="store_true", help="no bars")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a timm name (resnet18), or package.module:function that returns a model")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights to load: .safetensors, or a torch file")
    parser.add_argument("--random-weights", action="store_true", help="do not fetch timm's pretrained weights")
    parser.add_argument("--input-size", metavar="CxHxW", help="size of one image (default: the model's own)")


def _add_loss(parser: argparse.ArgumentParser) -> None:
    names = "kl-divergence, dense, embedding, language-model"
    parser.add_argument(
        "--loss",
        default="kl-divergence",
        metavar="NAME",
        help=f"{names}, or package.module:name of your own (default: %(default)s)",
    )


def _add_units(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", choices=("layer", "block"), default="layer", help="default: %(default)s")
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="a layer or module left in float; patterns; repeatable",
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        choices=("minmax", "mse", "repq", "repq+"),
        help="of the quantizers (default: repq+ where softmax outputs are multiplied, else mse)",
    )


if __name__ == "__main__":
    sys.exit(main())
