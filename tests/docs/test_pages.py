"""Every block of Python in the pages and notebooks runs, in the order of its page, on networks that take no time.

A page has one namespace and an empty folder. It starts with what it may take as given (`given`). A block that imports
what is in OPTIONAL and not installed is only compiled.
"""

import ast
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ribs
from ribs.cli import digits
from ribs.recon import methods
from ribs.select.algorithm import Algorithm

timm = pytest.importorskip("timm")
pytest.importorskip("sklearn")
transformers = pytest.importorskip("transformers")
matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb")])
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(((?!https?:)[^)\s]+)\)")
# What a block imports, and the package that it needs. Nothing that the extra `test` has belongs here.
OPTIONAL = {
    "executorch": "executorch",
    "lightning": "lightning",
    "openvino": "openvino",
    "ribs.io.linears.torchao_model": "torchao",
    "torch.utils.tensorboard": "tensorboard",
    "torchao": "torchao",
    "wandb": "wandb",
}
ITERATIONS = 1  # of a search
PROPOSALS = 4  # of a sweep
STEPS = 10  # of a reconstruction, at most


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Small(nn.Module):
    """A residual network with the names of the usual ones."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8))
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(self.layer1(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def given() -> dict:
    """What a reader of any page is taken to have: a trained network, its data, and bits that were found for it."""
    torch.manual_seed(0)
    model = Small(10).eval()
    images, labels = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    loader = [(images[:8], labels[:8]), (images[8:], labels[8:])]
    table = ribs.count(model, loader[0])
    rows = [f"{unit.name},{bits},{bits},{bits / 10}" for unit in table.groups for bits in range(2, 9)]
    Path("latency.csv").write_text("\n".join(["unit,weight_bits,activation_bits,cost", *rows]))
    return {
        "__name__": __name__,  # of the module that functions think they are in
        **{"F": F, "nn": nn, "ribs": ribs, "timm": timm, "torch": torch, "transformers": transformers},
        **{"model": model, "teacher": model, "resnet101": model, "images": images, "labels": labels},
        **{"loader": loader, "train_loader": loader, "val_loader": loader},
        "batch": loader[0],
        "budget": ribs.Budget(bops="4/4"),
        "result": ribs.quantize(model, loader, 4, progress=False),
        "top1": lambda network: digits.accuracy(network, images, labels),
        "joules": lambda unit, bits: sum(bits),
    }


def blocks(page: Path) -> list[str]:
    """The Python of a page, each block behind as many empty lines as stand above it, so that errors name its line."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        # Lines that begin with % are for IPython.
        lines = [[line for line in cell["source"] if line[0] != "%"] for cell in cells if cell["cell_type"] == "code"]
        return ["".join(each) for each in lines]
    text = page.read_text()
    found = [match for match in FENCE.finditer(text) if match[1] == "python"]
    return ["\n" * text.count("\n", 0, match.start(2)) + match[2] for match in found]


def missing(source: str) -> set[str]:
    """The packages that a block imports and that need not be there."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    wanted = {package for name, package in OPTIONAL.items() if any(f"{each}.".startswith(f"{name}.") for each in names)}
    return {package for package in wanted if find_spec(package) is None}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The demo's network in a moment, short searches and reconstructions, and pictures without a screen."""
    recipe = digits.Recipe(lambda: Small(100), digits=2, batches=2, batch_size=8, lr=0.1)
    monkeypatch.setattr(digits, "RECIPES", dict.fromkeys(digits.RECIPES, recipe))
    monkeypatch.setenv("RIBS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(Algorithm, "iterations_for", lambda self, units, racing=False: ITERATIONS)
    sweep, phase = ribs.sweep, methods.Phase
    monkeypatch.setattr(ribs, "sweep", lambda *args, **options: sweep(*args, **{**options, "proposals": PROPOSALS}))
    monkeypatch.setattr(methods, "Phase", lambda whole, most, **facts: phase(whole, min(most, STEPS), **facts))
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    matplotlib.use("agg")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Those from file to file, which are links on the site, in an editor and where the repository is shown."""
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text())]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@pytest.mark.filterwarnings(r"ignore:\[ribs\] [\d,]+ MACs stay in float")  # what is skipped
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore::UserWarning:lightning")  # Lightning's own
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page, small):
    namespace = given()
    for source in blocks(page):
        code = compile(source, str(page), "exec")
        if not missing(source):
            exec(code, namespace)
