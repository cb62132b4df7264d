"""What tests look at: words of figures, and pages in a real browser."""

import itertools
import shutil

import matplotlib.pyplot as plt

# As root in a container, without a GPU, and silent on the network.
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
]
NO_BROWSER = "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)"


def has_browser():
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


def open_browser(selenium, folder):
    """A Chromium of its own, by selenium's module `webdriver`."""
    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS, f"--user-data-dir={folder / 'profile'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = selenium.ChromeService(shutil.which("chromedriver"))
    return selenium.Chrome(options=options, service=service)


def assert_words_apart(figure, monkeypatch):
    """No words lie on each other or beyond the page."""
    drawn = []

    def record(text, renderer, method=plt.Text.draw):
        drawn.append(text)
        method(text, renderer)

    # Ticks beyond the limits are there, and are not drawn.
    monkeypatch.setattr(plt.Text, "draw", record)
    figure.canvas.draw()
    # Turned words overlap in their upright boxes alone.
    boxes = {
        text: text.get_window_extent()
        for text in drawn
        if text.get_visible() and text.get_text().strip() and text.get_rotation() in (0.0, 90.0)
    }
    assert len(boxes) > 10
    for text, box in boxes.items():
        # Two pixels: letters do not fill their boxes.
        assert min(box.x0, box.y0) > -2, text
        assert box.x1 < figure.bbox.x1 + 2 and box.y1 < figure.bbox.y1 + 2, text
    for (text, a), (other, b) in itertools.combinations(boxes.items(), 2):
        apart = a.x1 < b.x0 + 2 or b.x1 < a.x0 + 2 or a.y1 < b.y0 + 2 or b.y1 < a.y0 + 2
        assert apart, (text, other)
