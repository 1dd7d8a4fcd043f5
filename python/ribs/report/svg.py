"""Figures as SVG that stands within a page of HTML."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def inline_svg(figure: Figure, prefix: str, label: str) -> str:
    """An <svg> element of a figure: no links, no names of namespaces, text as text, black in the colour of the page.

    prefix: of its ids, for a page that holds several.  label: what it shows, for those who cannot see it.
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ribs"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has fonts of its own
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    root = ElementTree.fromstring(text.getvalue())
    for parent in root.iter():
        for child in [each for each in parent if each.tag in (f"{_SVG}metadata", f"{_SVG}style")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = {
            name.replace(_LINK, "href"): _attribute(name, value, prefix) for name, value in element.attrib.items()
        }
    box = root.get("viewBox", "")
    width = float(box.split()[2])
    # It shrinks with the page as long as its text can be read, and is scrolled on narrower ones.
    style = f"width: 100%; max-width: {width:g}pt; min-width: {0.75 * width:g}pt"
    root.attrib = {"viewBox": box, "role": "img", "aria-label": label, "style": style}
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == _LINK:
        return value.replace("#", f"#{prefix}", 1) if value.startswith("#") else value
    value = value.replace("url(#", f"url(#{prefix}")
    return value.replace("stroke: #000000", "stroke: currentColor").replace("fill: #000000", "fill: currentColor")
