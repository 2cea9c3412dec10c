"""The page and the tables: everything is in them, and nothing that a stranger could put there runs."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from forethought.lecture.claim import TIMES, Claim, Outcome
from forethought.lecture.page import LEFT, RIGHT, page
from forethought.lecture.results import Row, number
from forethought.lecture.text import markdown, table

EVIL = "<script>alert('1 & 2')</script> \"|\""


def claim(**changes) -> Claim:
    words = {"name": "evil", "section": EVIL, "sentence": EVIL, "prediction": EVIL, "how": EVIL, "unit": "nats"}
    return Claim(**(words | {"measure": lambda seed, full: Outcome(0.0, {})} | changes), note=EVIL)


def row(effects, **changes) -> Row:
    each = [
        {"seed": i, "effect": e, "details": {}, "error": None if e is not None else EVIL, "seconds": 0.1}
        for i, e in enumerate(effects)
    ]
    found = {"outcomes": each, "seconds": 3.0, "cpu_seconds": 2.0, "ended": "then", "versions": {"jax": EVIL}}
    found["machine"] = {"platform": EVIL, "cpus": 2, "devices": ["cpu:0"]}
    return Row(claim(**changes), found, None)


class Reader(HTMLParser):
    """Every tag that opens, with what could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_page_runs_and_loads_nothing() -> None:
    said = page([row([1.0, 2.0, None]), row([-1.0, 2.0, 0.5]), Row(claim(name="none"), None, EVIL)], EVIL)
    reader = Reader()
    reader.feed(said)
    assert set(reader.tags) <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "code", "article", "span"),
        *("svg", "g", "path", "circle", "text"),
    }
    assert not {name for name in reader.attributes if name.startswith("on") or name in ("src", "href", "style")}
    assert "http" not in said
    assert "url(" not in said
    assert "@import" not in said
    assert "prefers-color-scheme: dark" in said
    assert "@media print" in said
    # The words of section, sentence, prediction, how, note, machine and versions are there, as words.
    assert said.count("&lt;script&gt;") >= 4 + 5 + 5 + 4  # no note where a seed failed


def drawing(said: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.search(r"<svg.*?</svg>", said, re.DOTALL).group(0))


def test_the_drawing_is_to_scale() -> None:
    """Margin, interval, mean and seeds stand where one linear scale puts them."""
    rows = [row([1.0, 2.0, 3.0], margin=-1.0)]
    low, high = rows[0].judgement.interval
    svg = drawing(page(rows, "x"))
    circles = [float(c.get("cx")) for c in svg.iter("circle")]
    paths = [p.get("d") for p in svg.iter("path")]
    bar = next(re.fullmatch(r"M([\d.]+) 40H([\d.]+)M.*", d) for d in paths if " 40H" in d)
    line = next(re.fullmatch(r"M([\d.]+) 8V56", d) for d in paths if " 8V56" in d)
    at = {1.0: circles[0], 2.0: circles[1], 3.0: circles[2]}
    unit = at[3.0] - at[2.0]
    assert unit > 50.0
    place = lambda value: at[2.0] + unit * (value - 2.0)
    assert abs(circles[3] - place(2.0)) < 0.2
    for drawn, value in ((at[1.0], 1.0), (float(bar[1]), low), (float(bar[2]), high), (float(line[1]), -1.0)):
        assert abs(drawn - place(value)) < 0.3
        assert LEFT <= drawn <= RIGHT
    assert svg.get("aria-label").startswith("evil: 2.00 [")


def test_nothing_is_drawn_where_nothing_was_found() -> None:
    said = page([row([None, None]), Row(claim(name="full", seeds=()), None, None)], "x")
    assert "<svg" not in said
    assert "only with --full" in said
    assert "0 (2 failed)" in said


def test_one_seed_has_no_bar() -> None:
    svg = drawing(page([row([1.5])], "x"))
    assert len(list(svg.iter("circle"))) == 2
    assert not [p for p in svg.iter("path") if " 40H" in p.get("d")]


def test_numbers_of_ratios_are_ratios() -> None:
    assert number(math.log(3.0), TIMES) == "3.00"
    assert number(3.0, "nats") == "3.00"
    assert number(math.log(253.0), TIMES) == "253"
    assert number(1e4, TIMES) == "e^10000"
    assert number(-0.00123, "nats") == "-0.00123"


def test_tables_say_what_failed_and_why() -> None:
    rows = [row([-1.0, -1.1, -1.2]), row([None, 1.0], name="other"), Row(claim(name="third"), None, "it was killed")]
    for said in (table(rows), markdown(rows, "forethought lecture")):
        assert "does not hold" in said
        assert "-1.10 [-1.35, -0.852] nats" in said
        assert "1 (1 failed)" in said
        assert "it was killed" in said
        assert "3 claims; holds: 0, does not hold: 1, undecided: 1, failed: 1." in said
    lines = [line for line in markdown(rows, "x").splitlines() if line.startswith("|")]
    # A bar inside a cell would make another column of it.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}
