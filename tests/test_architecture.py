"""Who may import whom: ops <- quant <- recon <- select <- {qat, io, report} <- cli."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ribs

PACKAGE = Path(ribs.__file__).parent
BELOW = {
    "ops": set(),
    "quant": {"ops"},
    "recon": {"ops", "quant"},
    "select": {"ops", "quant", "recon"},
    "qat": {"ops", "quant", "recon", "select"},
    "io": {"ops", "quant", "recon", "select"},
    "report": {"ops", "quant", "recon", "select"},
    "cli": {"ops", "quant", "recon", "select", "qat", "io", "report"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_directions(path):
    room = path.relative_to(PACKAGE).parts[0]
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("ribs.")} & set(BELOW)
    assert rooms <= BELOW[room] | {room}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_who_touches_what(path):
    room = path.relative_to(PACKAGE).parts[0]
    found = imports(path)
    if room != "ops":
        assert not any(name.startswith("ribs._core") for name in found)
    if room != "cli":
        assert not any(name.split(".")[0] == "timm" for name in found)


@pytest.mark.parametrize(
    "module",
    ["ribs", "ribs.cli.main", "ribs.cli.paper", "ribs.select.ilp", "ribs.select.journal", "ribs.select.search"],
)
def test_loads_without_torch(module):
    """The ILP and the search loop are pure, and `--help` does not wait for torch."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'ribs._core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
