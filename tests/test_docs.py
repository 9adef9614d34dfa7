"""The teaching pages: their code runs and holds what the text says, in both languages, and all links lead somewhere."""

import ast
import io
import re
import sys
import types
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from markdown_it import MarkdownIt

DOCS = Path(__file__).resolve().parents[1] / "docs"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NUMBER = re.compile(r"\d+\.\d+|\d[\d,]{2,}")  # with a point, or of three digits: smaller ones are words
YEAR = re.compile(r"(19|20)\d\d")


@cache
def tokens(page):
    text = page.read_text(encoding="utf-8")
    body = text.split("---\n", 2)[2] if text.startswith("---\n") else text
    return MarkdownIt().enable("table").parse(body)


def parts(page, kind):
    """What stands inside lines of text: links, pictures, the text itself."""
    return [part for token in tokens(page) for part in token.children or () if part.type == kind]


@cache
def cells(page):
    """A page's code cells: the text that stands for a picture, and the code."""
    found = []
    for token in tokens(page):
        if token.type == "fence" and token.info == "{code-cell} ipython3":
            about, code = {}, token.content
            if code.startswith("---\n"):
                _, about, code = code.split("---\n", 2)
                about = yaml.safe_load(about)["mystnb"]["image"]
            found.append((about.get("alt", ""), code))
    return found


def listed(page):
    """The pages in the tables of contents of a page, and in theirs."""
    found = []
    for token in tokens(page):
        if token.type == "fence" and token.info == "{toctree}":
            names = [line for line in token.content.splitlines() if line and not line.startswith(":")]
            for other in (page.parent / f"{name}.md" for name in names):
                assert other.is_file(), f"{name_of(page)} lists a page that is not there: {other}"
                found += [other, *listed(other)]
    return found


def name_of(page):
    return str(page.relative_to(DOCS))


def chinese(page):
    return DOCS / "zh" / page.name


EVERY = sorted(DOCS.rglob("*.md"))
INDEX = {language: listed(DOCS / language / "index.md") for language in ("en", "zh")}
english = pytest.mark.parametrize("page", INDEX["en"], ids=name_of)


class SVG:
    """Stands for IPython's: a page needs no notebook to run."""

    def __init__(self, data):
        self.data = data


class Math(SVG):
    """So does this."""


def run(page):
    """Runs a page as a notebook does: what it prints, and what each cell shows."""
    shown = []
    display = types.ModuleType("IPython.display")
    display.SVG, display.Math, display.display = SVG, Math, lambda *things: shown[-1].extend(things)
    names, printed = {"__name__": "__main__"}, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setitem(sys.modules, "IPython.display", display)
        for k, (_, code) in enumerate(cells(page), 1):
            shown.append([])
            where, tree = f"{name_of(page)}, cell {k}", ast.parse(code)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, where, "exec"), names)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), where, "eval"), names)
                shown[-1] += [] if value is None else [value]
    return printed.getvalue(), shown


@english
def test_a_page_runs_and_its_claims_hold(page, tmp_path, monkeypatch):
    """Its own checks are those of the code. What it shows is an equation or a picture, which is put in words too."""
    monkeypatch.chdir(tmp_path)
    printed, shown = run(page)
    for alt, things in zip((alt for alt, _ in cells(page)), shown, strict=True):
        pictures = [thing for thing in things if not isinstance(thing, Math)]
        assert bool(alt) == bool(pictures)
        for thing in things:
            if isinstance(thing, Math):
                assert " = " in thing.data
            elif isinstance(thing, SVG):
                assert ElementTree.fromstring(thing.data).tag == "{http://www.w3.org/2000/svg}svg"
            else:
                thing.savefig(io.BytesIO(), format="svg")

    # What the text says of numbers, the program says.
    known = (printed + "".join(code for _, code in cells(page))).replace(",", "")
    for path in (page, chinese(page)):
        text = " ".join(part.content for part in parts(path, "text") if "arXiv" not in part.content)
        numbers = [number for number in NUMBER.findall(text) if not YEAR.fullmatch(number)]
        assert [number for number in numbers if number.replace(",", "") not in known] == []


@english
def test_a_page_has_checks(page):
    code = "".join(code for _, code in cells(page))
    assert re.search(r"^ *(assert |np\.testing\.assert)", code, re.MULTILINE)


@english
def test_both_languages_have_the_same_code_and_the_same_outline(page):
    other = chinese(page)
    assert [code for _, code in cells(other)] == [code for _, code in cells(page)]
    blocks = ("heading_open", "list_item_open", "tr_open", "fence")
    assert [t.tag + t.type for t in tokens(other) if t.type in blocks] == [
        t.tag + t.type for t in tokens(page) if t.type in blocks
    ]
    for (alt, _), (other_alt, _) in zip(cells(page), cells(other), strict=True):
        assert bool(alt) == bool(CHINESE.search(other_alt))
    assert parts(page, "link_open")[0].attrs["href"] == f"../zh/{page.name}"
    assert parts(other, "link_open")[0].attrs["href"] == f"../en/{page.name}"


@english
def test_each_page_is_in_its_language(page):
    text = page.read_text(encoding="utf-8").replace("[中文]", "")
    assert not CHINESE.search(text)
    for token, content in zip(tokens(chinese(page)), tokens(chinese(page))[1:], strict=False):
        if token.type == "paragraph_open" and "](../en/" not in content.content:
            assert CHINESE.search(content.content), content.content


def test_every_page_is_in_the_index():
    index = DOCS / "index.md"
    assert sorted([index, *listed(index)]) == EVERY
    assert [page.name for page in INDEX["en"]] == [page.name for page in INDEX["zh"]]
    assert len(INDEX["en"]) == 12


@pytest.mark.parametrize("page", EVERY, ids=name_of)
def test_links_and_pictures_lead_somewhere(page):
    pictures = parts(page, "image")
    assert all(picture.content for picture in pictures), "a picture has no words for those who cannot see it"
    targets = [link.attrs["href"] for link in parts(page, "link_open")] + [p.attrs["src"] for p in pictures]
    broken = [t for t in targets if not t.startswith("https://") and not (page.parent / t.partition("#")[0]).is_file()]
    assert broken == []
