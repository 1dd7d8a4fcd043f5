"""Configuration files: what they may say, and what overrides them."""

import json
import sys

import pytest

from ribs.cli import config
from ribs.cli.main import COMMANDS, _parser, main

LEAST = {
    "search": ["net", "--data", "d", "--budget-bops", "4/4"],
    "sweep": ["net", "--data", "d", "--budget-bops", "3/3", "--budget-bops", "4/4"],
    "evaluate": ["saved", "net", "--data", "d"],
    "report": ["saved", "a.html"],
    "export": ["saved", "net", "a.onnx", "--data", "d"],
    "compare": ["net", "--data", "d", "--budget-size", "5", "--budget-size", "6"],
    "count": ["net"],
    "qat": ["net", "--data", "d", "--at", "4/4"],
    "demo": [],
    "reproduce": ["table1a/ribs-28.5"],
}
SEARCH = {"model": "net", "data": "d", "pin": ["first=8", "last=8"], "seed": 0, "max-seconds": 1.5, "no-progress": True}


def parse(*argv):
    return vars(config.parse(*_parser(), argv))


@pytest.fixture
def file(tmp_path):
    def write(content, name="a.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_printed_says_the_same(command, capsys, file):
    given = [command, *LEAST[command], "--json"]
    assert main([*given, "--print-config"]) == 0
    path = file(capsys.readouterr().out)
    found = parse(command, "--config", path)
    assert found.pop("config") == path
    expected = parse(*given)
    del expected["config"]
    assert found == expected


def test_flags_override_the_file(file):
    path = file(SEARCH)
    found = parse("search", "--config", path)
    assert [found[name] for name in ("model", "pin", "seed", "max_seconds")] == ["net", ["first=8", "last=8"], 0, 1.5]
    assert found["no_progress"] and not found["json"] and found["samples"] == 1024
    found = parse("search", "other", f"--config={path}", "--pin", "fc=4", "--seed", "3")
    assert [found[name] for name in ("model", "pin", "seed", "data")] == ["other", ["fc=4"], 3, "d"]


def test_yaml_says_what_json_does(file):
    pytest.importorskip("yaml")
    text = "model: net\ndata: d\npin: [first=8, last=8]\nseed: 0\nmax-seconds: 1.5\nno-progress: true\n"
    found, expected = (parse("search", "--config", path) for path in (file(text, "a.yaml"), file(SEARCH)))
    assert found | {"config": ""} == expected | {"config": ""}


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ({**SEARCH, "sede": 1}, "a.json", "has the key 'sede', which is not known; did you mean 'seed'?"),
        ({**SEARCH, "zzz": 1}, "a.json", "has the key 'zzz', which is not known; it may have model, checkpoint"),
        ({**SEARCH, "config": "b.json"}, "a.json", "the key 'config', which is not known"),
        ('{"model": "a", "model": "b"}', "a.json", "has the key 'model' twice"),
        ("model: a\nmodel: b\n", "a.yaml", "has the key 'model' twice"),
        ({**SEARCH, "seed": 1.5}, "a.json", "seed=1.5 is not supported; give a whole number"),
        ({**SEARCH, "seed": True}, "a.json", "seed=True is not supported; give text or a number"),
        ({**SEARCH, "seed": [1, 2]}, "a.json", "seed=[1, 2] is not supported"),
        ({**SEARCH, "max-seconds": "soon"}, "a.json", "max-seconds='soon' is not supported; give a number"),
        ({**SEARCH, "no-progress": "yes"}, "a.json", "no-progress='yes' is not supported; give true or false"),
        ({**SEARCH, "units": "group"}, "a.json", "units='group' is not supported; give one of layer, block"),
        ("[1, 2]", "a.json", "holds no keys with values"),
        ("- 1\n", "a.yml", "holds no keys with values"),
        ("{", "a.json", "is no JSON"),
        ("a: [", "a.yaml", "is no YAML"),
        ("", "a.toml", "give a file named *.json, *.yaml, *.yml"),
    ],
)
def test_bad_files(content, name, message, file, capsys):
    if name.endswith(("yaml", "yml")):
        pytest.importorskip("yaml")
    assert main(["search", "--config", file(content, name)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out


def test_what_is_in_neither_is_asked_for(file, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["search", "--config", file({"model": "net"})])
    assert ended.value.code == 2
    assert "the following arguments are required: --data" in capsys.readouterr().err
    assert main(["search", "--config", "missing.json"]) == 2
    assert "missing.json" in capsys.readouterr().err


def test_yaml_without_pyyaml(file, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["search", "--config", file("seed: 1", "a.yaml")]) == 2
    assert 'pip install "ribs-quant[yaml]"' in capsys.readouterr().err
