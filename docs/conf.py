"""How Sphinx builds these pages: `make docs`. Their code runs then. Nothing is fetched, then or when they are read."""

from __future__ import annotations

import gettext
import logging
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import sphinx.locale
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

project = "openlstm"
author = "The authors of openlstm"
project_copyright = author
version = release = metadata.version("openlstm")

extensions = ["myst_nb"]
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

html_theme = "furo"
html_title = f"openlstm {release}"
html_static_path = ["_static"]
html_css_files = ["openlstm.css"]
html_math_renderer = "mathml"
html_copy_source = False

logging.getLogger("traitlets").setLevel(logging.WARNING)  # it tells of each page that begins

# Chinese pages have Chinese menus: Sphinx's own words, and the theme's, which has none.
CHINESE = gettext.translation("sphinx", Path(sphinx.locale.__file__).parent, ["zh_CN"])
MORE_CHINESE = {"Next": "下一页", "Previous": "上一页", "On this page": "本页内容"}


def _own_kernel(app: Sphinx) -> None:
    """The kernel has settings of its own, whatever the user's say: figures of matplotlib are shown, as SVG."""
    folder = Path(app.doctreedir) / "ipython"
    (folder / "profile_default").mkdir(parents=True, exist_ok=True)
    settings = (
        'IPKernelApp.matplotlib = "inline"',
        'IPKernelApp.log_level = "ERROR"',
        'InlineBackend.figure_formats = {"svg"}',
    )
    (folder / "profile_default" / "ipython_kernel_config.py").write_text("".join(f"c.{line}\n" for line in settings))
    os.environ["IPYTHONDIR"] = str(folder)


def _own_language(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if page.startswith("zh/"):
        context["language"] = "zh-CN"
        context["gettext"] = lambda words: MORE_CHINESE.get(words) or CHINESE.gettext(words)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Mathematics as MathML, by docutils' own converter: browsers draw it, without a script or a font to fetch."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("builder-inited", _own_kernel)
    app.connect("html-page-context", _own_language)
