"""Makes the pictures of the documents from those that `make e2e` took: `docs/images/NAME.LANGUAGE.webp`, at most 1.5 MB in all."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SHOTS, IMAGES = ROOT / ".e2e", ROOT / "docs" / "images"
LANGUAGES = ("en", "zh")
DESK = (
    "login", "app-secrets", "channel-tested", "shop", "cashier-code", "shop-paid", "order", "order-refund", "shop-broken",
    "notification-failing", "case",
)  # fmt: skip
PHONE = ("phone",)
MOST_BYTES = 1_500_000
# Pixels: what is below is cut off.
MOST_HEIGHT = 860
_SHRINK = """async ([source, width, most]) => {
  const image = new Image(); image.src = source; await image.decode();
  const height = Math.round(Math.min(image.height * width / image.width, most));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(image, 0, 0, image.width, height * image.width / width, 0, 0, width, height);
  return canvas.toDataURL("image/webp", 0.85) }"""


def sources() -> dict[str, tuple[Path, int]]:
    """Name of a picture, the screenshot it is made of, and its width in pixels."""
    found = {}
    for language in LANGUAGES:
        for size, names, width in (("desk", DESK, 1024), ("phone", PHONE, 390)):
            for name in names:
                matching = [path for path in (SHOTS / f"{language}-{size}").glob("*.png") if path.stem[3:] == name]
                if not matching:
                    sys.exit(f"There is no picture {name} of {language}-{size} in {SHOTS}. Run `make e2e` first.")
                found[f"{name}.{language}"] = (matching[0], width)
    return found


def main() -> None:
    """Make them anew."""
    made: dict[str, bytes] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=("--no-sandbox", "--disable-gpu"))
        page = browser.new_page()
        for name, (path, width) in sources().items():
            source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            made[name] = base64.b64decode(page.evaluate(_SHRINK, [source, width, MOST_HEIGHT]).partition(",")[2])
        browser.close()
    total = sum(map(len, made.values()))
    if total > MOST_BYTES:
        sys.exit(f"The pictures have {total} bytes, more than {MOST_BYTES}.")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for old in IMAGES.glob("*.webp"):
        old.unlink()
    for name, content in made.items():
        (IMAGES / f"{name}.webp").write_bytes(content)
    print(f"{len(made)} pictures, {total // 1000} kB")


if __name__ == "__main__":
    main()
