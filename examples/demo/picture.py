"""make page-screenshot: the page while the embedded fleet answers; writes docs/page.png.

A ledger of its own, so that the picture shows nothing but this run. Needs tools/chromium-env.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Literal

import grpc
from PIL import Image
from playwright.async_api import ViewportSize, async_playwright

from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from examples.demo.run import serving_with_page
from examples.demo.tasks import TASKS

REPO = Path(__file__).resolve().parents[2]
CHROMIUM = REPO / "build" / "chromium" / "bin" / "chromium"
PICTURE = REPO / "docs" / "page.png"
LOAD_S = 150.0
CLIENT_COUNT = 4
LONGEST_PAUSE_S = 0.6
OUT_OF_SCOPE = ("Write a poem about the sea", "Who won the cup in 1954?", "How do I bake bread?")
CALLERS = ("shop", "support-desk", "nightly-report")
WIDTH, HEIGHT = 1440, 900
COLOR_COUNT = 256  # enough for a page of few colours, and a quarter of the bytes


async def ask_for(address: str, seconds: float) -> None:
    """Requests of every task and of none, from a few callers who pause between them."""
    end = time.monotonic() + seconds
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def caller(number: int) -> None:
            rng = random.Random(number)
            metadata = (("deltafleet-caller", CALLERS[number % len(CALLERS)]),)
            while time.monotonic() < end:
                prompt = TASKS[rng.choice(sorted(TASKS))].generate(rng).prompt
                if rng.random() < 0.05:
                    prompt = rng.choice(OUT_OF_SCOPE)
                await stub.Generate(inference_pb2.GenerateRequest(prompt=prompt), metadata=metadata)
                await asyncio.sleep(rng.random() * LONGEST_PAUSE_S)

        await asyncio.gather(*map(caller, range(CLIENT_COUNT)))


async def take(page_url: str, file: Path, scheme: Literal["light", "dark"], width: int) -> None:
    """The whole page, once it has drawn what the gateway told."""
    async with async_playwright() as drivers:
        browser = await drivers.chromium.launch(executable_path=CHROMIUM)
        size = ViewportSize(width=width, height=HEIGHT)
        page = await browser.new_page(viewport=size, color_scheme=scheme)
        await page.goto(page_url)
        await page.wait_for_selector("#status.live")
        await page.wait_for_selector("#recent tbody tr + tr")
        await page.screenshot(path=file, full_page=True)
        await browser.close()
    Image.open(file).convert("RGB").quantize(COLOR_COUNT).save(file, optimize=True)


async def main() -> None:
    """Load, picture, stop."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo.picture", description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--seconds", type=float, default=LOAD_S)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        ledger = str(Path(directory) / "ledger.sqlite3")
        async with serving_with_page(DELTAFLEET_LEDGER__PATH=ledger) as (address, page):
            await ask_for(address, asked.seconds)
            await take(page, asked.out, asked.scheme, asked.width)


if __name__ == "__main__":
    asyncio.run(main())
