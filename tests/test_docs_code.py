"""The code in the documentation runs, where the libraries that it imports are there."""

import ast
import importlib.util
import logging
import re
from pathlib import Path

import pytest

import ribs
from small import loader, network

DOCS = Path(__file__).parent.parent / "docs"
BLOCKS = {
    f"{page}-{number}": code
    for page in ("callbacks",)
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.S))
}


def modules(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("default")  # those of other libraries are theirs
def test_blocks_run(name, tmp_path, monkeypatch, caplog):
    # torch.utils.tensorboard is torch's, and needs tensorboard.
    needed = [module.removeprefix("torch.utils.").partition(".")[0] for module in modules(BLOCKS[name])]
    if missing := [module for module in needed if importlib.util.find_spec(module) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(logging, "basicConfig", lambda level: caplog.set_level(level, "ribs"))
    exec(BLOCKS[name], {"ribs": ribs, "model": network(), "loader": loader()})
    if "logging" in needed:
        assert any("iteration 1 of" in record.getMessage() for record in caplog.records)
