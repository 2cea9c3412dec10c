"""Pages of `forethought report` as a browser shows them: pictures at a laptop's and a phone's width, to be looked at.

    python bench/report_browser.py OUT PAGE.html...

OUT is a folder outside the repository.  Each page is also checked: everything draws, nothing complains, nothing is
asked of the network.  It needs Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from chrome import chrome

SIZES = {"laptop": (1366, 768), "phone": (390, 844)}
ALL = "dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'));"


def main(out: Path, pages: list[Path]) -> int:
    out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with chrome() as window:
        for path in pages:
            for name, (width, height) in SIZES.items():
                for dark in (False, True):
                    window.size(width, height, phone=name == "phone", dark=dark)
                    window.open(path.absolute().as_uri())
                    window.until("return document.querySelectorAll('section').length")
                    window.run(ALL)
                    window.until(
                        "return [...document.querySelectorAll('.plot')].every((p) => p.querySelector('.main-svg'))"
                    )
                    where = out / f"{path.parent.name}-{name}{'-dark' if dark else ''}.png"
                    window.screenshot(where, whole=True)
            said, asked = window.complaints(), [u for u in window.requests() if not u.startswith(("file:", "data:"))]
            wrong += len(said) + len(asked)
            print(path, f"{path.stat().st_size / 1e6:.2f} MB", said or "no complaint", asked or "no request")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]]))
