"""Take the picture of a report's first screen that the root README shows.

    python -m tests.benchmarks.page_picture REPORT.html PICTURE.png

Opens the page in Debian's Chromium without a window (packages chromium and chromium-driver), 1200 pixels wide, and
saves its first screen as a PNG of 128 colours.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDTH, HEIGHT = 1200, 1000
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1")
COLOURS = 128


def main(page: Path, picture: Path) -> None:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False,
        })  # fmt: skip
        browser.get(page.resolve().as_uri())
        shot = browser.get_screenshot_as_png()
    finally:
        browser.quit()
    image = Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS)
    image.save(picture, optimize=True)
    print(f"{picture}: {image.width} x {image.height} pixels, {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
