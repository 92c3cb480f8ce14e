"""A headless Chromium that looks at the page: tools/chromium-env brings it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Page, async_playwright

from support.fleet import REPO

CHROMIUM = REPO / "build" / "chromium" / "bin" / "chromium"
# The browser waits at most so long for what a test expects: other processes may be busy.
WAIT_S = 90
# For each plot: how many values it has, and whether anything is drawn.
PLOTS = """() => [...document.querySelectorAll("canvas")].map((canvas) => {
  const shown = Chart.getChart(canvas).data.datasets;
  const { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const pixels = new Uint32Array(copy.getImageData(0, 0, width, height).data.buffer);
  return {
    id: canvas.id,
    told: canvas.ariaLabel,
    series: shown.map((one) => one.label),
    valueCount: shown.flatMap((one) => one.data).filter((one) => (one?.y ?? one) !== null).length,
    colorCount: canvas.hidden ? 0 : new Set(pixels).size,
  };
})"""


@dataclass
class Look:
    """The page in a browser. said: its console, errors included; asked: each address it wanted.

    at_first: its text before any request. answers: what the models said to those that it shows.
    """

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    at_first: str = ""
    answers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda one: self.said.append(f"{one.type}: {one.text}"))
        self.page.on("pageerror", lambda one: self.said.append(f"error: {one}"))
        self.page.on("request", lambda one: self.asked.append(one.url))

    async def until(self, condition: str) -> None:
        """Return when a JavaScript expression holds."""
        # Not by the page's own timer, which the page's policy forbids to evaluate a text.
        async with asyncio.timeout(WAIT_S):
            while not await self.page.evaluate(condition):
                await asyncio.sleep(0.1)

    async def plots(self) -> dict[str, dict[str, Any]]:
        """Each plot by its id."""
        return {one["id"]: one for one in await self.page.evaluate(PLOTS)}

    async def table(self, name: str) -> list[list[str]]:
        """A table's body as text."""
        found: list[list[str]] = await self.page.evaluate(
            "(id) => [...document.getElementById(id).tBodies[0].rows]"
            ".map((row) => [...row.cells].map((cell) => cell.textContent))",
            name,
        )
        return found


@contextlib.asynccontextmanager
async def looking(address: str, *, width: int = 1440, scheme: str = "light") -> AsyncIterator[Look]:
    """The page at host:port, once it has shown what the gateway said."""
    async with async_playwright() as drivers:
        browser = await drivers.chromium.launch(executable_path=CHROMIUM)
        page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        look = Look(page)
        await page.goto(f"http://{address}/")
        await look.until("document.querySelector('#status.live')")
        yield look
        await browser.close()
