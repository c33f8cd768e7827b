"""A picture of the running page, for the README: ``python -m tests.screen.picture URL OUT [--light]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from tests.screen.browser import DESKTOP, MISSING, Page, chromium

_COLOURS = 96  # of a palette: the picture has few, and so it is a quarter as large


def take(url: str, out: Path, *, size: tuple[int, int] = DESKTOP, is_dark: bool = True) -> None:
    """Wait until candles are drawn, and save what is seen as a small PNG."""
    with chromium() as driver:
        page = Page(driver, url.rstrip("/"))
        page.open(size=size, is_dark=is_dark)
        page.wait_for_candles()
        page.wait_for_updates(2)
        page.save(out)
    shrink(out)


def shrink(picture: Path) -> None:
    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def main() -> None:
    if MISSING:
        raise SystemExit(f"taking a picture {MISSING}")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("url", help="the page's address, such as http://localhost:8501")
    parser.add_argument("out", type=Path, help="the PNG to write")
    parser.add_argument("--light", action="store_true", help="the light theme; dark is the default")
    arguments = parser.parse_args()
    take(arguments.url, arguments.out, is_dark=not arguments.light)


if __name__ == "__main__":
    main()
