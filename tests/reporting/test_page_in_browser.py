"""The page in a real browser: it opens from the disk, everything draws, nothing complains, and nothing is asked for."""

from __future__ import annotations

import base64
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

import chrome as browser
from forethought.reporting.contents import Beside, contents
from forethought.reporting.film_panel import Film, Picture
from forethought.reporting.page import LARGEST, checked, page
from forethought.reporting.records import read_records
from forethought.reporting.serving import Resource, Server
from forethought.reporting.watch import Live
from forethought.runs.files import seal
from report_cases import NAME, config, diagnosis, invented_fan, write_run

pytestmark = pytest.mark.skipif(not (browser.BROWSER and browser.DRIVER), reason=browser.NEEDS)

DRAW = "dispatchEvent(new Event('beforeprint'))"
"""Draws also what has not been scrolled to."""
READY = "return document.querySelectorAll('section').length > 0 || document.getElementById('status').textContent"
EMPTY = """return [...document.querySelectorAll('.plot')].filter((p) => {
    const marks = p.querySelectorAll('.main-svg .scatterlayer path, .main-svg .heatmaplayer image');
    return ![...marks].some((m) => m.tagName === 'image' || m.getAttribute('d'));
}).map((p) => p.id)"""
SECTIONS = "return [...document.querySelectorAll('section')].map((s) => s.dataset.panel)"
BLANK = """return [...document.querySelectorAll('section')]
    .filter((s) => !s.querySelector('.plot, table, .missing, .caption, img')).map((s) => s.dataset.panel)"""
MARKUP = (
    "return [...document.querySelectorAll('a[href^=http], b, svg a, svg tspan[style*=weight]')].map((e) => e.outerHTML)"
)
"""What a name has become: plotly.js makes links and bold text of its own in the plots."""
WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
USUAL = {"returns", "fan", "error", "calibration", "planner", "film", "events", "provenance", "other"}


@pytest.fixture(scope="module")
def window():
    with browser.chrome() as found:
        found.size(1366, 768)
        yield found


def written(path, runs, beside):
    made = checked(page(contents(runs, beside), "a page"))
    assert len(made) <= LARGEST == 8_000_000
    path.write_bytes(made)
    return path


def require_sound(window, path):
    """Open it, draw everything, and let no plot, section or request be wrong."""
    window.complaints(), window.requests()
    window.open(path.as_uri())
    assert window.until(READY) is True
    assert window.run(WIDE) <= 0, "the page is wider than the window"
    window.run(DRAW)
    assert window.run(EMPTY) == []
    assert window.run(BLANK) == []
    assert window.complaints() == []
    assert [url for url in window.requests() if not url.startswith(("data:", path.as_uri()))] == []


def moving_picture() -> Picture:
    frames = [Image.fromarray(np.full((24, 32, 3), 60 * i, np.uint8)) for i in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=100, loop=0)
    return Picture("best: start 1000, return -1", out.getvalue(), 32, 24)


def test_a_run_without_episodes(window, tmp_path):
    run = read_records(write_run(tmp_path / "run", episodes=0))
    require_sound(window, written(tmp_path / "x.html", [run], [Beside(no_fan=["There is no fan."])]))
    assert set(window.run(SECTIONS)) == USUAL
    assert window.run("return document.querySelectorAll('.plot').length") == 0
    assert "What is missing" in window.run("return document.body.textContent")


def test_a_run_with_one_episode_whose_fan_is_scrubbed(window, tmp_path):
    run = read_records(write_run(tmp_path / "run", episodes=1))
    window.size(1366, 768, dark=True)
    require_sound(window, written(tmp_path / "x.html", [run], [Beside(invented_fan(run), 3)]))
    assert window.run("return document.querySelectorAll('.plot').length") >= 8
    # As it would be on paper: in dark ink, whatever the screen's colours are.
    assert window.run("return document.querySelector('.plot text').style.fill") == "rgb(28, 33, 39)"
    paper = base64.b64decode(window.devtools("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"])
    assert paper.count(b"/Type /Page\n") >= 3
    window.run("dispatchEvent(new Event('afterprint'))")
    assert window.run("return document.querySelector('.plot text').style.fill") == "rgb(230, 232, 235)"
    bands = "return JSON.stringify(document.getElementById('run0-fan-plot').data.map((t) => [t.x, t.y]))"
    move = """const slider = document.querySelector('[data-panel=fan] input[type=range]');
        slider.value = arguments[0]; slider.dispatchEvent(new Event('input'));
        return document.querySelector('[data-panel=fan] output').textContent"""
    before = window.run(bands)
    assert window.run(move, 7) == "step 7 of 20"
    after = window.run(bands)
    assert before != after
    begins = [x[0] for x, y in json.loads(after) if len(x) == 1]
    assert begins == [7, 7, 7]  # the dot of each component


EVIL = "Ünïcode-任務 <b>bold</b> <a href='https://evil.example'>x</a>"
LOCAL = {"local_kl": [1.0, 2.0], "local_epsilon": [1.5, 1.5], "local_multiplier": [0.1, 0.2]} | {
    "local_predicted": [3.0, 2.0],
    "local_actual": [2.5, None],
    "local_status": ["solved", "failed"],
}
GRADIENT = {"improve_cost": 3.0, "improve_snr": 0.5, "improve_adjoint": [4.0, 2.0, 0.0], "improve_exponent": -0.1}


def test_many_episodes_many_components_gaps_and_strange_names_on_a_phone(window, tmp_path):
    more = {"fit_says": EVIL, "always_null": None, "constant": 0.0}
    many = write_run(tmp_path / "lauf-実行", episodes=500, rows=12, n=50, m=6, broken=True, task=EVIL, lines=more)
    (many / "diagnosis.json").write_bytes(seal(diagnosis(n=50)))
    others = [write_run(tmp_path / k, kind=k, lines=v) for k, v in {"Local": LOCAL, "V20": GRADIENT}.items()]
    runs = [read_records(path) for path in (many, *others)]
    film = Film([moving_picture()], ["One is missing."])
    fan = invented_fan(runs[0], horizon=10)
    fan["episodes"][0]["label"] = "episode 0 (the best and the worst, return -1234567890, broken off)"
    beside = [Beside(fan, 50, film=film), Beside(), Beside()]
    window.size(390, 844, phone=True)
    require_sound(window, written(tmp_path / "x.html", runs, beside))
    assert window.run(SECTIONS)[0] == "together"
    text = window.run("return document.body.textContent")
    assert EVIL in text
    assert "167 training returns are not finite" in text
    assert "Of 50 state components the 8 components" in text
    assert window.run(MARKUP) == []
    choose = """const select = document.querySelector('[data-panel=fan] select');
        const plot = document.getElementById('run0-fan-plot');
        const before = JSON.stringify(plot.data); select.value = 0; select.dispatchEvent(new Event('change'));
        return [select.options.length, before !== JSON.stringify(plot.data)]"""
    assert window.run(choose) == [8, True]
    # The film can be stopped.
    assert window.run("return document.querySelector('.videos img').naturalWidth") == 32
    window.run("document.querySelector('.videos button').click()")
    assert window.run("return document.querySelector('.videos img').hidden") is True
    show = "const s = document.getElementById('runs'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
    for i, panel in ((1, "local"), (2, "gradient")):
        window.run(show, i)
        window.run(DRAW)
        assert panel in window.run(SECTIONS)
        assert window.run(EMPTY) == []
    assert window.complaints() == []


def test_no_name_becomes_a_link_or_a_colour(window, tmp_path):
    local = write_run(tmp_path / "local", kind="Local", lines=LOCAL | {EVIL[:70]: 1.0})
    recipe = config(kind="Local")
    recipe["algorithm"]["conditions"] = [EVIL, "<b>x</b>"]
    (local / "config.json").write_bytes(seal({"format": 2, "run": NAME, "experiment": recipe}))
    seeds = [write_run(tmp_path / f"s{i}", kind=EVIL, seed=i) for i in range(3)]
    named = [write_run(tmp_path / name, steps=i) for i, name in enumerate(("@1", "@x"))]
    runs = [read_records(path) for path in (local, *seeds, *named)]
    window.size(1366, 768)
    require_sound(window, written(tmp_path / "x.html", runs, [Beside()] * 6))
    assert window.run(MARKUP) == []
    names = window.run("return [...document.querySelectorAll('.legendtext')].map((t) => t.textContent)")
    assert {"@1, evaluated", "@x, evaluated"} <= set(names)
    assert any(name.startswith("Ünïcode-任務 <b>bold") and name.endswith("mean over 3 seeds") for name in names)
    assert any(name.startswith("condition Ünïcode") for name in names)


def test_what_is_not_certain_is_not_green_and_paper_has_all_of_a_long_text(window, tmp_path):
    paths = [write_run(tmp_path / f"r{i}", threshold=-185.0, seed=i, note=["x" * 50] * 200) for i in range(2)]
    (paths[0] / "diagnosis.json").write_bytes(seal(diagnosis(n=3) | {"sentences": ["a", "b", "c", "d", "e <b>"]}))
    runs = [read_records(path) for path in paths]
    require_sound(window, written(tmp_path / "x.html", runs, [Beside()] * 2))
    word, kind = window.run("const v = document.querySelector('.verdict'); return [v.textContent, v.className.trim()]")
    assert word.endswith(", not certain")
    assert kind == "verdict"
    said = window.run("return [...document.querySelectorAll('[data-panel=error] li')].map((e) => e.textContent)")
    assert said == ["a", "b", "c", "d", "e <b>"]
    window.run("document.querySelector('details').open = true")
    cut = "const p = document.querySelector('pre'); return p.scrollHeight - p.clientHeight"
    shown = "return getComputedStyle(document.querySelector('.paper')).display"
    assert window.run(cut) > 100
    assert window.run(shown) == "none"
    window.devtools("Emulation.setEmulatedMedia", {"media": "print"})
    assert window.run(cut) <= 1
    assert window.run(shown) == "block"
    assert "only r0 is printed" in window.run("return document.querySelector('.paper').textContent")
    window.devtools("Emulation.setEmulatedMedia", {"media": ""})


def test_a_live_page_follows_its_run_and_asks_for_nothing_else(window, tmp_path):
    path = write_run(tmp_path / "run", episodes=2)
    live, whole = Live(path), page(None, "live")
    resources = {"": Resource("text/html", lambda: whole), "data.json": Resource("application/json", live.json)}
    server = Server(0, "token", resources)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    window.size(1366, 768)
    try:
        window.complaints(), window.requests()
        window.open(server.url)
        window.until("return document.querySelectorAll('section').length > 0")
        assert "40 real steps" in window.run("return document.body.textContent")
        window.run("document.querySelector('details').open = true")
        number = "const s = document.querySelector('[data-panel=other] select'); "
        window.run(number + "s.value = 2; s.dispatchEvent(new Event('change'))")
        chosen = window.run(number + "return s.options[s.selectedIndex].text")
        line = (path / "metrics.jsonl").read_text().splitlines()[-1]
        with (path / "metrics.jsonl").open("a") as out:
            out.write(line.replace('"env_steps": 40', '"env_steps": 60, "aaa_new": 1.5') + "\n")
        live.due = 0.0
        window.until("return document.body.textContent.includes('60 real steps')", 30)
        assert window.run(number + "return s.options[1].text") != chosen
        assert window.run(number + "return s.options[s.selectedIndex].text") == chosen
        assert window.run("return document.querySelector('details').open") is True
        window.run(DRAW)
        assert window.run(EMPTY) == []
        # A look that fails says so, and what was seen before stays.
        (path / "config.json").rename(tmp_path / "aside")
        live.due = 0.0
        window.until("return document.getElementById('status').textContent.includes('cannot be shown now')", 30)
        assert "60 real steps" in window.run("return document.body.textContent")
        (tmp_path / "aside").rename(path / "config.json")
        live.due = 0.0
        window.until("return document.getElementById('status').textContent.startsWith('Live')", 30)
        assert window.complaints() == []
        asked = {url for url in window.requests() if not url.startswith("data:")}
        assert asked == {server.url, server.url + "data.json"}
        window.open("about:blank")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
