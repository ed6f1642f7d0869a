"""Settings of the documentation site; `make docs` builds it, with warnings as errors.

Nothing is fetched while it is built, and a page that somebody reads fetches nothing from elsewhere.
"""

import sys
from pathlib import Path

from pygments.lexers import TextLexer

from leash._version import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Leash"
author = "the authors of Leash"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "repository_links",
    "command_reference",
]
exclude_patterns = ["_ext"]

# Pages are Markdown that a reader of the repository sees as well: what only Sphinx understands
# stands between colons, not between backticks.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
highlight_language = "text"

# Lessons carry their outputs; `tools/lessons` runs them, and a test compares.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "image/png", 0)]

default_role = "code"  # as docstrings have it
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True

html_theme = "furo"
html_title = "Leash"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"sidebar_hide_name": False}


def setup(app):
    app.add_lexer("hex", TextLexer)  # bytes of wire-format.md
