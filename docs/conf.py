"""The site: `make docs` builds it from the pages as they lie in the repository.

    sphinx-build -c docs . build/site -W --keep-going -n

The source folder is the top of the repository, so links between pages are the same here and on a git host. What
`docs/index.md` lists is the side bar; `docs/generated.py` writes the pages that the code itself says.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import JsonLexer, TextLexer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import generated  # noqa: E402

from posterior_lm import __version__  # noqa: E402
from posterior_lm.editors.pygments_lexer import PlmLexer  # noqa: E402

project = "posterior_lm"
author = "the authors of posterior_lm"
release = version = __version__
SOURCE = "https://github.com/posterior-lm/posterior_lm"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = generated.PAGES
exclude_patterns = [".*", "build", "dist", "**/node_modules"]
templates_path = ["_templates"]

html_theme = "furo"
html_show_copyright = False
html_title = f"{project} {release}"
html_static_path = ["_static", "../posterior_lm/report/graph.css"]
html_css_files = ["graph.css", "site.css"]
html_additional_pages = {"index": "index.html"}  # the top of the site leads to its first page
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

myst_heading_anchors = 4

default_role = "code"  # docstrings are written as Markdown is
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
nitpick_ignore_regex = generated.ELSEWHERE


class Links(SphinxTransform):
    """Links to programs lead to the gallery, those to other files that are no pages to the repository.

    A section of a diagnostic code has the code as a second anchor, as in `1-syntax.html#plm101`.
    """

    default_priority = 100

    def apply(self, **_: Any) -> None:
        pending = self.document.findall(addnodes.pending_xref)
        for link in [*self.document.findall(addnodes.download_reference), *pending]:
            target = link.get("reftarget", "").split("#")[0]
            path = Path(os.path.normpath((ROOT / self.env.docname).parent / target))
            if link.get("reftype") != "myst" or link.get("refdomain") or not target or not path.exists():
                continue
            if path.parent == ROOT / "programs" and path.suffix == ".plm":
                new: nodes.Element = addnodes.pending_xref("", *link.children, **link.attributes)
                new["refdomain"], new["reftarget"] = "doc", f"docs/generated/programs/{path.stem}"
                new["reftargetid"] = None
            else:
                uri = (
                    f"{SOURCE}/{'tree' if path.is_dir() else 'blob'}/main/{path.relative_to(ROOT).as_posix()}"
                )
                new = nodes.reference("", "", *link.children, internal=False, refuri=uri)
            link.replace_self(new)
        if "/lang/codes/" in self.env.docname:
            for block in self.document.findall(nodes.literal_block):
                block["force"] = True  # of wrong programs some cannot be read as words and signs either
        for section in self.document.findall(nodes.section):
            if code := re.match(r"PLM\d{3}(?=: )", section[0].astext()):
                section["ids"].append(code[0].lower())


def side_bar(app: Sphinx, docname: str, content: list[str]) -> None:
    """Adds tables of contents to the first page, one for each of its headings: what it lists, in that order."""
    if docname == root_doc:
        for heading, names in generated.contents(content[0]).items():
            content[0] += generated.toctree(names, f":caption: {heading}")


def resolve(app: Sphinx, env: Any, link: addnodes.pending_xref, text: nodes.Node) -> nodes.Node | None:
    """The page of a type that an annotation names without its module, since only a type checker imports it."""
    domain = env.get_domain("py")
    found = [
        name
        for name in domain.objects
        if name.endswith(f".{link['reftarget']}") and link["refdomain"] == "py"
    ]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, link["refdoc"], app.builder, "obj", found[0], link, text)


def setup(app: Sphinx) -> None:
    for name, lexer in {"plm": PlmLexer, "csv": TextLexer, "jsonl": JsonLexer, "lark": TextLexer}.items():
        app.add_lexer(name, lexer)
    app.connect("config-inited", lambda app, config: generated.write(HERE / "generated"))
    app.connect("source-read", side_bar)
    app.connect("missing-reference", resolve)
    app.add_transform(Links)
