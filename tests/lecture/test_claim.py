"""The judge, and the list of claims."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from forethought.lecture import text
from forethought.lecture.catalogue import CLAIMS
from forethought.lecture.claim import TIMES, judge, log_ratio

DOCS = Path(__file__).resolve().parents[2] / "docs" / "lecture.md"

# t(97.5%, 2 degrees of freedom) = 4.3027, from a table: 2 -+ 4.3027 / sqrt(3) of the effects 1, 2, 3.
LOW, HIGH = 2.0 - 4.30265 / math.sqrt(3.0), 2.0 + 4.30265 / math.sqrt(3.0)


@pytest.mark.parametrize(
    ("margin", "verdict"),
    [
        (LOW - 1e-3, "holds"),
        (LOW + 1e-3, "undecided"),
        (2.0, "undecided"),
        (HIGH - 1e-3, "undecided"),
        (HIGH + 1e-3, "does not hold"),
    ],
)
def test_the_whole_interval_decides(margin, verdict) -> None:
    found = judge([1.0, 2.0, 3.0], margin)
    assert found.verdict == verdict
    assert found.mean == 2.0
    assert found.interval == pytest.approx((LOW, HIGH), abs=1e-4)
    assert (found.count, found.failed) == (3, 0)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_a_claim_with_a_failed_seed_cannot_hold(bad) -> None:
    """Nor is it saved by one: what the other seeds say against it counts."""
    good = judge([5.0, 5.1, 5.2, bad], 0.0)
    assert (good.verdict, good.count, good.failed) == ("undecided", 3, 1)
    assert good.mean == pytest.approx(5.1)
    assert judge([5.0, 5.1, 5.2], 0.0).verdict == "holds"
    assert judge([-5.0, -5.1, bad, -5.2], 0.0).verdict == "does not hold"


def test_few_seeds() -> None:
    """One seed has no interval, none has no mean: both are undecided."""
    assert judge([9.0], 0.0) == ("undecided", 9.0, None, 1, 0)
    assert judge([], 0.0) == ("undecided", None, None, 0, 0)
    assert judge([None, math.nan], 0.0) == ("undecided", None, None, 0, 2)


def test_seeds_that_agree_exactly() -> None:
    """An interval without width is on one side, or at the margin, which decides nothing."""
    assert judge([1.0, 1.0], 0.5).verdict == "holds"
    assert judge([1.0, 1.0], 1.0).verdict == "undecided"
    assert judge([1.0, 1.0], 1.5).verdict == "does not hold"


@pytest.mark.parametrize(("above", "below"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_a_ratio_of_what_is_not_positive_is_a_failure(above, below) -> None:
    assert math.isnan(log_ratio(above, below))


def test_log_ratio() -> None:
    assert log_ratio(6.0, 2.0) == pytest.approx(math.log(3.0))


def test_the_claims_can_be_told_apart_and_measured() -> None:
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    assert sum(bool(claim.seeds) for claim in CLAIMS) >= 12
    for claim in CLAIMS:
        assert re.fullmatch(r"[a-z0-9-]+", claim.name), claim.name  # it is the name of a file
        for words in (claim.section, claim.sentence, claim.prediction, claim.how, claim.unit):
            assert words == words.strip() != ""
        assert math.isfinite(claim.margin)
        assert not claim.seeds or len(claim.seeds) >= 5
        assert len(claim.full_seeds) >= 3
        for seeds in (claim.seeds, claim.full_seeds):
            assert len(set(seeds)) == len(seeds)
            assert all(seed >= 100 for seed in seeds), "seeds below 100 are for trying experiments out"
        assert claim.unit != TIMES or abs(claim.margin) < math.log(100.0)


def test_every_measure_is_its_own() -> None:
    """What `dataclasses.replace` copies must not be the experiment, nor the reason why another claim does not hold."""
    assert len({claim.measure for claim in CLAIMS}) == len(CLAIMS)
    assert len({claim.prediction for claim in CLAIMS}) == len(CLAIMS)
    notes = [claim.note for claim in CLAIMS if claim.note]
    assert len(set(notes)) == len(notes)


def test_the_page_of_the_documents_lists_what_is_measured() -> None:
    """`forethought lecture --list --markdown` is in docs/lecture.md, word for word, and every claim was measured."""
    written = DOCS.read_text(encoding="utf-8")
    assert text.catalogue(CLAIMS) in written
    measured = written[written.index("## What was measured") :]
    for claim in CLAIMS:
        assert measured.count(f"| `{claim.name}` | {claim.prediction} |") == 1, claim.name
