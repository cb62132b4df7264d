"""Apertium: texts go through the program one by one, wherever the program is."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_metrology.embeddings import apertium
from model_metrology.embeddings.apertium import (
    ApertiumError,
    apertium_available,
    apertium_version,
    translate,
)

# Puts every text into capitals, and more NULs behind them, as the real one does.
ENGINE = """#!/usr/bin/env bash
case "$1" in -l) echo "  eng-spa"; echo "  spa-eng"; exit;; esac
echo "$@" >> "$(dirname "$0")/log"
tr a-z A-Z; printf '\\0\\0'
"""


def script(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A PATH with a shell's tools alone; its first folder, for more."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "env", "tr", "dirname", "printf", "cat", "cp", "mkdir", "ls", "tar"):
        (folder / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def installed(path):
    script(path / "apertium", ENGINE)
    return path


def mirror(path, tmp_path, packages):
    """apt-get and dpkg-deb in whose mirror these packages are, by name and version."""
    debs = tmp_path / "mirror"
    for name in packages:
        script(debs / name / "usr/bin/apertium", ENGINE)
        modes = debs / name / "usr/share/apertium/modes"
        modes.mkdir(parents=True)
        for pair in ("eng-spa", "spa-eng"):
            (modes / f"{pair}.mode").write_text("lt-proc '/usr/share/apertium/apertium-x/a.bin'\n")
    known = "|".join(packages)
    script(
        path / "apt-get",
        f"""#!/usr/bin/env bash
echo "$@" >> {tmp_path}/asked
for last; do :; done
case "$*" in *update) exit;; esac
case "$last" in {known}) ;; *) echo "E: Unable to locate package $last" >&2; exit 100;; esac
case "$*" in *--simulate*) echo "Inst libx (1.0 Debian)"; echo "Inst apertium (3.8)";
  echo "Inst $last (0.8)"; echo "Conf $last";;
*download*) : > libx_1.0_all.deb; : > apertium_3.8_amd64.deb; : > "$last"_0.8-2_all.deb;; esac
""",
    )
    script(
        path / "dpkg-deb",
        f"""#!/usr/bin/env bash
name=${{2##*/}}; name=${{name%%_*}}
mkdir -p {debs}/$name; tar -C {debs}/$name -cf - .
""",
    )


def log(root):
    return (root / "log").read_text().splitlines()


def test_texts_pass_one_by_one(installed, tmp_path):
    texts = ["one\n two", "", "three. ", "~a [b] {c} ^d$ e/f \\ @ <g> .[] h", "ñ", "a\0b"]
    assert translate(texts, ["eng-spa"], folder=tmp_path) == [
        "ONE TWO",
        "",
        "THREE.",
        "~A [B] {C} ^D$ E/F \\ @ <G> .[] H",
        "ñ",
        "A B",
    ]
    assert log(installed) == ["-u -z -f none eng-spa"]


@given(st.lists(st.text(), max_size=8))
def test_escapes_are_undone(texts):
    for text in texts:
        escaped = apertium._escaped(apertium._plain(text))
        assert apertium._unescaped(escaped) == apertium._plain(text)


def test_pairs_follow_one_another_in_a_process_each(installed, tmp_path):
    assert translate(["a", "b"], ["eng-spa", "spa-eng"], folder=tmp_path) == ["A", "B"]
    assert [line.split()[-1] for line in log(installed)] == ["eng-spa", "spa-eng"]
    assert translate([], ["eng-spa"], folder=tmp_path) == []


def test_a_program_that_fails_is_quoted(path, tmp_path):
    listing = '#!/usr/bin/env bash\n[ "$1" != -l ] || { echo eng-spa; exit; }\n'
    script(path / "apertium", listing + "echo 'no such dictionary' >&2; exit 3\n")
    with pytest.raises(ApertiumError, match="failed with status 3: no such dictionary"):
        translate(["a"], ["eng-spa"], folder=tmp_path)


@pytest.mark.parametrize("output", ["ONE.[]", "ONE.[]\\0TWO.[]\\0THREE.[]\\0"])
def test_texts_that_were_lost_or_added_are_noticed(path, tmp_path, output):
    listing = '#!/usr/bin/env bash\n[ "$1" != -l ] || { echo eng-spa; exit; }\n'
    script(path / "apertium", listing + f"cat > /dev/null; printf '{output}'\n")
    with pytest.raises(ApertiumError, match=r"gave \d texts for 2; its version"):
        translate(["a", "b"], ["eng-spa"], folder=tmp_path)


def test_versions_of_what_is_installed(installed, tmp_path):
    assert "other means than packages" in apertium_version("eng-spa", folder=tmp_path)
    script(
        installed / "dpkg-query",
        "#!/usr/bin/env bash\necho 'apertium 3.8'; echo 'apertium-spa-eng '; "
        "echo 'apertium-eng-spa 0.8'; exit 1\n",
    )
    assert apertium_version("eng-spa", folder=tmp_path) == "apertium 3.8, apertium-eng-spa 0.8"


@pytest.mark.parametrize("pair", ["eng-spa", "spa-eng"])
def test_what_is_not_installed_is_fetched_once(path, tmp_path, pair):
    mirror(path, tmp_path, ["apertium-eng-spa"])
    folder = tmp_path / "with a space" / "apertium"
    assert apertium_available([pair], folder=folder) is None
    with pytest.raises(ApertiumError, match="neither installed nor fetched"):
        apertium_version(pair, folder=folder)
    assert translate(["a", "b"], [pair], folder=folder) == ["A", "B"]
    root = folder / "apertium-eng-spa_0.8-2"
    assert os.listdir(folder) == [root.name]
    # Names are relative to where it is run.
    mode = root / "usr/share/apertium/modes/eng-spa.mode"
    assert mode.read_text() == "lt-proc 'apertium-x/a.bin'\n"
    assert log(root / "usr/bin") == [f"-d . -u -z -f none {pair}"]
    assert apertium_version(pair, folder=folder) == "apertium 3.8, apertium-eng-spa 0.8-2"
    asked = (tmp_path / "asked").read_text()
    assert "download libx apertium apertium-eng-spa\n" in asked
    translate(["a"], [pair, "-".join(reversed(pair.split("-")))], folder=folder)
    assert (tmp_path / "asked").read_text() == asked


def test_what_is_fetched_finds_its_programs_and_libraries(path, tmp_path):
    mirror(path, tmp_path, ["apertium-eng-spa"])
    root = tmp_path / "mirror/apertium-eng-spa"
    script(root / "usr/lib/x86_64-linux-gnu/libx.so.3", "")
    script(
        root / "usr/bin/apertium",
        '#!/usr/bin/env bash\ncat > /dev/null; printf "%s\\0" '
        '"$PWD|$PATH|$LD_LIBRARY_PATH|$APERTIUM_PATH|$LC_ALL"\n',
    )
    (there,) = translate(["a"], ["eng-spa"], folder=tmp_path / "kept")
    place = tmp_path / "kept/apertium-eng-spa_0.8-2"
    folder, programs, libraries, own, locale = there.split("|")
    assert folder == str(place / "usr/share/apertium")
    assert programs.split(":")[0] == own == str(place / "usr/bin")
    assert libraries == str(place / "usr/lib/x86_64-linux-gnu")
    assert locale == "C.UTF-8"


def test_another_process_may_be_first(path, tmp_path, monkeypatch):
    mirror(path, tmp_path, ["apertium-eng-spa"])
    unpack = apertium.apt_unpack

    def late(package, root):
        if not list(tmp_path.glob("kept/apertium-*")):
            monkeypatch.setattr(apertium, "apt_unpack", unpack)
            translate(["a"], ["eng-spa"], folder=tmp_path / "kept")
        return unpack(package, root)

    monkeypatch.setattr(apertium, "apt_unpack", late)
    assert translate(["b"], ["eng-spa"], folder=tmp_path / "kept") == ["B"]
    assert len(os.listdir(tmp_path / "kept")) == 1


def test_what_cannot_be_had_is_said_with_its_remedies(path, tmp_path):
    reason = apertium_available(["eng-spa"], folder=tmp_path / "kept")
    assert "apt-get is not installed" in reason
    assert "Debian package apertium-eng-spa or apertium-spa-eng" in reason
    with pytest.raises(ApertiumError, match="apt-get is not installed"):
        translate(["a"], ["eng-spa"], folder=tmp_path / "kept")
    mirror(path, tmp_path, ["apertium-eng-spa"])
    with pytest.raises(ApertiumError, match="Unable to locate package apertium-eng-xyz") as caught:
        translate(["a"], ["eng-xyz"], folder=tmp_path / "kept")
    assert "Unable to locate package apertium-xyz-eng" in str(caught.value)
    assert os.listdir(tmp_path / "kept") == []


def test_availability_asks_no_mirror(path, tmp_path):
    mirror(path, tmp_path, ["apertium-eng-spa"])
    assert apertium_available(["eng-spa", "eng-xyz"], folder=tmp_path) is None
    assert not (tmp_path / "asked").exists()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Folder for the real program."""
    folder = tmp_path_factory.mktemp("apertium")
    try:
        translate(["a"], ["eng-spa"], folder=folder)
    except ApertiumError as error:
        pytest.skip(f"Apertium cannot be had: {error}")
    return folder


@pytest.mark.network
def test_the_real_apertium_translates_there_and_back(real: Path) -> None:
    texts = [
        "The dog sees the cat.",
        "The house is big and [the] door is not/never red ~ $5",
        "Two",
    ]
    spanish = translate(texts, ["eng-spa"], folder=real)
    assert spanish[0] == "El perro ve el gato."
    assert spanish[1].startswith("La casa es grande y [") and spanish[1].endswith("~ $5")
    assert spanish[2] == "Dos"
    back = translate(texts, ["eng-spa", "spa-eng"], folder=real)
    assert back == translate(spanish, ["spa-eng"], folder=real)
    assert back[0].lower() == texts[0].lower()
    assert apertium_version("eng-spa", folder=real).startswith("apertium 3.")


@pytest.mark.network
def test_unknown_words_have_no_mark_and_texts_stay_apart(real: Path) -> None:
    texts = [f"The blorfling number {i} was not seen" for i in range(300)]
    done = translate(texts, ["eng-spa"], folder=real)
    assert all(str(i) in text.split() for i, text in enumerate(done))
    assert all("blorfling" in text and "*" not in text for text in done)
    assert done[:1] == translate(texts[:1], ["eng-spa"], folder=real)
