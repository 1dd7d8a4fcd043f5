"""What an sdist and a wheel hold: `python contents.py FOLDER`, with one of each in it."""

import re
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPENDENCIES = ["highspy", "numpy", "safetensors", "torch", "tqdm"]


def sources() -> set[str]:
    """The files of the package, as they are in the tree."""
    package = ROOT / "python" / "ribs"
    paths = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"ribs/{path.relative_to(package).as_posix()}" for path in paths if path.suffix not in (".so", ".pyd")}


def check_sdist(path: Path) -> None:
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"LICENSE", "README.md", "CMakeLists.txt", "pyproject.toml", "PKG-INFO", "csrc/ops.h"}
    assert not (missing := (needed | {f"python/{name}" for name in sources()}) - names), missing
    junk = [name for name in names if re.search(r"^(tests|docs|benchmarks|build|\.)|__pycache__|\.(so|pyc)$", name)]
    assert not set(junk) - {".gitignore", ".clang-format", ".clang-tidy", ".pre-commit-config.yaml"}, junk


def check_wheel(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        [info] = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = message_from_string(archive.read(f"{info}/METADATA").decode())
        points = archive.read(f"{info}/entry_points.txt").decode()
    own = {name for name in names if not name.startswith(f"{info}/")}
    modules = {name for name in own if re.fullmatch(r"ribs/_core\.[\w-]+\.(so|pyd)", name)}
    assert len(modules) == 1 and own - modules == sources(), own ^ sources()
    assert {"ribs/py.typed", "ribs/_core.pyi"} <= own and f"{info}/licenses/LICENSE" in names
    assert "ribs = ribs.cli.main:main" in points
    [version] = re.findall(r'^__version__ = "(.+)"', (ROOT / "python" / "ribs" / "__init__.py").read_text(), re.M)
    expected = {"Name": "ribs-quant", "Version": version, "License-Expression": "Apache-2.0"}
    expected |= {"License-File": "LICENSE", "Requires-Python": ">=3.10", "Description-Content-Type": "text/markdown"}
    assert {name: metadata[name] for name in expected} == expected
    assert path.name.startswith(f"ribs_quant-{version}-") and metadata.get_payload().startswith("# ribs")
    required = [each for each in metadata.get_all("Requires-Dist") if "extra ==" not in each]
    assert sorted(re.split(r"\W", each)[0] for each in required) == DEPENDENCIES


if __name__ == "__main__":
    [sdist], [wheel] = (list(Path(sys.argv[1]).glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    check_sdist(sdist)
    check_wheel(wheel)
    for each in (sdist, wheel):
        print(f"{each.name}: {each.stat().st_size:,} bytes, all that it should hold and nothing else")
