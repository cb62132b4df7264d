"""Attacks by a study: through its YAML, its names and titles, its paths, the code it names."""

import re

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from model_metrology.study import folder_name
from tests.looks import NO_BROWSER, has_browser, open_browser

from .conftest import ROOT, Workflow

# In a browser a picture that is not there runs `onerror`; in a shell, $() and ` ` run at once.
PICTURE = "<img src=x onerror=window.ran=1>"
NAME = f"{PICTURE} it's $(touch ran) `touch ran` %2F .."
# In a caption: Jinja, and the markup and directives of reStructuredText.
TITLE = f"""{PICTURE} {{{{ 7*7 }}}} *a* `b`_ |c| $(touch ran)

.. raw:: html
   :file: evil.html

.. include:: secret.txt

end"""


def tiny_study():
    recipe = {"optimiser": "adam", "learning_rate": 0.01, "batch_size": 32, "epochs": 1}
    population = {
        "dataset": "digits2",
        "architecture": {"name": "mlp", "width": 8, "depth": 1},
        "recipe": recipe,
        "size": 5,
        "runs_per_job": 5,
    }
    return {
        "name": NAME,
        "datasets": {"digits2": {"train": 100, "test": 60}},
        "populations": {NAME: population},
        "variability": {
            "reference": {"population": NAME, "size": 3},
            "level": 0.3,
            "bootstraps": 20,
            "simulations": 20,
            "comparisons": {NAME: {"title": TITLE, "populations": [NAME]}},
        },
    }


def everything(folder):
    """All files but the workflow's own records."""
    own = {".snakemake", "__pycache__", "results"}
    return {p for p in folder.rglob("*") if not own & set(p.relative_to(folder).parts)}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A hostile study, given by a path that goes up and down, in a folder with an odd name."""
    workflow = Workflow(tmp_path_factory.mktemp("odd") / 'Ünï cödé ünd "quotes"')
    (workflow.folder / "evil.html").write_text(PICTURE)
    (workflow.folder / "secret.txt").write_text("TOP SECRET")
    (workflow.folder / "deeper").mkdir()
    study = workflow.study(tiny_study(), "hostile ü.yaml")
    before = everything(workflow.folder.parent)
    given = ["--configfile", f"deeper/../../{workflow.folder.name}/deeper/../{study.name}"]
    results = f"results/{folder_name(NAME)}"
    figure = f"{results}/figures/variability/comparison_{folder_name(NAME)}.png"
    pages = [figure, f"{results}/variability/summary.html"]
    workflow.run(*given, "--", *pages)
    workflow.run(*given, "--report", "page.html", "--", *pages)
    workflow.results = workflow.folder / results
    workflow.new = everything(workflow.folder.parent) - before
    return workflow


def test_nothing_is_written_outside_of_results(hostile):
    assert hostile.new == {hostile.folder / "page.html"}
    assert list((hostile.folder / "results").iterdir()) == [hostile.results]
    (runs,) = hostile.results.glob("training/**/runs.h5")
    assert runs.parent == hostile.results / "training" / folder_name(NAME) / "0000-0004"


def test_no_file_is_read_into_the_report(hostile):
    assert "TOP SECRET" not in (hostile.folder / "page.html").read_text()


@pytest.fixture
def browser(tmp_path):
    if not has_browser():
        pytest.skip(NO_BROWSER)
    driver = open_browser(webdriver, tmp_path)
    yield driver
    driver.quit()


def wait(browser, condition):
    return WebDriverWait(browser, 20).until(condition)


def text_of(browser):
    return " ".join(browser.find_element(By.TAG_NAME, "body").text.split())


def assert_quiet(browser):
    """No script of the study has run, and none of its text has become part of the page."""
    assert browser.execute_script("return window.ran") is None
    assert not browser.find_elements(By.CSS_SELECTOR, "img[src=x]")


def test_the_report_shows_names_and_titles_as_they_are(hostile, browser):
    browser.get((hostile.folder / "page.html").as_uri())
    wait(browser, lambda b: "belongs to the study" in text_of(b))
    assert f"belongs to the study “{NAME}”" in text_of(browser)
    assert_quiet(browser)
    # One stage alone is not named in the menu.
    wait(browser, lambda b: b.find_elements(By.LINK_TEXT, "Results"))[0].click()
    (row,) = wait(
        browser,
        lambda b: [r for r in b.find_elements(By.CSS_SELECTOR, "tbody tr") if "3 ·" in r.text],
    )
    assert PICTURE in row.text
    row.find_element(By.CSS_SELECTOR, "a[iconname=information-circle]").click()
    wait(browser, lambda b: "DESCRIPTION" in text_of(b))
    # The caption, and below it the options of the figure.
    assert text_of(browser).count(" ".join(TITLE.split())) >= 1
    assert_quiet(browser)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_tables_show_names_as_they_are(hostile, browser):
    browser.get((hostile.results / "variability" / "summary.html").as_uri())
    assert NAME in text_of(browser)
    assert_quiet(browser)


# -- YAML ----------------------------------------------------------------------------------------


def refused(workflow, text, *arguments):
    """What Snakemake says of a study that it refuses, having run nothing."""
    (workflow.folder / "evil.yaml").write_text(text)
    done = workflow.run("--dry-run", "--configfile", "evil.yaml", *arguments, check=False)
    assert done.returncode and not (workflow.folder / "results").exists()
    assert not list(workflow.folder.rglob("ran"))
    return done.stdout


RUNS = "!!python/object/apply:os.system ['touch ran']"


@pytest.mark.parametrize(
    "tag",
    [RUNS, "!!python/object/new:subprocess.Popen [['touch', 'ran']]", "!!python/module:os",
     "!!python/object:os.system {}"],
)  # fmt: skip
def test_the_loader_of_studies_makes_no_objects(tag, tmp_path, monkeypatch):
    loader = pytest.importorskip("snakemake.common.configfile")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(f"name: {tag}\n")
    with pytest.raises(Exception, match="not valid JSON or YAML"):
        loader.load_configfile(str(tmp_path / "evil.yaml"))
    assert not (tmp_path / "ran").exists()


def test_tags_of_python_are_refused(workflow):
    assert "YAML" in refused(workflow, f"name: {RUNS}\n")


def test_anchors_that_stand_for_more_than_memory_holds_are_refused(workflow):
    # Nine levels of ten: a billion texts in a few lines.
    lines = ["a0: &a0 [lol]"]
    for level in range(1, 10):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    message = refused(workflow, "\n".join([*lines, "name: x", "seed: *a9"]))
    assert re.search(r"evil\.yaml: seed: .*integer \(got \[+\.\.\.", message), message
    assert len(message) < 3000


def test_a_builder_outside_of_the_allowed_folders_stops_the_study(workflow):
    (workflow.folder / "net.pt").write_bytes(b"")
    evil = {"dataset": "digits2", "builder": "subprocess:getoutput", "checkpoint": "net.pt"}
    evil["arguments"] = {"cmd": "touch ran"}
    surrogates = {"instruments": {"evil": evil}, "train": 40, "test": 20}
    message = refused(workflow, yaml.safe_dump(tiny_study() | {"surrogates": surrogates}))
    key = (
        r"evil\.yaml: surrogates\.instruments\.evil\.builder: subprocess:getoutput is in no folder"
    )
    assert re.search(key, message) and "MODEL_METROLOGY_BUILDERS" in message
    assert "Traceback" not in message


PYTHON = "__use_yte__: true\n__definitions__: [\"open('ran', 'w')\"]\nname: x\n"


@pytest.mark.parametrize("profile", sorted(p.name for p in (ROOT / "profiles").iterdir()))
@pytest.mark.parametrize("more", ["", "tag: !!python/name:os.system\n"])
def test_python_in_a_study_is_not_evaluated(workflow, profile, more):
    given = ["--workflow-profile", f"profiles/{profile}", "--executor", "local"]
    message = refused(workflow, PYTHON + more, *given)
    assert ("is no plain YAML" if more else "__use_yte__: a study runs no code") in message
