"""Rewrites what a C++ compiler does not read in CUDA sources: `<<< >>>` and `__shared__`. Lines stay where they are.

The sources of ribs are its only input: comments and strings must not look like a launch.
"""

import re
import sys
from pathlib import Path

ALIGN = r"(?:(?:alignas|__align__)\s*\([^()]*(?:\([^()]*\))?[^()]*\)\s*)?"
DYNAMIC = re.compile(rf"extern\s+__shared__\s+{ALIGN}([\w:\s<>,]+?)\s+{ALIGN}(\w+)\s*\[\s*\]\s*;")
STATIC = re.compile(rf"__shared__\s+({ALIGN})([^;()]*?)(\w+)((?:\s*\[[^\];]*\])*)\s*;")


def closing(text: str, start: int) -> int:
    """Find the parenthesis that closes the one at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    raise ValueError(f"a parenthesis is not closed: {text[start : start + 60]!r}")


def kernel_start(text: str, end: int) -> int:
    """Find where the name of the kernel starts that ends at `end`, with its template arguments."""
    at = len(text[:end].rstrip())
    if text[at - 1] == ">":
        depth = 0
        while True:
            at -= 1
            depth += (text[at] == ">") - (text[at] == "<")
            if depth == 0:
                break
    while text[at - 1].isalnum() or text[at - 1] in "_:":
        at -= 1
    return at


def configuration_end(text: str, start: int) -> int:
    """Find the >>> of a launch; the first outside of parentheses."""
    at = start
    while not text.startswith(">>>", at):
        at = closing(text, at) + 1 if text[at] == "(" else at + 1
    return at


def rewrite(text: str) -> str:
    """Give a source in C++ that runs its kernels with emulate::launch."""
    text = DYNAMIC.sub(r"\1* \2 = static_cast<\1*>(emulate::dynamic_shared());", text)
    text = STATIC.sub(r"\1static \2\3\4; emulate::fresh(\3);", text)
    while (opening := text.find("<<<")) >= 0:
        start, end = kernel_start(text, opening), configuration_end(text, opening)
        arguments = text.index("(", end)
        last = closing(text, arguments) + 1
        config, kernel = text[opening + 3 : end], text[start:opening].rstrip()
        values = ", " + text[arguments + 1 : last - 1] if text[arguments + 1 : last - 1].strip() else ""
        call = f"[&](auto... values) {{ {kernel}(values...); }}"
        launch = f"emulate::launch(emulate::Config({config}), {call}{values})"
        text = text[:start] + launch + text[last:]
    return text


def main(source: str, target: str) -> None:
    text = Path(source).read_text()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(f'#line 1 "{Path(source).resolve()}"\n{rewrite(text)}')


if __name__ == "__main__":
    main(*sys.argv[1:])
