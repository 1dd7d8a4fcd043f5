"""The site of the documentation: `make docs` builds it into build/docs.

Pages are Markdown in MyST, notebooks run when the site is built, and the reference comes from the docstrings.
"""

import sys
from pathlib import Path
from typing import Any

import ribs

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import as_rst

project = "ribs"
copyright = "the authors of ribs, Apache-2.0"
version = release = ribs.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "ribs"

myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
# Bars of progress, and what a search says before it starts.
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # docstrings say in words what is taken
maximum_signature_line_length = 100


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", lambda app, what, name, obj, options, lines: as_rst(lines))
