"""Commands in processes of their own: `python command_processes.py FOLDER` runs them there and prints what they did.

They are forked from this small process, which has imported torch once.
"""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

MODEL = """
import os
import time
from pathlib import Path

import torch
from torch import nn


class Counting(nn.Module):
    # Counts its calls in this process; at the one that is asked for it waits to be interrupted.
    calls = 0

    def forward(self, x):
        Counting.calls += 1
        Path("calls").write_text(str(Counting.calls))
        if str(Counting.calls) == os.environ.get("WAIT_AT"):
            Path("waiting").touch()
            time.sleep(60)
        return x


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), Counting())
"""
SEARCH = ["search", "counted:build", "--data", "data.pt", "--input-size", "1x8x8", "--budget-bops", "5/5", "--json"]
QUIET = [*SEARCH, "--no-progress"]


def run(*argv: str, wait_at: int = 0, send: int = 0, stdout: int | None = None, terminal: bool = False) -> dict:
    """Run a command to its end.

    send: a signal that it gets while it waits in its model's call of number `wait_at`.
    terminal: whether its errors and bars go to one.
    """
    Path("waiting").unlink(missing_ok=True)
    ours, theirs = pty.openpty() if terminal else (None, None)
    if terminal:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # bars are as wide as it is
    if (child := os.fork()) == 0:
        os.environ["WAIT_AT"] = str(wait_at)
        files = [os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC) for name in ("out", "err")]
        for target, given, file in zip((1, 2), (stdout, theirs), files, strict=True):
            os.dup2(file if given is None else given, target)
        try:
            code = main(argv)
        except SystemExit as ended:
            code = ended.code
        sys.stderr.flush()
        os._exit(code)
    shown, ended = b"", (0, 0)
    while ended == (0, 0):
        time.sleep(0.005)
        if send and Path("waiting").exists():
            os.kill(child, send)
            send = 0
        ended = os.waitpid(child, os.WNOHANG)
        while terminal and select.select([ours], [], [], 0)[0]:
            shown += os.read(ours, 1 << 16)
    found = {"code": os.waitstatus_to_exitcode(ended[1]), "out": Path("out").read_text()}
    return {**found, "err": shown.decode() if terminal else Path("err").read_text()}


def calls() -> int:
    return int(Path("calls").read_text())


def closed_pipe() -> int:
    """The end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def all_of_it() -> dict:
    found = {"whole": run(*SEARCH)}
    total = calls()
    with_journal = [*QUIET, "--journal", "run"]
    found["ctrl-c"] = run(*with_journal, wait_at=2 * total // 3, send=signal.SIGINT)
    found["terminated"] = run(*with_journal, wait_at=total // 3, send=signal.SIGTERM)
    found["ctrl-c early"] = run(*QUIET, "--journal", "other", wait_at=1, send=signal.SIGINT)
    found["resumed"] = {**run(*with_journal), "calls": calls(), "calls of the whole": total}
    for name, number in (("ctrl-c alone", signal.SIGINT), ("terminated alone", signal.SIGTERM)):
        found[name] = run(*QUIET, wait_at=total // 2, send=number)
    found["infeasible"] = run(*QUIET, "--pin", "*=8")
    found["bad usage"] = run("search", "--nonsense")
    found["closed pipe"] = run(*QUIET, "--iterations", "1", stdout=closed_pipe())
    found["terminal"] = run(*SEARCH, "--iterations", "1", terminal=True)
    found["quiet terminal"] = run(*QUIET, "--iterations", "1", terminal=True)
    return found


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have it ignored
    import torch

    import ribs
    from ribs.cli import search  # noqa: F401  (before the forks)
    from ribs.cli.main import main

    ribs.count(torch.nn.Linear(1, 1).eval(), torch.empty(1, 1, device="meta"))  # imports what a search imports

    Path("counted.py").write_text(MODEL)
    torch.save(torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), "data.pt")
    print(json.dumps(all_of_it()))
