"""Choose the bit-width of every layer of a trained network under a budget of bit operations or MiB.

`ribs.search(model, loader, ribs.Budget(bops="4/4"))` is the main job; see `ribs.search`, `ribs.quantize` and
`ribs.count`. Names are loaded on first use, so that `import ribs` and `ribs --help` do not wait for torch.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until the user says otherwise

if TYPE_CHECKING:
    from ribs import ops as ops
    from ribs import qat as qat
    from ribs.io.errors import ExportError as ExportError
    from ribs.io.errors import FormatError as FormatError
    from ribs.io.saved import load as load
    from ribs.ops import build_info as build_info
    from ribs.recon.methods import BRECQ as BRECQ
    from ribs.recon.methods import AdaRound as AdaRound
    from ribs.recon.methods import QDrop as QDrop
    from ribs.select import loss as losses  # noqa: F401  (a module under another name)
    from ribs.select.budget import Budget as Budget
    from ribs.select.compare import Comparison as Comparison
    from ribs.select.compare import compare as compare
    from ribs.select.cost import CostTable as CostTable
    from ribs.select.cost import count as count
    from ribs.select.errors import InfeasibleBudgetError as InfeasibleBudgetError
    from ribs.select.evaluate import Evaluation as Evaluation
    from ribs.select.evaluate import evaluate as evaluate
    from ribs.select.points import Sweep as Sweep
    from ribs.select.reconstruct import reconstruct as reconstruct
    from ribs.select.result import Result as Result
    from ribs.select.run import quantize as quantize
    from ribs.select.run import search as search
    from ribs.select.sweep import sweep as sweep

_HOME = {
    "AdaRound": "ribs.recon.methods",
    "BRECQ": "ribs.recon.methods",
    "Budget": "ribs.select.budget",
    "Comparison": "ribs.select.compare",
    "CostTable": "ribs.select.cost",
    "Evaluation": "ribs.select.evaluate",
    "ExportError": "ribs.io.errors",
    "FormatError": "ribs.io.errors",
    "InfeasibleBudgetError": "ribs.select.errors",
    "QDrop": "ribs.recon.methods",
    "Result": "ribs.select.result",
    "Sweep": "ribs.select.points",
    "build_info": "ribs.ops",
    "compare": "ribs.select.compare",
    "count": "ribs.select.cost",
    "evaluate": "ribs.select.evaluate",
    "load": "ribs.io.saved",
    "quantize": "ribs.select.run",
    "reconstruct": "ribs.select.reconstruct",
    "search": "ribs.select.run",
    "sweep": "ribs.select.sweep",
}
_MODULES = {"losses": "ribs.select.loss", "ops": "ribs.ops", "qat": "ribs.qat"}
__all__ = ["__version__", *_MODULES, *_HOME]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ribs' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
