"""The `ribs` command. It parses first and imports torch only when a command runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import ribs
from ribs.cli import config
from ribs.cli.commands.shared import add_output
from ribs.cli.output import lines
from ribs.select.errors import InfeasibleBudgetError

DONE, USAGE, INFEASIBLE, INTERRUPTED = 0, 2, 3, 4
SIGNALLED = 128  # and the number of a signal, as shells have it
# What a command does is `run` of ribs.cli.NAME, its flags are `add_flags` of ribs.cli.commands.NAME.
COMMANDS = (
    "search",
    "sweep",
    "qat",
    "evaluate",
    "report",
    "export",
    "compare",
    "count",
    "demo",
    "reproduce",
)


class Keeps(NamedTuple):
    """A flag that names a folder: the files in it from which an interrupted command goes on, and what they keep."""

    name: str
    dest: str
    files: str
    kept: str


KEEPS = (
    Keeps("--journal", "journal", "losses-*.sqlite", "all that was measured"),
    Keeps("--checkpoints", "checkpoints", "last.*", "the last epoch"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; docs/cli.md says what the exit codes are."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser, commands = _parser()
    arguments = argparse.Namespace()
    try:
        arguments = config.parse(parser, commands, argv)
        if arguments.print_config:
            print(config.as_file(commands[arguments.command], arguments))
        else:
            with _terminable(), lines(arguments):
                import_module(f"ribs.cli.{arguments.command}").run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        return _interrupted(arguments, signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)
    except BrokenPipeError:
        # Whoever read the output has seen enough; nor can what is left of it be written at the end of Python.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGNALLED + 13  # SIGPIPE, which not every system has
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        print(f"ribs: {error}", file=sys.stderr)
        return INFEASIBLE if isinstance(error, InfeasibleBudgetError) else USAGE
    return DONE


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the whole command line, and that of each command."""
    parser = argparse.ArgumentParser(
        prog="ribs",
        description="Choose the bit-width of every layer of a trained network under a budget.",
        epilog="Exit codes: 0 done, 2 bad usage or input, 3 a budget that cannot be met, 4 interrupted and saved.",
    )
    parser.add_argument("--version", action="version", version=f"ribs {ribs.__version__}")
    found = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {}
    for name in COMMANDS:
        flags = import_module(f"ribs.cli.commands.{name}")
        commands[name] = found.add_parser(name, help=flags.HELP, description=flags.HELP, allow_abbrev=False)
        flags.add_flags(commands[name])
        add_output(commands[name])
    return parser, commands


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end what runs as Ctrl-C does, with all files closed and processes told."""

    def stop(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(arguments: argparse.Namespace, number: int) -> int:
    """Say what is left of the work."""
    flags = [flag for flag in KEEPS if flag.dest in arguments]
    folders = {flag: getattr(arguments, flag.dest) for flag in flags}
    for flag, folder in folders.items():
        if folder is not None and any(Path(folder).glob(flag.files)):
            print(
                f"ribs: interrupted; {flag.kept} is kept in {folder}; the same command goes on from there",
                file=sys.stderr,
            )
            return INTERRUPTED
    rest = "".join(f"; with {flag.name} FOLDER the same command would go on" for flag in flags[:1])
    print(f"ribs: interrupted; nothing was saved{rest}", file=sys.stderr)
    return SIGNALLED + number


if __name__ == "__main__":
    sys.exit(main())
