"""What the README shows works as it is shown."""

import re
from pathlib import Path

import yaml

from model_metrology.study import load_study

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_studies_are_valid(tmp_path, monkeypatch):
    # The foreign network's weights are a file of the reader's.
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet20-12fca82f.th").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "answers.csv").touch()
    monkeypatch.chdir(tmp_path)
    studies = [load_study(yaml.safe_load(study)) for study in blocks("yaml")]
    images, two_layers, foreign, texts = studies
    assert texts.embeddings.collections() == {"answers": ["people", "model"]}
    assert foreign.surrogates.instruments["ResNet-20"].dataset == "cifar10"
    assert images.populations["noisy"].label_noise == 0.05
    assert len(two_layers.spectra.groups()["Adam phases"].cells) == 6


def test_library_example_finds_the_strong_direction(capsys):
    exec(blocks("python")[1], {})  # the README's own text
    assert capsys.readouterr().out == "bulk+spikes\n"


def test_library_example_finds_what_was_moved(capsys):
    code = blocks("python")[0]
    names = {}
    exec(code, names)  # the README's own text
    # A tenth of the outputs has moved; a tolerance of 0.01 forgives a hundredth.
    assert 0.08 < names["result"].alpha < 0.1
    assert capsys.readouterr().out.startswith("0.0")


def test_files_that_it_links_to_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_library_example_attributes_to_all_training_points(capsys):
    exec(blocks("python")[2], {})  # the README's own text
    assert capsys.readouterr().out == "(3, 300, 1)\n"


def test_library_example_tells_sources_apart(capsys):
    names = {}
    exec(blocks("python")[3], names)  # the README's own text
    # Five coordinates of 50 are 0.8 of a deviation apart: the best rule is right in
    # Φ(0.8 √5 / 2) = 81 % of cases, one that is learned from 160 in somewhat fewer.
    assert 0.65 < names["found"].accuracy < 0.82
    assert capsys.readouterr().out.endswith("p = 0.005\n")
