"""How the documents become a site: sphinx-build -W --keep-going -b html docs OUT.

Nothing of it asks the network, neither the build nor the pages: formulas are MathML, which browsers draw themselves.
"""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

from forethought import __version__

DOCS = Path(__file__).resolve().parent

project = "Forethought"
author = "The Forethought developers"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
highlight_language = "none"
nitpicky = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

html_theme = "furo"
html_title = f"Forethought {version}"
html_static_path = ["_static"]
html_css_files = ["forethought.css"]
html_copy_source = False
html_show_sphinx = False
html_domain_indices = False

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True}
python_maximum_signature_line_length = 160
toc_object_entries = False


# Formulas: docutils knows how to write TeX as MathML.

THIN = '<mspace width="0.17em"></mspace>'
ACCENTS = {"ˆ", "ˉ", "~", "˙", "¨"}


def mathml(tex: str, *, block: bool) -> str:
    """A formula as MathML.  Raises docutils' MathError where there is no such TeX, which ends the build."""
    # An invisible sign between a function and its argument has no width in browsers: log p would be logp.
    root = ET.fromstring(tex2mathml(tex, as_block=block).replace("<mo>&ApplyFunction;</mo>", THIN))
    for node in root.iter():
        # Of an accent with a subscript docutils puts the subscript below the letter.
        if node.tag.endswith("munderover") and node[2].text in ACCENTS:
            base, below, accent = node
            over = ET.Element(node.tag.replace("munderover", "mover"), {"accent": "true"})
            over.extend([base, accent])
            node.tag = node.tag.replace("munderover", "msub")
            node[:] = [over, below]
    ET.register_namespace("", "http://www.w3.org/1998/Math/MathML")
    return ET.tostring(root, encoding="unicode")


def visit_math(writer: Any, node: nodes.Element) -> None:
    """Within a line."""
    writer.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def visit_displayed(writer: Any, node: nodes.Element) -> None:
    """On lines of its own."""
    writer.body.append(f'<div class="formula">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


# Links that leave this folder lead somewhere in the repository, which a reader of the site may not have.

LINK = re.compile(r"(?<!!)\[([^\]\n]*(?:\n[^\]\n]*)?)\]\((\.\./[^)\s]*)\)")


def name_what_is_elsewhere(app: Any, docname: str, source: list[str]) -> None:
    """[text](../FILE.md) becomes the text; the file is named if the text does not."""
    here = (DOCS / docname).parent

    def named(found: re.Match[str]) -> str:
        text, target = found.groups()
        path = (here / target.partition("#")[0]).resolve()
        if path.is_relative_to(DOCS):
            return found.group(0)
        name = path.relative_to(DOCS.parent).as_posix()
        return f"`{name}`" if text.strip("`") in (name, path.name) else f"{text} (`{name}`)"

    source[0] = LINK.sub(named, source[0])


# Docstrings are plain sentences with formulas in them, and reST would take half of the formulas for markup.


def as_plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Backticks are code, what is indented is shown as it is, and everything else is said literally."""
    said, block = [], False
    for line in lines:
        if line.startswith(" "):
            if not block:
                said += ["", "::", ""]
            block = True
            said.append(f"    {line}")
            continue
        if block and line:
            said.append("")
            block = False
        said.append(line if not line else literal(line))
    lines[:] = said


def literal(line: str) -> str:
    """One line without markup, but for code."""
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(f"``{p.strip('`')}``" if p.startswith("`") else re.sub(r"([\\*|_`])", r"\\\1", p) for p in parts)


def short_signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any) -> Any:
    """A recipe's arguments are its fields, which follow with their types and defaults; arrays are called arrays."""
    if what == "class" and dataclasses.is_dataclass(obj):
        return "", None
    return tuple(text and text.replace("jaxlib._jax.Array", "Array") for text in (signature, returns))


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displayed, None))
    app.connect("source-read", name_what_is_elsewhere)
    app.connect("autodoc-process-docstring", as_plain_text)
    app.connect("autodoc-process-signature", short_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
