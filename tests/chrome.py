"""A real browser for tests: Debian's Chromium without a window, driven through ChromeDriver's WebDriver protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDS = "needs Debian's chromium and chromium-driver"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio"),
    *("--disable-dev-shm-usage", "--no-default-browser-check", "--hide-scrollbars"),
)
# A proxy that does not exist: whatever a page asks of the network fails, and is seen to be asked. Loopback is direct.
OFFLINE = "--proxy-server=127.0.0.1:9"


class Chrome:
    """One window."""

    def __init__(self, port: int, profile: Path, *more: str):
        self.base = f"http://127.0.0.1:{port}"
        options = {"binary": BROWSER, "args": [*FLAGS, OFFLINE, f"--user-data-dir={profile}", *more]}
        prefs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": prefs}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{made['sessionId']}"
        self.open("about:blank")
        self.requests()  # of Chromium's own first page

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(asked, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"].split("\n")[0]) from None

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A command of the WebDriver protocol to this window."""
        return self._ask(method, self.session + path, body)

    def open(self, url: str) -> None:
        """Go there."""
        self.ask("POST", "/url", {"url": url})

    def run(self, script: str, *values: Any) -> Any:
        """What a function body returns in the page."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(values)})

    def until(self, script: str, seconds: float = 60.0) -> Any:
        """What it returns once that is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"not within {seconds} s: {script}"
            time.sleep(0.05)
        return found

    def size(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        """A screen of this size."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.devtools("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def devtools(self, command: str, values: dict[str, Any]) -> Any:
        """A command of Chromium's own."""
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": values})

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """What is on the screen, or the whole page."""
        found = self.devtools("Page.captureScreenshot", {"captureBeyondViewport": whole, "format": "png"})
        path.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """What the console said since the last call."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        entries = [json.loads(e["message"])["message"] for e in self.ask("POST", "/se/log", {"type": "performance"})]
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]


@contextlib.contextmanager
def chrome(*more: str) -> Iterator[Chrome]:
    """A window with an empty profile, gone at the end."""
    assert DRIVER is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert driver.stdout is not None
            for line in driver.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    break
            else:
                raise AssertionError("ChromeDriver did not start.")
            window = Chrome(int(found[1]), Path(profile), *more)
            try:
                yield window
            finally:
                window.ask("DELETE", "")
        finally:
            driver.terminate()
            driver.wait(30)
