"""Docstrings as reStructuredText: what is plain to read in the source gets the marks that Sphinx understands."""

import re

# A fact: `name: text`, or several names; its text goes on in indented lines. Two of them may share a line, two spaces
# apart. A section, such as `Args:`, has nothing behind its name, and indented facts.
_FACT = re.compile(r"( *)([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*):( .*|)")
_SECOND = re.compile(r"(?<=\S)  (?=[a-z_]\w*(?:, [a-z_]\w*)*: )")
_WORDS = ("Args", "Returns", "Yields", "Raises")  # no names


def as_rst(lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place: facts become definitions, and names in backticks code."""
    found: list[str] = []
    kind, section = "", False  # of the paragraph so far: "", "text", "fact" or "- "
    ended = False  # whether the last line ended a sentence
    for line in (part for each in lines for part in _SECOND.split(each)):
        fact = _FACT.fullmatch(line)
        if not line:
            kind = ""
        elif fact and (section if fact[1] else kind != "text" or ended or fact[2] in _WORDS):
            if kind == "text":
                found.append("")
            if not fact[1]:
                kind, section = "fact", not fact[3]
            name = fact[2] if fact[2] in _WORDS else ", ".join(f"`{each}`" for each in fact[2].split(", "))
            found.append(_escaped(f"{fact[1]}{name}"))
            if section and not fact[1]:
                continue
            line = f"{fact[1]}    {fact[3].strip()}"
        elif line.startswith("- ") and kind != "- ":
            found.append("")
            kind = "- "
        elif not line.startswith(" "):
            line = f"    {line}" if kind == "fact" else line
            kind = kind or "text"
            section = False
        ended = line.endswith(".")
        found.append(_escaped(line))
    lines[:] = found


def _escaped(line: str) -> str:
    """Backticks to code; elsewhere no character is a mark."""
    parts = line.split("`")
    return "``".join(re.sub(r"([\\*|_])", r"\\\1", part) if n % 2 == 0 else part for n, part in enumerate(parts))
