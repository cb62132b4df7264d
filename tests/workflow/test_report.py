"""The report in a real browser: every figure is shown, every one has its caption."""

import pytest
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.looks import NO_BROWSER, has_browser, open_browser

pytestmark = pytest.mark.skipif(not has_browser(), reason=NO_BROWSER)

# An item of the interactive page, as its script draws it.
POINT = "svg g.marks path[aria-roledescription=point]"


@pytest.fixture
def browser(tmp_path):
    driver = open_browser(webdriver, tmp_path)
    yield driver
    driver.quit()


def wait(browser, condition):
    return WebDriverWait(browser, 20).until(condition)


def rows(browser):
    return wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "tbody tr"))


def open_category(browser, page, category):
    browser.get(page)
    wait(browser, lambda b: b.find_elements(By.LINK_TEXT, category))[0].click()
    return len(rows(browser))


def click(browser, row, icon):
    def clicked(browser):
        rows(browser)[row].find_element(By.CSS_SELECTOR, f"a[iconname={icon}]").click()
        return True

    # While the page is being drawn, its icons move.
    moving = ElementClickInterceptedException, StaleElementReferenceException
    WebDriverWait(browser, 20, ignored_exceptions=moving).until(clicked)


def figure(browser):
    """Source of the figure shown beside the menu; empty while none is loaded."""
    return browser.execute_script(
        "return [...document.querySelectorAll('img')]"
        ".filter(i => i.complete && i.offsetWidth > 300 && i.naturalWidth).map(i => i.src)[0] || ''"
    )


def assert_explained(browser, row):
    """A caption that says something is behind the second icon of a row."""
    click(browser, row, "information-circle")
    body = wait(
        browser,
        lambda b: "DESCRIPTION" in (text := b.find_element(By.TAG_NAME, "body").text) and text,
    )
    description = body.split("DESCRIPTION")[1].split("SIZE")[0]
    assert len(description.split()) > 15, f"no caption: {body[:200]}"


def test_every_figure_is_shown_and_explained(smoke, browser):
    page = (smoke.folder / "report.html").as_uri()
    shown = set()
    # What is in the table of each stage's numbers.
    known = {
        "Training": (),
        "Variability": ("noise 20%", "Claims"),
        "Spectra": ("conjugate kernel", "Claims"),
        "Surrogates": ("poisoned", "proj-trNTK", "Fits"),
        "Embeddings": ("wordllama", "Claims"),
    }
    for category in known:
        for row in range(open_category(browser, page, category)):
            label = rows(browser)[row].text
            if "table" in label or "point at" in label:
                open_category(browser, page, category)  # without the frame before
                click(browser, row, "eye")
                frame = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "iframe"))[0]
                browser.switch_to.frame(frame)
                if "point at" in label:  # forty articles
                    wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, POINT)) == 40)
                text = wait(browser, lambda b: b.find_element(By.TAG_NAME, "body").text)
                words = known[category] if "table" in label else ("wordllama", "MiniLM")
                assert all(word in text for word in words)
                browser.switch_to.default_content()
            else:
                click(browser, row, "eye")
                shown.add(wait(browser, lambda b: {figure(b)} - {""} - shown).pop())
            assert_explained(browser, row)
            browser.find_element(By.LINK_TEXT, category).click()
    assert len(shown) == len(list((smoke.folder / "results/smoke/figures").rglob("*.png")))
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
