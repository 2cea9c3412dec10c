"""The command `forethought report`, and the one file that it writes."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import sys

import pytest

from forethought.reporting import page as pages
from forethought.reporting.page import checked, embedded, page
from forethought.reporting.report import destination, parse
from report_cases import data_of, write_run
from small import call

QUICK = ("--no-fan", "--quiet")


def test_a_page_is_written_into_the_run(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    answer = call(capsys, "report", run, *QUICK)
    assert answer.status == 0, answer.err
    assert "report.html" in answer.out
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "report.html"} == before
    assert data_of(run / "report.html")["runs"][0]["title"] == "Pendulum-v1: v1.5, seed 0"
    assert (run / "report.html").stat().st_size < 3e6
    assert call(capsys, "report", run, *QUICK).status == 0  # its own page it writes again


def test_no_text_of_a_run_commands_the_terminal(tmp_path, capsys):
    evil = "evil:\x1b]0;owned\x07\x1b[31mRED\nmissing: nothing"
    run = write_run(tmp_path / "run", task=evil, evaluated=[])
    answer = call(capsys, "report", run, "--no-fan")
    assert answer.status == 0, answer.err
    assert "owned" in answer.out
    assert "\x1b" not in answer.out
    assert "\x07" not in answer.out
    assert "\nmissing: nothing" not in answer.out


def test_the_answer_as_json_says_what_is_missing(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    found = call(capsys, "report", run, "--no-fan", "--json", "--out", tmp_path / "x.html").json
    assert found["report"] == str(tmp_path / "x.html")
    assert found["bytes"] == (tmp_path / "x.html").stat().st_size
    assert "No fan was asked for (--no-fan)." in found["missing"]["run"]


def test_several_runs_are_one_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / f"run {i}", seed=i) for i in range(3)]
    assert call(capsys, "report", *runs, *QUICK).status == 0
    data = data_of(tmp_path / "report.html")
    assert [r["label"] for r in data["runs"]] == ["run 0", "run 1", "run 2"]
    assert [row[0] for row in data["together"][0]["table"]["rows"]] == ["run 0", "run 1", "run 2"]


def test_a_file_of_somebody_else_is_not_written_over(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    (tmp_path / "thesis.html").write_text("my thesis")
    answer = call(capsys, "report", run, *QUICK, "--out", tmp_path / "thesis.html")
    assert answer.status == 2
    assert "exists and is no report" in answer.err
    assert (tmp_path / "thesis.html").read_text() == "my thesis"
    (tmp_path / "link.html").symlink_to(tmp_path / "thesis.html")
    assert call(capsys, "report", run, *QUICK, "--out", tmp_path / "link.html").status == 2
    (run / "report.html").write_text("mine too")
    assert call(capsys, "report", run, *QUICK).status == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "at least one run directory, and none was given"),
        (["{missing}"], "there is no such folder"),
        (["{run}", "--out", "{missing}/x.html"], "there is no folder"),
        (["{run}", "--out", "{run}"], "is a folder"),
        (["{run}", "{run}", "--video"], "--video, --task, --experiment and --env are for a report about one run"),
        (["{run}", "--vidoe"], "The nearest is --video"),
        (["{run}"] * 51, "at most 50 run directories, and 51 were given"),
        (["\x00"], "takes run directories"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path, capsys, words, sentence):
    run = write_run(tmp_path / "run", episodes=0)
    filled = [w.format(run=run, missing=tmp_path / "missing") for w in words]
    answer = call(capsys, "report", *filled)
    assert answer.status == 2
    assert sentence in answer.err
    assert answer.err.count("\n") == 1


def test_without_the_plotting_library_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    answer = call(capsys, "report", write_run(tmp_path / "run"), *QUICK)
    assert answer.status == 2
    assert "pip install 'forethought[report]'" in answer.err


def test_the_policy_names_the_scripts_and_lets_nothing_else_in(tmp_path):
    text = page({"runs": []}, "t").decode()
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert found is not None
    policy = html.unescape(found[1])
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'none'"
    assert rules["img-src"] == "data:"
    scripts = [re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0], pages.library()]
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in rules["script-src"]
    assert "unsafe" not in rules["script-src"]
    # Nothing is fetched, and no element has a handler of its own.
    assert not re.search(r"""(?:src|href)=["']?(?!data:)[a-z]+:""", text.split('id="plotly"')[0])
    assert not re.search(r"\son[a-z]+=", text.split('id="plotly"')[0])
    assert "connect-src 'self'" in html.unescape(page(None, "t").decode())


def test_no_name_can_end_the_data_or_begin_an_element(tmp_path, capsys):
    evil = "</script><script>alert(1)</script><!--"
    run = write_run(tmp_path / "<b>run", task=evil, lines={"fit_says": evil, "<img src=x onerror=alert(1)>": 1.0})
    assert call(capsys, "report", run, *QUICK, "--out", tmp_path / "x.html").status == 0
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 3
    assert "<img" not in text
    assert data_of(tmp_path / "x.html")["runs"][0]["title"].startswith(evil)
    assert "<" not in embedded({"x": evil})


def test_a_page_that_is_too_large_is_refused():
    from forethought.errors import UserError

    with pytest.raises(UserError, match=r"8 000 001 bytes.*leave out --video, or give --no-fan"):
        checked(b"x" * 8_000_001)
    with pytest.raises(UserError, match="name fewer runs"):
        checked(b"x" * 8_000_001, 2)


def test_the_environment_is_named_again_in_front_of_other_flags(tmp_path):
    asked = parse([str(tmp_path), "--env.xml_file", "a.xml", "--out", str(tmp_path / "x.html")])
    assert (asked.env, asked.runs) == ({"xml_file": "a.xml"}, [tmp_path])
    assert destination(asked) == tmp_path / "x.html"


def test_a_run_that_cannot_be_opened_has_every_other_panel(tmp_path, capsys):
    run = write_run(tmp_path / "run")  # it has no checkpoint
    answer = call(capsys, "report", run, "--json")
    assert answer.status == 0, answer.err
    assert any("cannot be opened" in s and "no checkpoint" in s for s in answer.json["missing"]["run"])
    assert len(data_of(run / "report.html")["runs"][0]["panels"]) == 9
    strange = write_run(tmp_path / "strange", task="module:Env-v0")
    assert any(
        "--task module:Env-v0" in s for s in call(capsys, "report", strange, "--json").json["missing"]["strange"]
    )
