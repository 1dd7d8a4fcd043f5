"""Runs all benchmarks and writes their tables into one Markdown file.

Run: python benchmarks/run.py [--device cpu|cuda] [--threads 1 2] [--out benchmarks/results/NAME.md]
"""

import argparse
import datetime
import platform
import subprocess
import sys
from pathlib import Path

import torch

import ribs

HERE = Path(__file__).parent
CPU = ["quantize.py", "packing.py", "steps.py"]
CUDA = [["gpu.py"], ["profiling.py", "--device", "cuda", "--networks", "resnet18", "mobilenetv2_100"]]


def machine(device: str) -> str:
    """What ran: date, processor or card, versions."""
    if device == "cuda":
        where = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        where = f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
    build = ribs.build_info()
    return (
        f"{datetime.date.today()}, {where}; ribs {build['version']} ({build['compiler']}, CUDA "
        f"{build['cuda_version']}), torch {torch.__version__}, Python {platform.python_version()}"
    )


def said(command: list[str]) -> str:
    """What a command prints, shown as it comes. Raises: CalledProcessError."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, help="a Markdown file; by default only printed")
    options = parser.parse_args()
    threads = [str(each) for each in options.threads]
    scripts = CUDA if options.device == "cuda" else [[script, *threads] for script in CPU]
    parts = [machine(options.device)]
    for script, *arguments in scripts:
        command = [sys.executable, str(HERE / script), *arguments]
        parts.append(f"## `python benchmarks/{' '.join([script, *arguments])}`\n\n{said(command).strip()}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("# Benchmarks\n\n" + "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
