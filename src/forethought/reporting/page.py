"""The one HTML file: data, the plotting library and a small script, with a policy that lets nothing else in or out."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import html
import importlib
import json
from importlib import resources
from typing import Any

from forethought.errors import UserError
from forethought.reporting.charts import plural

LARGEST = 8 * 10**6
"""Bytes that a page may have."""
EXTRA = "pip install 'forethought[report]'"


def library() -> str:
    """plotly.js, out of the package that ships it.  Raises `UserError` where that is missing."""
    try:
        return importlib.import_module("plotly.offline").get_plotlyjs()
    except ImportError:
        raise UserError(
            f"The page is drawn by the package plotly, which is not installed; install it with {EXTRA}."
        ) from None


def page(data: dict[str, Any] | None, title: str) -> bytes:
    """The page with its data in it, or, without data, one that asks for data.json beside it again and again."""
    script, style = (resources.files("forethought.reporting").joinpath(f"page.{kind}") for kind in ("js", "css"))
    code, plotly, live = script.read_text(encoding="utf-8"), library(), data is None
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape(policy(code, plotly, live=live))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="{GENERATOR}">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{style.read_text(encoding="utf-8")}</style>
</head>
<body{' data-live="yes"' if live else ""}>
<p class="status" id="status">Drawing ...</p>
<noscript><p>This page draws what it shows with a script, and scripts are switched off here.</p></noscript>
<main id="root"></main>
<script type="application/json" id="data">{embedded(data)}</script>
<script type="text/plain" id="plotly">{_packed(plotly)}</script>
<script>{code}</script>
</body>
</html>
""".encode()


GENERATOR = "forethought report"


@functools.lru_cache(maxsize=1)
def _packed(text: str) -> str:
    """Compressed it is a third: a page can be sent by mail, and has room for moving pictures."""
    return base64.b64encode(gzip.compress(text.encode(), 5, mtime=0)).decode()


def embedded(data: Any) -> str:
    """JSON that can stand inside a script element: no tag can begin in it."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def policy(code: str, plotly: str, *, live: bool) -> str:
    """The Content-Security-Policy: our script and plotly.js by their hashes, pictures that are in the page, no requests
    but for a live page's own data."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in (code, plotly)
    )
    rules = {
        "default-src": "'none'",
        "script-src": hashes,
        "style-src": "'unsafe-inline'",  # plotly.js writes styles into the elements that it makes
        "img-src": "data:",
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def checked(made: bytes, runs: int = 1) -> bytes:
    """The page about so many runs, if it is not too large.  Raises `UserError`."""
    if len(made) > LARGEST:
        raise UserError(
            f"The page would have {plural(len(made), 'byte')}, and {plural(LARGEST, 'byte')} are allowed: "
            + ("name fewer runs." if runs > 1 else "leave out --video, or give --no-fan.")
        )
    return made
