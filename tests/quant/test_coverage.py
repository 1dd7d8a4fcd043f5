"""Ten architectures of the table in docs/models.md: all MACs under quantizers, as many as torch counts, one search."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SAMPLE = ["test_vit", "test_vit_relpos", "test_byobnet", "test_mambaout", "convit_tiny"]
SAMPLE += ["BertForSequenceClassification", "GPT2LMHeadModel", "LlamaForCausalLM", "T5ForConditionalGeneration"]
SAMPLE += ["cait_xxs24_224"]


@pytest.fixture(scope="module")
def coverage():
    """The benchmark; by its path, since its name is that of another package."""
    sys.path.append(str(BENCHMARKS))
    found = importlib.util.spec_from_file_location("architecture_coverage", BENCHMARKS / "coverage.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SAMPLE)
def test_an_architecture_works(name, coverage):
    row = coverage.cover(name, coverage.MODELS[name])
    assert coverage.works(row), row
