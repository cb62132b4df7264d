"""What is pinned in one place is pinned alike in the others."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PINS = dict(
    pin.split("==")
    for pin in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
)
CONDA_NAMES = {"pytorch": "torch"}
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_conda_environments_have_the_versions_of_pyproject(path):
    for entry in yaml.safe_load(path.read_text())["dependencies"]:
        name, _, version = entry.partition("=")
        if name != "python":
            assert version == PINS[CONDA_NAMES.get(name, name)], entry


def test_every_rule_names_an_environment_that_exists():
    used = set()
    for path in (ROOT / "rules").glob("*.smk"):
        used |= set(re.findall(r'"\.\./envs/(\w+)\.yaml"', path.read_text()))
    assert used == {path.stem for path in ENVIRONMENTS}


@pytest.mark.parametrize("path", sorted((ROOT / "rules").glob("*.smk")), ids=lambda p: p.stem)
def test_every_rule_has_log_benchmark_threads_resources_and_script(path):
    rules = re.split(r"^\s*rule\b.*:$", path.read_text(), flags=re.MULTILINE)[1:]
    for rule in rules:
        for key in ("log", "benchmark", "threads", "resources", "conda", "script"):
            found = re.search(rf"^\s+{key}:", rule, re.MULTILINE)
            assert found, f"{key} is missing in: {rule[:90]}"


def test_every_script_belongs_to_a_rule():
    text = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    for script in (ROOT / "scripts").glob("*.py"):
        assert f'"../scripts/{script.name}"' in text, script.name
