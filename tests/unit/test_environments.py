"""What is pinned in one place is pinned alike in the others."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import rattler
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from model_metrology import digests
from tests.workflow.conda_stand_in import CONDA_NAMES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(pin.name): str(pin.specifier)
    for pin in map(
        Requirement,
        PROJECT["dependencies"] + EXTRAS["language"] + EXTRAS["embeddings"] + EXTRAS["hub"],
    )
}
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))


def entries(path):
    """Entries of an environment: those that conda installs, and those that pip does."""
    everything = yaml.safe_load(path.read_text())["dependencies"]
    pip = [entry for entry in everything if not isinstance(entry, str)]
    return [e for e in everything if isinstance(e, str)], pip[0]["pip"] if pip else []


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_conda_environments_have_the_versions_of_pyproject(path):
    of_conda, of_pip = entries(path)
    for entry in of_conda:
        # Parsed as conda does; which channels have it is not asked.
        spec = rattler.MatchSpec(entry, strict=True)
        name = spec.name.normalized
        if name == "python":
            assert str(spec.version) == "3.11.*"
        elif name != "pip":
            assert str(spec.version) == PINS[CONDA_NAMES.get(name, name)], entry
    for requirement in map(Requirement, of_pip):
        assert str(requirement.specifier) == PINS[canonicalize_name(requirement.name)], requirement
    assert not of_pip or "pip" in of_conda


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


IMPORT_NAMES = {
    "vl_convert": "vl-convert-python",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "seaborn": "seaborn-base",
}


def imported_at_once(path):
    """Modules that a file imports when it is itself imported: not what its functions import."""
    pending = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            pending += list(ast.iter_child_nodes(node))


def packages_of(path):
    """Packages that a file needs when it is imported, through modules of ours too."""
    pending, seen, packages = [path], set(), set()
    while pending:
        for module in imported_at_once(pending.pop()):
            top = module.partition(".")[0]
            if top != "model_metrology":
                packages.add(IMPORT_NAMES.get(top, top))
                continue
            # Importing a module imports the packages that it is in.
            parts = module.split(".")
            for size in range(1, len(parts) + 1):
                inner = digests._file_of(".".join(parts[:size]))
                if inner and inner not in seen:
                    seen.add(inner)
                    pending.append(inner)
    return packages - {"mpl_toolkits", *sys.stdlib_module_names}


def scripts_by_environment():
    """(environment, script) of every rule."""
    for path in (ROOT / "rules").glob("*.smk"):
        rules = re.split(r"^\s*rule\b.*:$", path.read_text(), flags=re.MULTILINE)[1:]
        for rule in rules:
            environment = re.search(r'"\.\./envs/(\w+\.yaml)"', rule)[1]
            yield environment, re.search(r'"\.\./scripts/(\w+\.py)"', rule)[1]


@pytest.mark.parametrize(("environment", "script"), sorted(set(scripts_by_environment())))
def test_a_rules_environment_has_what_its_script_imports(environment, script):
    if script == "figure.py":
        # It imports the figure's module by name.
        wanted = set()
        for module in (ROOT / "model_metrology" / "plots").glob("*.py"):
            wanted |= packages_of(module)
    else:
        wanted = packages_of(ROOT / "scripts" / script)
    of_conda, of_pip = entries(ROOT / "envs" / environment)
    assert not wanted - {entry.partition("=")[0] for entry in of_conda + of_pip}
