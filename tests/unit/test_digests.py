"""Digests follow the code a stage rests on, and nothing else."""

import pytest

from model_metrology import digests


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "model_metrology"
    (root / "sub").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "sub" / "__init__.py").write_text("from model_metrology.sub.inner import f\n")
    (root / "sub" / "inner.py").write_text("import model_metrology.leaf\nf = 1\n")
    (root / "leaf.py").write_text("x = 1\n")
    (root / "other.py").write_text("y = 1\n")
    monkeypatch.setattr(digests, "_PACKAGE", root)
    digests.code_digest.cache_clear()
    yield root
    digests.code_digest.cache_clear()


def digest_after(path, text):
    path.write_text(text)
    digests.code_digest.cache_clear()
    return digests.code_digest("model_metrology.sub")


def test_follows_imports_of_imports(package):
    before = digests.code_digest("model_metrology.sub")
    assert digest_after(package / "leaf.py", "x = 2\n") != before


def test_ignores_modules_that_are_not_imported(package):
    before = digests.code_digest("model_metrology.sub")
    assert digest_after(package / "other.py", "y = 2\n") == before


def test_a_module_and_what_it_imports_can_be_left_out(package):
    def without_inner():
        digests.code_digest.cache_clear()
        return digests.code_digest("model_metrology.sub", without="model_metrology.sub.inner")

    with pytest.raises(ValueError, match=r"model_metrology\.sub\.iner: no such module"):
        digests.code_digest("model_metrology.sub", without="model_metrology.sub.iner")
    before = without_inner()
    for path in ("leaf.py", "sub/inner.py"):
        (package / path).write_text("x = 2\n")
    assert without_inner() == before != digests.code_digest("model_metrology.sub")
    (package / "sub" / "__init__.py").write_text("y = 1\n")
    assert without_inner() != before


def test_unknown_module_is_named(package):
    with pytest.raises(ValueError, match=r"model_metrology\.nothing"):
        digests.code_digest("model_metrology.nothing")


def test_content_digest_ignores_the_order_of_keys():
    assert digests.content_digest({"a": 1, "b": [2]}) == digests.content_digest({"b": [2], "a": 1})
    assert digests.content_digest({"a": 1}) != digests.content_digest({"a": 2})


def test_training_does_not_rest_on_the_analyses():
    # A new option of an analysis, or a new figure, must not make trained runs out of date.
    found = []
    for name in ("model_metrology.training",):
        pending = [name]
        while pending:
            module = pending.pop()
            path = digests._file_of(module)
            if path and path not in found:
                found.append(path)
                pending.extend(digests._imports(path))
    names = {str(path.relative_to(digests._PACKAGE)) for path in found}
    assert {"recipes.py", "store.py", "training/loop.py"} <= names
    assert not [
        name for name in names if name.startswith(("study", "files", "variab", "plots", "devices"))
    ]


def test_modules_are_asked_for_what_is_in_them():
    # A package that takes names from its modules when they are used hides which these are.
    for path in digests._PACKAGE.rglob("*.py"):
        for name in digests._imports(path):
            package, _, asked = name.rpartition(".")
            home = digests._file_of(package)
            if home and home.name == "__init__.py" and not digests._file_of(name):
                assert "lazy_names" not in home.read_text(), f"{path}: take {asked} from its module"
