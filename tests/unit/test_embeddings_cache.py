"""Nothing is embedded twice, whatever is killed, damaged or run side by side."""

import json
import logging

import h5py
import numpy as np
import pytest

from model_metrology import store
from model_metrology.embeddings import cache
from model_metrology.embeddings.cache import embed_items
from model_metrology.embeddings.embedders import Model

TEXTS = [f"text {'x' * (7 * i % 23)} {i}" for i in range(50)]


class Counter:
    """An embedder whose vectors are known, and that counts what it was asked."""

    def __init__(self, name="counter", fails_at=None, of="texts", max_tokens=None):
        self.seen, self.batches, self.fails_at = [], [], fails_at
        self.model = Model(
            of=of,
            identity=json.dumps({"model": name}),
            description={"model": name},
            vectors=self.vectors,
            counts=(lambda texts: [len(text) for text in texts]) if of == "texts" else None,
            max_tokens=max_tokens,
        )

    def vectors(self, batch):
        if self.fails_at is not None and len(self.batches) >= self.fails_at:
            raise KeyboardInterrupt
        self.batches.append(list(batch))
        self.seen += list(batch)
        first = np.stack([expected(item) for item in batch])
        return {"10 mean": first, "2 mean": -first[:, :2]}


def expected(item):
    values = np.frombuffer(item.encode() if isinstance(item, str) else item.tobytes(), np.uint8)
    return np.float32([len(values), values.sum(), values[-1]])


def check(embedding, items):
    wanted = np.stack([expected(item) for item in items])
    assert list(embedding.views) == ["10 mean", "2 mean"]  # in the embedder's order
    np.testing.assert_array_equal(embedding.views["10 mean"], wanted)
    np.testing.assert_array_equal(embedding.views["2 mean"], -wanted[:, :2])
    assert all(vectors.dtype == np.float32 for vectors in embedding.views.values())


def chunks(folder):
    return sorted(folder.glob("*/*.h5"))


def test_what_was_embedded_is_not_embedded_again(tmp_path):
    counter = Counter()
    check(embed_items(counter.model, TEXTS[:30], tmp_path, batch_size=8), TEXTS[:30])
    assert sorted(counter.seen) == sorted(TEXTS[:30])
    again = Counter()
    mixed = [*TEXTS[20:], *TEXTS[:5]]
    check(embed_items(again.model, mixed, tmp_path, batch_size=8), mixed)
    assert sorted(again.seen) == sorted(TEXTS[30:])
    third = Counter()
    check(embed_items(third.model, np.array(TEXTS), tmp_path, batch_size=3), TEXTS)
    assert third.seen == []


def test_what_occurs_twice_is_embedded_once(tmp_path):
    counter = Counter()
    twice = [*TEXTS[:5], *TEXTS[:5], TEXTS[0]]
    check(embed_items(counter.model, twice, tmp_path, batch_size=4), twice)
    assert sorted(counter.seen) == sorted(TEXTS[:5])


def test_texts_of_similar_length_go_together_the_longest_first(tmp_path):
    counter = Counter()
    embed_items(counter.model, TEXTS, tmp_path, batch_size=7)
    lengths = [len(text) for text in counter.seen]
    assert lengths == sorted(lengths, reverse=True)
    assert {len(batch) for batch in counter.batches[:-1]} == {7}


def test_a_killed_job_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK", 10)
    killed = Counter(fails_at=4)
    with pytest.raises(KeyboardInterrupt):
        embed_items(killed.model, TEXTS, tmp_path, batch_size=5)
    assert len(killed.seen) == 20 and len(chunks(tmp_path)) == 2
    resumed = Counter()
    check(embed_items(resumed.model, TEXTS, tmp_path, batch_size=5), TEXTS)
    assert sorted(resumed.seen) == sorted(set(TEXTS) - set(killed.seen))
    assert not list(tmp_path.glob("*/.*"))  # no half files


def test_a_slow_embedder_is_written_down_after_some_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK_SECONDS", 0.0)
    embed_items(Counter().model, TEXTS, tmp_path, batch_size=10)
    assert len(chunks(tmp_path)) == 5


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "lacking"])
def test_a_damaged_file_is_set_aside_and_made_anew(tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setattr(cache, "_CHUNK", 25)
    first = Counter()
    embed_items(first.model, TEXTS, tmp_path, batch_size=25)
    path = chunks(tmp_path)[0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "flipped":
        path.write_bytes(b"nonsense" + path.read_bytes()[8:])
    elif damage == "other":
        store.write(path, {"keys": ["a"]}, kind="tokens")
    else:
        with h5py.File(path, "a") as file:
            del file["views/2 mean"]
    again = Counter()
    with caplog.at_level(logging.WARNING):
        check(embed_items(again.model, TEXTS, tmp_path, batch_size=25), TEXTS)
    assert len(again.seen) == 25
    assert "damaged" in caplog.text and path.name in caplog.text
    assert path.with_name(f"{path.name}.damaged").exists()
    assert len(chunks(tmp_path)) == 2
    third = Counter()
    check(embed_items(third.model, TEXTS, tmp_path, batch_size=25), TEXTS)
    assert third.seen == []


def test_damage_inside_compressed_vectors_is_noticed(tmp_path):
    wide = Model(
        of="texts", identity="wide", description={"model": "wide"},
        vectors=lambda batch: {"output": np.random.default_rng(0).normal(size=(len(batch), 900))},
        counts=lambda texts: [1] * len(texts),
    )  # fmt: skip
    before = embed_items(wide, TEXTS, tmp_path, batch_size=50).views["output"]
    (path,) = chunks(tmp_path)
    with h5py.File(path) as file:
        place = file["views/output"].id.get_chunk_info(0).byte_offset + 1000
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    np.testing.assert_array_equal(
        embed_items(wide, TEXTS, tmp_path, batch_size=50).views["output"], before
    )
    assert path.with_name(f"{path.name}.damaged").exists()


def test_two_embedders_do_not_mix(tmp_path):
    one, other = Counter("one"), Counter("other")
    embed_items(one.model, TEXTS, tmp_path, batch_size=8)
    check(embed_items(other.model, TEXTS, tmp_path, batch_size=8), TEXTS)
    assert sorted(other.seen) == sorted(TEXTS)
    assert len({path.parent for path in chunks(tmp_path)}) == 2
    _, attrs = store.read(chunks(tmp_path)[0], kind="embeddings")
    assert json.loads(attrs["identity"])["model"] in ("one", "other")


def test_jobs_side_by_side_write_files_that_both_can_read(tmp_path):
    # The second starts while the first is at work: neither knows of the other's vectors.
    outer, inner = Counter(), Counter()
    plain = outer.model.vectors

    def vectors(batch):
        if not outer.batches:
            check(embed_items(inner.model, TEXTS[10:], tmp_path, batch_size=6), TEXTS[10:])
        return plain(batch)

    object.__setattr__(outer.model, "vectors", vectors)
    check(embed_items(outer.model, TEXTS, tmp_path, batch_size=6), TEXTS)
    third = Counter()
    check(embed_items(third.model, TEXTS, tmp_path, batch_size=6), TEXTS)
    assert third.seen == []


def test_images_are_told_apart_by_content_and_shape(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 2, 3), dtype=np.uint8)
    images[5] = images[0]
    counter = Counter(of="images")
    check(embed_items(counter.model, images, tmp_path, batch_size=4), images)
    assert len(counter.seen) == 5
    turned = images.reshape(6, 2, 4, 3)
    again = Counter(of="images")
    check(embed_items(again.model, turned, tmp_path, batch_size=4), turned)
    assert len(again.seen) == 5


def test_texts_that_are_cut_and_progress_are_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache, "_REPORT_SECONDS", 0.0)
    cut = sum(len(text) > 20 for text in TEXTS)
    with caplog.at_level(logging.INFO):
        embed_items(Counter(max_tokens=20).model, TEXTS, tmp_path, batch_size=25)
        embed_items(Counter(max_tokens=20).model, TEXTS, tmp_path, batch_size=25)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "cut" in line] == [f"{cut} of 50 texts were cut to 20 tokens"]
    assert "embedded 25 of 50 items" in caplog.text and "0 s left" in caplog.text
    assert said[-1] == "50 of 50 items have been embedded before"


def test_errors_name_the_position_among_all_items(tmp_path):
    with pytest.raises(ValueError, match=r"^text 30 is empty"):
        embed_items(Counter().model, [*TEXTS[:30], ""], tmp_path, batch_size=4)
    with pytest.raises(ValueError, match="nothing to embed"):
        embed_items(Counter().model, [], tmp_path, batch_size=4)
    wrong = Counter()
    plain = wrong.model.vectors

    def vectors(batch):
        found = plain(batch)
        found["2 mean"][[text == TEXTS[41] for text in batch]] = np.nan
        return found

    object.__setattr__(wrong.model, "vectors", vectors)
    with pytest.raises(ValueError, match=r"^text 41 has a vector that is not finite"):
        embed_items(wrong.model, TEXTS, tmp_path, batch_size=4)
