"""A diagnosis for people: a table, and what it means in plain sentences.

A sentence says that something is wrong only where sampling error does not explain it, and that there are too few data
where it might.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from forethought.math.stats import student_quantile

SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Steps ahead in the table, as far as the horizon goes."""
FEW = 20.0
"""Independent points below which nothing is said about bands."""
MARGIN = 0.02
"""How far a share may be off, beyond sampling error, before it is worth a sentence."""
Found = dict[str, Any]


def value(number: Any) -> float:
    """A number of strict JSON: null is NaN."""
    return math.nan if number is None else float(number)


def sentences(found: Found) -> list[str]:
    """What the numbers mean."""
    return [*_beats(found), *_bands(found), *_biased(found), *_doubt(found), *_plans(found), *_broken(found)]


def plural(count: int, what: str) -> str:
    """So many of something."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _beats(found: Found) -> Iterator[str]:
    ahead, even = [a for a in found["ahead"] if a["count"]], found["break_even"]
    certain = [value(a["wins"]["low"]) > 0.5 or value(a["wins"]["high"]) < 0.5 for a in ahead]
    wins = [value(a["error"]) < value(a["persistence"]) for a in ahead]
    last = ahead[-1]["steps"]
    if all(value(a["persistence"]) == 0.0 for a in ahead):
        yield "Nothing changes in these data: there was nothing to predict."
    elif even is None or not any(certain):
        yield "There are too few data to tell whether the model beats 'nothing changes'."
    elif even == 0:
        yield f"The model beats 'nothing changes' at none of 1 to {last} steps: it is of no use as it is."
    else:
        gap = "" if all(wins[:even]) else ", though not at every number of steps below"
        far = "as far as was looked" if even == last else "and not beyond"
        yield f"The model beats 'nothing changes' up to {plural(even, 'step')}{gap}, {far}."


def _bands(found: Found) -> Iterator[str]:
    """Components whose bands hold too few points, or too many."""
    ahead = [a for a in found["ahead"] if a["count"]]
    least = min((value(e) for e in ahead[0]["coverage"]["95"]["effective"]), default=0.0)
    if least < FEW:
        yield (
            f"There are too few data to tell whether the model is as sure as it should be: about {least:.0f} "
            f"independent points, and {FEW:.0f} are needed."
        )
        return
    said = False
    for i, name in enumerate(found["components"]):
        narrow = [a for a in ahead if value(a["coverage"]["95"]["high"][i]) < 0.95 - MARGIN]
        wide = [a for a in ahead if value(a["coverage"]["80"]["low"][i]) > 0.80 + MARGIN]
        if narrow:
            first, at = narrow[0]["steps"], narrow[-1]
            since = "" if first == 1 else f" beyond {plural(first - 1, 'step')}"
            yield f"{name} is over-confident{since}: {_share(at, '95', i)} ({plural(at['steps'], 'step')} ahead)."
        if wide:
            at = wide[0]
            yield (
                f"{name} is less sure than it could be: {_share(at, '80', i)} ({plural(at['steps'], 'step')} ahead)."
            )
        said |= bool(narrow or wide)
    if not said:
        yield "The predictive bands hold as many points as they should, as far as so many data can tell."


def _share(at: Found, level: str, i: int) -> str:
    return f"{100 * value(at['coverage'][level]['by_component'][i]):.0f}% of points lie in the {level}% band"


def _biased(found: Found) -> Iterator[str]:
    """Components that are off to one side by more than half of their error."""
    one = found["one_step"]
    for i, name in enumerate(found["components"]):
        bias, error, whole = (value(one[k][i]) for k in ("bias", "bias_standard_error", "error"))
        if abs(bias) > 3.0 * error and abs(bias) > 0.5 * whole and whole > 1e-3:
            side = "high" if bias > 0 else "low"
            yield f"{name} is predicted too {side}, by {abs(bias):.2g} standard deviations at one step on average."


def _doubt(found: Found) -> Iterator[str]:
    share = value(found["ahead"][0]["epistemic_share"])
    if math.isnan(share):
        return
    if share == 0.0:
        yield "The model has no doubt about itself: all of its spread is noise, and data cannot make it smaller."
        return
    yield (
        f"At one step {100 * share:.0f}% of the predictive variance is doubt, which more data would lessen; the rest "
        "is noise, which they would not."
    )


def _plans(found: Found) -> Iterator[str]:
    it = found["exploitation"]
    gap, error, effective = (value(it[k]) for k in ("gap", "standard_error", "effective"))
    steps = plural(it["steps"], "step")
    if math.isnan(gap) or math.isnan(error) or effective < 3.0:
        yield f"There are too few data ({plural(it['windows'], 'window')} of {steps}) to tell whether plans exploit it."
        return
    bound = student_quantile(0.95, max(int(effective) - 1, 1)) * error
    material = abs(gap) > 0.01 * abs(value(it["real_return"]))
    if gap > bound and material:
        yield f"Over {steps} plans look {gap:.3g} better in the model than they were (-+ {bound:.2g}): it is exploited."
    elif gap < -bound and material:
        yield f"Over {steps} plans were {-gap:.3g} better than they look in the model (-+ {bound:.2g})."
    else:
        yield (
            f"Nothing shows that plans exploit the model: imagined minus real return over {steps} is {gap:.3g} "
            f"(-+ {bound:.2g})."
        )


def _broken(found: Found) -> Iterator[str]:
    bad = [a for a in found["ahead"] if a["count"] and value(a["finite"]) < 1.0]
    if bad:
        lost = 1.0 - value(bad[-1]["finite"])
        yield (
            f"From {100 * lost:.0f}% of the starting points the model's rollouts are not finite within "
            f"{plural(bad[-1]['steps'], 'step')}; bands are counted over the others."
        )


def text(found: Found) -> str:
    """The whole diagnosis, for the terminal."""
    numbers = [*_one_step(found), "", *_ahead(found), "", *_extras(found)]
    return "\n".join([_head(found), "", *numbers, *found["sentences"]])


def _head(found: Found) -> str:
    judged = f"{plural(found['judged_steps'], 'step')} in {plural(found['judged_episodes'], 'episode')}"
    name = f"{found['task']}, {found['algorithm']}"
    if found["mode"] == "fresh":
        return f"{name}: the saved {found['model']}, judged on {judged}, collected now by the saved controller."
    part = "" if found["whole_episodes"] else " of its only episode"
    first = plural(found["training_steps"], "step")
    return f"{name}: its {found['model']}, fitted anew to the first {first}{part}, judged on the rest, {judged}."


def _one_step(found: Found) -> Iterator[str]:
    one = found["one_step"]
    yield "one step, in standard deviations of the data"
    rows = [[n, *(_short(one[k][i]) for k in COLUMNS)] for i, n in enumerate(found["components"])]
    yield from _aligned([["", *COLUMNS.values()], *rows])


COLUMNS = {"error": "error", "bias": "bias", "aleatoric": "noise it states", "epistemic": "its doubt"}


def _ahead(found: Found) -> Iterator[str]:
    head = ["steps", "error", "nothing changes", "in 50%", "80%", "95% band", "log-likelihood", "doubt"]
    rows = []
    for a in found["ahead"]:
        if a["steps"] not in (*SHOWN, found["horizon"]) or not a["count"]:
            continue
        held = [f"{100 * value(a['coverage'][k]['share']):.0f}%" for k in ("50", "80", "95")]
        held = ["-" if "nan" in h else h for h in held]
        doubt = value(a["epistemic_share"])
        rows.append(
            [
                str(a["steps"]),
                _short(a["error"]),
                _short(a["persistence"]),
                *held,
                _short(a["log_likelihood"]),
                "-" if math.isnan(doubt) else f"{100 * doubt:.0f}%",
            ]
        )
    yield from _aligned([head, *rows])
    yield f"The noise that the model states, one step ahead: {_short(found['noise_floor'])}"


def _extras(found: Found) -> Iterator[str]:
    it = found["extras"]
    if it is not None:
        yield (
            f"reward: error {_short(it['reward_error'])} (its standard deviation is {_short(it['reward_scale'])}); "
            f"termination: right in {100 * value(it['termination_accuracy']):.1f}%, "
            f"log loss {_short(it['termination_log_loss'])}, {plural(it['terminations'], 'termination')}"
        )
        yield ""


def _short(number: Any) -> str:
    number = value(number)
    return f"{number:.3g}" if math.isfinite(number) else "-" if math.isnan(number) else "infinite"


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
