import subprocess
import sys

import ribs


def test_build_info_says_how_it_was_built() -> None:
    info = ribs.build_info()
    assert set(info) == {
        "version",
        "cuda",
        "cuda_version",
        "cuda_architectures",
        "compiler",
        "build_type",
    }
    assert info["version"] == ribs.__version__
    assert info["cuda"] is (info["cuda_version"] is not None)


def test_native_module_needs_neither_torch_nor_a_gpu() -> None:
    code = "import sys; from ribs import _core; _core.build_info(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
