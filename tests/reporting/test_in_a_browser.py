"""The page in a real browser, headless Chromium: no error on its console, and curves, values and zoom that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from run_folders import evil_run, run_folder

from trustformers_pl.reporting.page_file import write_page

if TYPE_CHECKING:
    from pathlib import Path

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")

# What a person's mouse does. The policy in the page forbids any script but its own, so it is taken out for these.
TOUCH = """
const pointer = (type, x) => svg.dispatchEvent(new PointerEvent(type, {clientX: box.left + x, button: 0, pointerId: 1, bubbles: true}));
const svg = document.querySelector("svg"), box = svg.getBoundingClientRect();
svg.setPointerCapture = () => {};
const tell = (name, value) => { document.documentElement.dataset[name] = value; };
"""


def dumped(page: Path, script: str = "", size: str = "1200,900") -> str:
    """The document as the browser has it after the page's script; its console must stay empty."""
    if script:
        source = re.sub("<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
        page = page.with_name("touched.html")
        page.write_text(source.replace("</body>", f"<script>{TOUCH}{script}</script></body>"), encoding="utf-8")
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={size}",
         f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", page.resolve().as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def paths(dom: str) -> dict[str, str]:
    found = re.findall(r"<path[^>]*>", dom)
    named = [(re.search('data-name="([^"]*)"', tag), re.search(' d="([^"]*)"', tag)) for tag in found]
    return {name[1]: d[1] for name, d in named if name and d}


def told(dom: str, name: str) -> str:
    return re.search(f'data-{name}="([^"]*)"', dom)[1]  # type: ignore[index]


def test_curves_are_drawn(tmp_path: Path) -> None:
    drawn = paths(dumped(write_page(run_folder(tmp_path / "run"))))
    assert drawn.keys() == {"train_loss", "val_loss"}
    assert drawn["val_loss"].count("L") == 4
    assert drawn["train_loss"].count("M") == 2  # broken where it is NaN
    heights = [float(y) for y in re.findall(r",([\d.]+)", drawn["val_loss"])]
    assert heights == sorted(heights)  # it falls, and y grows downwards
    assert 0 < heights[0] < heights[-1] < 232


def test_what_a_run_calls_itself_does_no_harm(tmp_path: Path) -> None:
    dom = dumped(write_page(evil_run(tmp_path / "run")))
    assert "<title>broken out" not in dom
    assert '<html lang="en" data-theme="auto" data-drawn="3">' in dom
    assert "<img" not in dom


def test_twenty_thousand_rows_are_few_points_and_drawn_at_once(tmp_path: Path) -> None:
    page = write_page(run_folder(tmp_path / "run", rows=20_000))
    script = 'const began = performance.now(); redraw(); tell("ms", performance.now() - began);'
    dom = dumped(page, script)
    assert 400 < paths(dom)["train_loss"].count("L") < 4 * 1200
    assert float(told(dom, "ms")) < 250


def test_the_pointer_shows_values(tmp_path: Path) -> None:
    script = 'pointer("pointermove", box.width - 12); tell("tip", document.querySelector(".tip").textContent);'
    dom = dumped(write_page(run_folder(tmp_path / "run")), script)
    assert told(dom, "tip") == "step 49train_loss1.1259val_loss1.02"  # 3 exp(-49/50) + 0/50; 2 - 49/50


def test_a_drag_zooms_in_and_a_double_click_out(tmp_path: Path) -> None:
    script = """
    tell("before", document.querySelector("[data-name=val_loss]").getAttribute("d"));
    pointer("pointerdown", box.width / 2); pointer("pointermove", box.width - 12); pointer("pointerup", box.width - 12);
    tell("zoomed", document.querySelector("[data-name=val_loss]").getAttribute("d"));
    svg.dispatchEvent(new MouseEvent("dblclick", {bubbles: true}));
    tell("after", document.querySelector("[data-name=val_loss]").getAttribute("d"));
    """
    dom = dumped(write_page(run_folder(tmp_path / "run")), script)
    assert told(dom, "before") == told(dom, "after")
    assert told(dom, "zoomed").count("L") < told(dom, "before").count("L")


def test_curves_are_hidden_smoothed_and_put_on_a_log_scale_and_a_time_axis(tmp_path: Path) -> None:
    script = """
    tell("axis", document.querySelector("[data-axis=time]").disabled);
    document.querySelector("[data-axis=time]").click();
    pointer("pointermove", box.width - 12); tell("tip", document.querySelector(".when").textContent);
    byId("log").click(); tell("ticks", [...document.querySelectorAll("svg")[0].querySelectorAll("[text-anchor=end]")].map((t) => t.textContent).join(" "));
    view.weight = 0.9; redraw(); tell("raw", document.querySelectorAll(".raw").length);
    document.querySelectorAll(".legend button")[0].click(); tell("shown", svg.querySelectorAll("path[data-name]").length);
    """
    dom = dumped(write_page(evil_run(tmp_path / "run")), script)
    assert told(dom, "axis") == "false"
    assert told(dom, "tip") == "step 49 · 1:40 min"  # 50 steps of two seconds
    assert told(dom, "ticks") == "1 1.2 1.4 1.6 1.8"  # of 1.02 to 1.82: there is one power of ten
    assert told(dom, "raw") == "2"
    assert told(dom, "shown") == "0"


@pytest.mark.parametrize("width", ["400", "1400"])
def test_the_page_is_never_wider_than_the_window(tmp_path: Path, width: str) -> None:
    script = 'tell("wide", document.documentElement.scrollWidth - document.documentElement.clientWidth);'
    assert told(dumped(write_page(evil_run(tmp_path / "run")), script, f"{width},900"), "wide") == "0"
