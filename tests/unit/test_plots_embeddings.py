"""Figures of embeddings draw what the tables say, in words where there is nothing, the same twice.

The tables here are made up: only their columns and their ranges are those of a study.
"""

import base64
import gzip
import html
import itertools
import json
import re
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from model_metrology.plots import embeddings, interactive, style, tables
from tests.looks import NO_BROWSER, assert_words_apart, has_browser, open_browser

# Names of twenty characters; the first two would be mathematics or hidden in legends.
CONTRASTS = {
    "news_$xsum$ of GPT-4": ("XSum, human", "XSum, GPT-4"),
    "_answers on programs": ("$Stack_Overflow$", "_ChatGPT"),
    "four writers of news": ("XSum, human", "XSum, GPT-4", "XSum, GPT-3.5", "XSum, davinci"),
    "Spanish, translators": (
        "news, by hand", "news, by GPT-4", "news, by Llama-3", "news, by Apertium", "news, Online-B"
    ),
}  # fmt: skip
EMBEDDERS = ("all-MiniLM-L6-v2", "multilingual_e5_base")
BASELINES = ("length", "character n-grams", "word tf-idf")
CONTROLS = ("", "equal-length", "letters", "dropped")
MANY = {
    **CONTRASTS,
    **{f"contrast number {i:2d} …": ("human", f"model {i}") for i in range(8)},
}


def rows_of(contrasts=CONTRASTS, embedders=EMBEDDERS, layers=True):
    """Contrast, sources, embedder and choice, and a view."""
    for contrast, sources in contrasts.items():
        for embedder in embedders:
            # The second embedder has one view only: nothing to choose.
            only = embedder == EMBEDDERS[1]
            yield contrast, sources, embedder, "final", "output" if only else "6 mean"
            if layers:
                yield contrast, sources, embedder, "chosen", "output" if only else "2 mean"


def interval(name, value, spread=0.03):
    return {name: value, f"{name}_lower": value - spread, f"{name}_upper": min(value + spread, 1.0)}


def separability(contrasts=CONTRASTS, embedders=EMBEDDERS, controls=CONTROLS):
    rng = np.random.default_rng(0)
    methods = list(rows_of(contrasts, embedders))
    methods += [
        (name, sources, baseline, "baseline", "")
        for name, sources in contrasts.items()
        for baseline in BASELINES
    ]
    rows = []
    for contrast, sources, embedder, choice, view in methods:
        pairs = [*itertools.combinations(sources, 2), ("", "")]
        for (a, b), control in itertools.product(pairs, controls):
            chance = 1 / len(sources) if not a else 0.5
            share = rng.uniform(0.3, 0.95) - 0.1 * controls.index(control)
            rows.append(
                {
                    "contrast": contrast, "embedder": embedder,
                    "view": "" if choice == "chosen" else view, "control": control,
                    "choice": choice, "source_a": a, "source_b": b, "n": 300, "groups": 150,
                    "chance": chance, **interval("accuracy", chance + (1 - chance) * share),
                    **interval("auroc", 0.55 + 0.45 * share), "p_value": 0.005,
                    "chosen": f"{view} ×5" if choice == "chosen" else "",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def layers(contrasts=CONTRASTS, embedders=EMBEDDERS[:1], labels=("source", "topic")):
    rng = np.random.default_rng(1)
    rows = []
    for (contrast, sources), embedder, label in itertools.product(
        contrasts.items(), embedders, labels
    ):
        classes = len(sources) if label == "source" else 5
        for layer, pooling in itertools.product(range(7), ("mean", "cls")):
            told = 0.55 + 0.4 * np.exp(-((layer - 2.5) ** 2) / 8) - 0.05 * (pooling == "cls")
            told += 0.01 * rng.normal()
            rows.append(
                {
                    "contrast": contrast, "embedder": embedder, "view": f"{layer} {pooling}",
                    "layer": layer, "pooling": pooling, "label": label,
                    **interval("accuracy", told), "auroc": told,
                    "pc1_auroc": told - 0.05 if classes == 2 else np.nan,
                    "pc1_eta2": 0.6 * told**2, "kmeans_ari": told**3 - 0.2,
                    "chance": 1 / classes,
                }
            )  # fmt: skip
    output = {"view": "output", "layer": np.nan, "pooling": "output"}
    return pd.DataFrame([*rows, rows[0] | output])


def components(contrasts=CONTRASTS, embedders=EMBEDDERS, labels=("source", "topic"), count=10):
    rng = np.random.default_rng(2)
    rows = []
    for contrast, _, embedder, choice, view in rows_of(contrasts, embedders):
        for label, component in itertools.product(labels, range(1, count + 1)):
            eta2 = rng.beta(0.6, 3)
            rows.append(
                {
                    "contrast": contrast, "embedder": embedder, "view": view, "choice": choice,
                    "component": component, "variance": 0.2 / component, "label": label,
                    "eta2": eta2, "auroc": 0.6, "mutual_information": 0.1, "p_value": 0.01,
                    "p_adjusted": 0.5 * (eta2 < 0.1),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


LABELS = ("source", "topic", "source × topic")
CLUSTERERS = ("k-means", "Gaussian mixture", "HDBSCAN")


def clustering(contrasts=CONTRASTS, embedders=EMBEDDERS, labels=LABELS):
    rng = np.random.default_rng(3)
    rows = []
    for contrast, _, embedder, choice, view in rows_of(contrasts, embedders):
        for label, method in itertools.product(labels, CLUSTERERS):
            ari = rng.beta(0.7, 1.5)
            rows.append(
                {
                    "contrast": contrast, "embedder": embedder, "view": view, "choice": choice,
                    "method": method, "label": label, "classes": 2, "clusters": 2,
                    "noise": 0.1, "ari": ari, "nmi": 0.9 * ari, "purity": 0.5 + ari / 2,
                    "purity_chance": 0.52, "p_value": 0.001 if ari > 0.05 else 0.4,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def projections(contrasts=CONTRASTS, embedders=EMBEDDERS, items=60, layers=True):
    rng = np.random.default_rng(4)
    tables = []
    for contrast, sources, embedder, choice, view in rows_of(contrasts, embedders, layers):
        for i, source in enumerate(sources):
            points = rng.normal([i, -i, 0, 2.5 * i, (2 * i) % 3], size=(items, 5))
            tables.append(
                pd.DataFrame(
                    {
                        "contrast": contrast, "embedder": embedder, "view": view,
                        "choice": choice, "item": np.arange(items) + i * items,
                        "source": source, "group": [f"g{k}" for k in range(items)],
                        "labels": [json.dumps({"topic": "sport" if k % 2 else "arts"})
                                   for k in range(items)],
                        "pc1": points[:, 0], "pc2": points[:, 1], "pc3": points[:, 2],
                        "lda1": points[:, 3],
                        "lda2": points[:, 4] if len(sources) > 2 else np.nan,
                        "excerpt": [f"Text {k} of {source} begins so …" for k in range(items)],
                    }
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


QUANTITIES = {
    "language auroc before": 0.99, "language auroc after": 0.55, "language variance before": 0.8,
    "language variance after": 0.1, "paired shift": 0.93, "shift along axis": 0.82,
    "topic auroc original": 0.97, "topic auroc translated": 0.94, "topic cosine": 0.91,
}  # fmt: skip


def translation(contrasts=CONTRASTS, embedders=EMBEDDERS):
    rng = np.random.default_rng(5)
    rows = []
    for contrast, _, embedder, choice, view in rows_of(contrasts, embedders, layers=False):
        for quantity, centre in QUANTITIES.items():
            value = float(np.clip(centre + 0.04 * rng.normal(), 0, 1))
            rows.append(
                {
                    "contrast": contrast, "embedder": embedder, "view": view, "choice": choice,
                    "quantity": quantity, "value": value, "lower": value - 0.03,
                    "upper": value + 0.03,
                    "p_value": 0.001 if quantity == "paired shift" else np.nan,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


WRITERS = ("$XSum_human$, news", "_GPT-4", "GPT-3.5-turbo-0301", "davinci", "Llama-2 70B")


def signature(writers=WRITERS, embedders=EMBEDDERS, unknown=("GPT-NeoX 20B",), items=40):
    rng = np.random.default_rng(6)
    rows = []
    for embedder in embedders:
        scenarios = {"known": writers, **{f"without {name}": writers for name in writers}}
        scenarios |= {"unknown": unknown} if unknown else {}
        for scenario, sources in scenarios.items():
            can = [name for name in writers if scenario != f"without {name}"]
            for i, source in enumerate(sources):
                for item in range(items):
                    right = source in can and rng.random() < 0.8
                    confidence = rng.beta(4, 2)
                    rows.append(
                        {
                            "contrast": "signature", "embedder": embedder, "view": "2 mean",
                            "scenario": scenario, "item": i * items + item, "source": source,
                            "predicted": source if right else can[rng.integers(len(can))],
                            "confidence": confidence, "p_known": rng.random(),
                            "abstained": bool(rng.random() < (0.06 if source in can else 0.6)),
                            "excerpt": "…",
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def signature_summary(writers=WRITERS, embedders=EMBEDDERS):
    rng = np.random.default_rng(7)
    rows = []
    for embedder in embedders:
        for scenario in ("known", *(f"without {name}" for name in writers)):
            known = scenario == "known"
            values = {"abstained": 0.05 if known else 0.5, "ece": 0.04, "accuracy": 0.8}
            values |= {"accuracy when named": 0.85} if known else {"novelty auroc": 0.8}
            for quantity, centre in values.items():
                value = centre + 0.1 * rng.random()
                rows.append(
                    {
                        "contrast": "signature", "embedder": embedder, "view": "2 mean",
                        "scenario": scenario, "quantity": quantity, "value": value,
                        "lower": value - 0.04, "upper": value + 0.04,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def reliability(embedders=EMBEDDERS, bins=10):
    rng = np.random.default_rng(8)
    rows = []
    for embedder in embedders:
        for k in range(3, bins):
            confidence = (k + rng.random()) / bins
            accuracy = float(np.clip(confidence + 0.05 * rng.normal(), 0, 1))
            rows.append(
                {
                    "contrast": "signature", "embedder": embedder, "view": "2 mean",
                    "bin_lower": k / bins, "bin_upper": (k + 1) / bins,
                    "confidence": confidence, "accuracy": accuracy,
                    "lower": accuracy - 0.1, "upper": min(accuracy + 0.1, 1.0),
                    "count": int(rng.integers(5, 60)),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


DRAWN = {
    "separability": (embeddings.separability_figure, separability),
    "controls": (embeddings.controls_figure, separability),
    "pairs": (embeddings.pairs_figure, separability),
    "scatter": (embeddings.scatter_figure, projections),
    "discriminant": (embeddings.discriminant_figure, projections),
    "layers": (embeddings.layers_figure, layers),
    "components": (embeddings.components_figure, components),
    "clustering": (embeddings.clustering_figure, clustering),
    "translation": (embeddings.translation_figure, translation),
    "signature": (embeddings.signature_figure, signature),
    "reliability": (
        lambda table: embeddings.reliability_figure(
            table, signature_summary().iloc[: 0 if table.empty else None]
        ),
        reliability,
    ),
}


def words(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def lines(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].texts]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def panels(figure):
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_title()]


def cells(axes):
    """Words of a panel of cells, row by row."""
    rows, columns = axes.images[0].get_array().shape
    found = [text.get_text() for text in axes.texts]
    return [found[i * columns : (i + 1) * columns] for i in range(rows)]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_drawn_the_same_twice(name, tmp_path):
    draw, table = DRAWN[name]
    for i in range(2):
        style.save(draw(table()), tmp_path / f"{i}.png")
    first, second = (tmp_path / f"{i}.png" for i in range(2))
    assert first.read_bytes() == second.read_bytes() and first.stat().st_size > 5000


@pytest.mark.parametrize("name", DRAWN)
def test_an_empty_table_is_said_in_a_sentence(name):
    draw, table = DRAWN[name]
    (text,) = words(draw(table().iloc[:0]))
    assert text.endswith(".")


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_empty_in_a_file_is_read_as_empty(name, tmp_path):
    # A CSV file does not tell an empty word from a missing one.
    draw, table = DRAWN[name]
    table().to_csv(tmp_path / "table.csv", index=False)
    read = draw(pd.read_csv(tmp_path / "table.csv"))
    assert words(read) == words(draw(table()))


LARGE = {
    **{name: (draw, table, {}) for name, (draw, table) in DRAWN.items()},
    "separability of twelve": (embeddings.separability_figure, separability, {"contrasts": MANY}),
    "separability of twenty": (
        embeddings.separability_figure,
        separability,
        {"contrasts": MANY | {f"further contrast {i}": ("a", "b", "c") for i in range(8)}},
    ),
    "controls of twelve": (embeddings.controls_figure, separability, {"contrasts": MANY}),
    "components of twelve": (embeddings.components_figure, components, {"contrasts": MANY}),
    "clustering of twelve": (embeddings.clustering_figure, clustering, {"contrasts": MANY}),
    "pairs of eight": (
        embeddings.pairs_figure,
        separability,
        {"contrasts": {"eight": [f"a source, number {i}" for i in range(8)]}},
    ),
    "scatter of eight": (
        embeddings.scatter_figure,
        projections,
        {"contrasts": {"eight": [f"a source, number {i}" for i in range(8)]} | CONTRASTS},
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_words_lie_on_each_other_or_beyond_the_page(name, monkeypatch):
    draw, table, options = LARGE[name]
    figure = draw(table(**options))
    assert figure.get_size_inches()[1] <= 9.8
    assert_words_apart(figure, monkeypatch)


def test_odd_names_are_drawn_as_they_stand():
    for name in ("separability", "controls", "scatter", "discriminant", "components", "clustering"):
        draw, table = DRAWN[name]
        text = "\n".join(words(draw(table()))).replace("\n", " ")
        for odd in list(CONTRASTS)[:2]:
            assert style.plain(odd) in text, name


# -- separability --------------------------------------------------------------------------------


def test_separability_draws_values_intervals_and_chance():
    table = separability()
    figure = embeddings.separability_figure(table)
    (axes,) = figure.axes
    whole = table[(table["source_a"] == "") & (table["control"] == "")]
    # The second embedder has one view: its chosen one is not drawn again.
    whole = whole[(whole["embedder"] != EMBEDDERS[1]) | (whole["choice"] != "chosen")]
    methods = [(name, c) for name in EMBEDDERS for c in ("final", "chosen")][:3]
    methods += [(name, "baseline") for name in BASELINES]
    expected = [
        whole[(whole["contrast"] == name) & (whole["embedder"] == e) & (whole["choice"] == c)]
        for name in CONTRASTS
        for e, c in methods
    ]
    points, ends = lines(axes, "_value"), lines(axes, "_interval")
    for row, point, end in zip(expected, points, ends, strict=True):
        assert point.get_xdata()[0] == row["accuracy"].item()
        low, high = row["accuracy_lower"].item(), row["accuracy_upper"].item()
        assert list(end.get_xdata()) == [low, high]
    # Each contrast in its own row, the first at the top.
    assert [round(p.get_ydata()[0]) for p in points] == [i for i in range(4) for _ in range(6)]
    assert axes.yaxis_inverted()
    chances = [line.get_xdata()[0] for line in lines(axes, "_chance")]
    assert chances == [0.5, 0.5, 0.25, 0.2]
    assert legend(figure) == [
        "all-MiniLM-L6-v2, final", "all-MiniLM-L6-v2, chosen layer",
        "multilingual_e5_base, final", *BASELINES, "chance",
    ]  # fmt: skip
    labels = ticks(axes.yaxis)
    assert labels[0] == "news_\\$xsum\\$ of GPT-4\nXSum, human · XSum, GPT-4, n = 300"
    assert labels[2].endswith("\n4 sources, n = 300")
    # Full is the chosen layer, hollow the final one; baselines are grey.
    faces = [point.get_markerfacecolor() for point in points[:4]]
    assert faces[0] == "white" and faces[1] == style.colour(0)
    assert {point.get_color() for point in points[3:6]}.isdisjoint(style.COLOURS)


def test_separability_draws_aurocs_and_what_there_is():
    table = separability()
    table.loc[table["embedder"] == "length", "auroc"] = np.nan
    figure = embeddings.separability_figure(table, measure="auroc")
    (axes,) = figure.axes
    assert len(lines(axes, "_value")) == 4 * 5
    assert {line.get_xdata()[0] for line in lines(axes, "_chance")} == {0.5}
    assert axes.get_xlabel().startswith("held-out AUROC")
    with pytest.raises(ValueError, match="'accuracy' or 'auroc'"):
        embeddings.separability_figure(table, measure="f1")
    # Contrasts of other embedders leave no room for those that they lack.
    images = table[table["contrast"] == "_answers on programs"]
    images = images[(images["choice"] == "final") & (images["embedder"] == EMBEDDERS[1])]
    images = images.assign(contrast="images", embedder="MobileNet")
    (axes,) = embeddings.separability_figure(pd.concat([table, images])).axes
    offsets = [p.get_ydata()[0] - 4 for p in lines(axes, "_value") if p.get_ydata()[0] > 3.5]
    assert offsets == [0.0]


def test_pairs_stand_in_for_contrasts_that_have_no_row_of_all_sources():
    table = separability()
    lost = (table["contrast"] == "four writers of news") & (table["source_a"] == "")
    (axes,) = embeddings.separability_figure(table[~lost]).axes
    labels = ticks(axes.yaxis)
    assert len(labels) == 3 + 6
    assert sum(label.startswith("four writers") for label in labels) == 6
    assert labels[2] == "four writers of news\nXSum, human · XSum, GPT-4, n = 300"


def test_separability_of_many_contrasts_is_a_table_of_cells():
    contrasts = MANY | {"the thirteenth": ("a", "b", "c")}
    table = separability(contrasts)
    figure = embeddings.separability_figure(table)
    axes = figure.axes[0]
    whole = table[(table["source_a"] == "") & (table["control"] == "")]
    first = whole[(whole["embedder"] == EMBEDDERS[0]) & (whole["choice"] == "final")]
    assert [row[0] for row in cells(axes)] == [f"{v:.3f}"[1:] for v in first["accuracy"]]
    shades = axes.images[0].get_array()[:, 0]
    expected = (first["accuracy"] - first["chance"]) / (1 - first["chance"])
    assert np.allclose(shades, expected)
    assert len(ticks(axes.yaxis)) == 13 and ticks(axes.xaxis)[-1] == "word tf-idf"


def test_controls_join_what_is_left_of_each_method():
    table = separability()
    # One that was not controlled, as of images.
    plain = (table["contrast"] == "Spanish, translators") & (table["control"] != "")
    figure = embeddings.controls_figure(table[~plain])
    assert len(panels(figure)) == 3
    axes = panels(figure)[2]
    assert axes.get_title() == "four writers of news\n4 sources"
    rows = table[(table["contrast"] == "four writers of news") & (table["source_a"] == "")]
    drawn = [line.get_ydata().tolist() for line in lines(axes, "_joined")]
    for (embedder, choice), values in zip(
        [(EMBEDDERS[0], "final"), (EMBEDDERS[0], "chosen"), (EMBEDDERS[1], "final")],
        drawn,
        strict=False,
    ):
        part = rows[(rows["embedder"] == embedder) & (rows["choice"] == choice)]
        assert values == part.set_index("control").loc[list(CONTROLS), "accuracy"].tolist()
    assert len(drawn) == 6 and lines(axes, "_chance")[0].get_ydata()[0] == 0.25
    assert ticks(axes.xaxis) == ["as it is", "equal length", "letters only", "first words dropped"]
    # Every point and every end of an interval is within the panel.
    low, high = axes.get_ylim()
    assert low < rows["accuracy_lower"].min() and rows["accuracy_upper"].max() <= high
    (text,) = words(embeddings.controls_figure(table[table["control"] == ""]))
    assert "controls" in text
    alone = embeddings.controls_figure(table, contrast="Spanish, translators")
    assert len(panels(alone)) == 1


def test_pairs_have_accuracy_below_the_diagonal_and_auroc_above():
    table = separability(controls=("",))
    figure = embeddings.pairs_figure(table)
    # Two contrasts of more than two sources, and six methods.
    assert len(panels(figure)) == 12
    axes = panels(figure)[1]
    sources = CONTRASTS["four writers of news"]
    part = table[(table["contrast"] == "four writers of news") & (table["choice"] == "chosen")]
    part = part[part["embedder"] == EMBEDDERS[0]].set_index(["source_a", "source_b"])
    found = cells(axes)
    for (i, a), (j, b) in itertools.combinations(enumerate(sources), 2):
        assert found[j][i] == f"{part.loc[(a, b), 'accuracy']:.2f}"[1:]
        assert found[i][j] == f"{part.loc[(a, b), 'auroc']:.2f}"[1:]
        shade = axes.images[0].get_array()[j, i]
        assert shade == pytest.approx(2 * part.loc[(a, b), "accuracy"] - 1)
    assert all(found[i][i] == "" for i in range(4))
    alone = embeddings.pairs_figure(table, contrast="Spanish, translators")
    assert len(panels(alone)) == 6
    two = table[table["contrast"].isin(list(CONTRASTS)[:2])]
    (text,) = words(embeddings.pairs_figure(two))
    assert "more than two sources" in text


# -- projections ---------------------------------------------------------------------------------


def test_scatter_shows_every_item_and_densities_of_area_one():
    table = projections()
    figure = embeddings.scatter_figure(table)
    main = [axes for axes in figure.axes if axes.get_xlabel() == "PC 1"]
    assert len(main) == 4 * 3
    axes = main[1]
    part = table[(table["contrast"] == next(iter(CONTRASTS))) & (table["choice"] == "chosen")]
    part = part[part["embedder"] == EMBEDDERS[0]]
    for source, rows in part.groupby("source"):
        (line,) = lines(axes, f"_{source}")
        assert np.array_equal(line.get_xdata(), rows["pc1"])
        assert np.array_equal(line.get_ydata(), rows["pc2"])
    top, right = axes.child_axes
    assert top.get_title() == "all-MiniLM-L6-v2\nchosen layer: 2 mean"
    for side, upright in ((top, False), (right, True)):
        for line in lines(side, "_density"):
            at, density = line.get_data()[:: -1 if upright else 1]
            # The ends of the tails are not drawn.
            assert 0.95 < np.trapezoid(density, at) <= 1.001
    titles = [a.get_legend().get_title().get_text() for a in figure.axes if a.get_legend()]
    assert [t.replace("\n", " ") for t in titles] == [style.plain(name) for name in CONTRASTS]
    entries = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert entries == ["XSum, human (60)", "XSum, GPT-4 (60)"]


def test_scatter_says_what_it_leaves_out_and_draws_one_contrast_large():
    table = projections(MANY, items=10)
    figure = embeddings.scatter_figure(table)
    assert "4 of 12 contrasts; the others by the option contrast" in words(figure)
    alone = embeddings.scatter_figure(table, contrast="contrast number  5 …")
    assert sum(axes.get_xlabel() == "PC 1" for axes in alone.axes) == 3
    assert not any("others" in text for text in words(alone))
    (text,) = words(embeddings.scatter_figure(table, contrast="none"))
    assert text.endswith(".")


def test_two_sources_have_one_discriminant_and_more_have_two():
    table = projections(dict(list(CONTRASTS.items())[1:3]), EMBEDDERS[:1], layers=False)
    # Items that were in no fold have no projection.
    table.loc[[0, 1], "lda1"] = np.nan
    figure = embeddings.discriminant_figure(table)
    one, two = (axes for axes in figure.axes if axes.get_xlabel().startswith("discriminant"))
    part = table[table["contrast"] == "_answers on programs"].dropna(subset=["lda1"])
    for source, rows in part.groupby("source"):
        (rug,) = lines(one, f"_{source}")
        assert np.array_equal(rug.get_xdata(), rows["lda1"]) and (rug.get_ydata() < 0).all()
    assert one.get_ylabel() == "density" and len(lines(one, "_density")) == 2
    assert (two.get_xlabel(), two.get_ylabel()) == ("discriminant 1", "discriminant 2")
    assert len(two.child_axes) == 2
    # One value for all of a source: no density, and no error.
    flat = table.assign(lda1=table["source"].eq("_ChatGPT").astype(float))
    (axes, *_) = (a for a in embeddings.discriminant_figure(flat).axes if a.get_xlabel())
    assert not lines(axes, "_density")


# -- layers, components, clusters ----------------------------------------------------------------


def test_layers_are_profiles_of_labels_and_poolings():
    table = layers().sort_values("layer", ascending=False, kind="stable")
    figure = embeddings.layers_figure(table)
    grid = np.array(figure.axes).reshape(4, 4)
    first = next(iter(CONTRASTS))
    for axes, column in zip(
        grid[0], ("accuracy", "pc1_auroc", "pc1_eta2", "kmeans_ari"), strict=True
    ):
        for label, pooling in itertools.product(("source", "topic"), ("mean", "cls")):
            drawn = lines(axes, f"_{label} {pooling}")
            rows = table[(table["contrast"] == first) & (table["label"] == label)]
            rows = rows[rows["pooling"] == pooling].sort_values("layer")
            # A topic of five classes has no AUROC.
            assert len(drawn) == (0 if (column, label) == ("pc1_auroc", "topic") else 1)
            for line in drawn:
                assert np.array_equal(line.get_ydata(), rows[column])
                assert np.array_equal(line.get_xdata(), rows["layer"])
    assert {line.get_ydata()[0] for line in lines(grid[0][0], "_chance")} == {0.5, 0.2}
    assert [t.get_text() for t in grid[2][1].texts] == ["more than\ntwo classes"]
    assert legend(figure) == ["source", "topic", "mean of tokens", "first token", "chance"]
    # One vector of its own has no layer.
    (text,) = words(embeddings.layers_figure(table[table["layer"].isna()]))
    assert text.endswith(".")


def test_components_are_cells_with_stars_and_variance():
    table = components(count=4)
    figure = embeddings.components_figure(table)
    axes = panels(figure)[1]
    assert axes.get_title() == "all-MiniLM-L6-v2, chosen layer"
    labels = ticks(figure.axes[0].yaxis)
    assert labels[:3] == ["news_\\$xsum\\$ of GPT-4: variance, %", "source", "topic"]
    found = cells(axes)
    assert found[0] == ["20", "10", "7", "5"]
    rows = table[(table["contrast"] == next(iter(CONTRASTS))) & (table["label"] == "topic")]
    rows = rows[(rows["embedder"] == EMBEDDERS[0]) & (rows["choice"] == "chosen")]
    expected = [
        f"{eta2:.2f}"[1:] + ("★" if p <= 0.05 else "")
        for eta2, p in zip(rows["eta2"], rows["p_adjusted"], strict=True)
    ]
    assert found[2] == expected
    assert np.allclose(axes.images[0].get_array()[2], rows["eta2"])
    assert np.ma.getmaskarray(axes.images[0].get_array())[0].all()


def test_clusters_are_signs_by_method_and_faint_by_chance():
    table = clustering()
    figure = embeddings.clustering_figure(table)
    for axes, index in zip(figure.axes, ("ari", "nmi", "purity"), strict=True):
        kept = table[(table["embedder"] != EMBEDDERS[1]) | (table["choice"] == "final")]
        drawn = lines(axes, f"_{index}")
        assert sorted(p.get_xdata()[0] for p in drawn) == sorted(kept[index])
        faint = sum(point.get_alpha() < 1 for point in drawn)
        assert faint == (kept["p_value"] > 0.05).sum() > 0
        signs = {point.get_marker() for point in drawn}
        assert len(signs) == 3
    chances = [[line.get_xdata()[0] for line in lines(axes, "_chance")] for axes in figure.axes]
    assert chances == [[0.0] * 12, [], pytest.approx([0.52] * 12)]
    labels = ticks(figure.axes[0].yaxis)
    assert labels[:3] == ["news_\\$xsum\\$ of GPT-4\nsource", "topic", "source × topic"]


def test_translation_joins_before_and_after():
    table = translation()
    lost = table["quantity"].eq("shift along axis") & table["contrast"].eq(next(iter(CONTRASTS)))
    table.loc[lost, "value"] = np.nan
    figure = embeddings.translation_figure(table)
    quantity = table.set_index(["contrast", "embedder", "quantity"])["value"]
    keys = [(name, embedder) for name in CONTRASTS for embedder in EMBEDDERS]
    language, variance, shift, topic = figure.axes
    for axes, names in (
        (language, ("language auroc before", "language auroc after")),
        (variance, ("language variance before", "language variance after")),
        (shift, ("paired shift",)),
        (topic, ("topic auroc original", "topic auroc translated")),
    ):
        drawn = [line.get_xdata()[0] for line in lines(axes, "_value")]
        assert drawn == [quantity[(*key, name)] for key in keys for name in names]
        centres = [line.get_xdata().mean() for line in lines(axes, "_interval")]
        assert centres == pytest.approx(drawn)
    numbers = [text.get_text() for text in shift.texts]
    assert numbers == [f"{quantity[(*key, 'shift along axis')]:.2f}"[1:] for key in keys[2:]]
    # Without topics there is no panel of them.
    without = table[~table["quantity"].str.startswith("topic")]
    assert len(embeddings.translation_figure(without).axes) == 3


# -- signature -----------------------------------------------------------------------------------


def test_signature_counts_what_is_named_and_dashes_what_cannot_be():
    table = signature()
    figure = embeddings.signature_figure(table)
    axes = panels(figure)[0]
    rows, columns = ticks(axes.yaxis), ticks(axes.xaxis)
    assert rows[0] == "\\$XSum_human\\$, news" and rows[5] == "\\$XSum_human\\$, news (left out)"
    assert rows[-1] == "GPT-NeoX 20B (unknown)" and columns[-1] == "not named"
    found = cells(axes)
    part = table[table["embedder"] == EMBEDDERS[0]]
    for scenario, start in (("known", 0), (None, 5)):
        for i, source in enumerate(WRITERS):
            here = part[
                (part["scenario"] == (scenario or f"without {source}")) & (part["source"] == source)
            ]
            named = here[~here["abstained"]]["predicted"].value_counts()
            expected = [named.get(name, 0) for name in WRITERS] + [here["abstained"].sum()]
            shown = [0 if cell in ("", "—") else int(cell) for cell in found[start + i]]
            assert shown == expected and sum(shown) == 40
            assert (found[start + i][i] == "—") == (scenario is None)
    shares = axes.images[0].get_array()
    assert np.allclose(shares.sum(axis=1), 1.0)


def test_reliability_draws_bins_counts_and_scenarios():
    table, summary = reliability(), signature_summary()
    figure = embeddings.reliability_figure(table, summary)
    curve, counts, abstained, novelty = figure.axes
    for embedder in EMBEDDERS:
        rows = table[table["embedder"] == embedder]
        (line,) = lines(curve, f"_{embedder}")
        assert np.array_equal(line.get_data(), rows[["confidence", "accuracy"]].T)
    heights = [bar.get_height() for bar in counts.patches]
    assert heights == table["count"].tolist()
    assert ticks(abstained.yaxis)[:2] == ["known sources", "\\$XSum_human\\$, news\nleft out"]
    for axes, quantity in ((abstained, "abstained"), (novelty, "novelty auroc")):
        rows = summary[summary["quantity"] == quantity]
        drawn = [line.get_xdata()[0] for line in lines(axes, "_value")]
        assert sorted(drawn) == sorted(rows["value"])
    # Known sources have no novelty; the row stays where it is.
    assert min(line.get_ydata()[0] for line in lines(novelty, "_value")) > 0.5


@pytest.mark.parametrize(
    "draw",
    [
        lambda t: embeddings.separability_figure(separability(t, EMBEDDERS[1:], ("",))),
        lambda t: embeddings.controls_figure(separability(t, EMBEDDERS[1:], ("", "letters"))),
        lambda t: embeddings.scatter_figure(projections(t, EMBEDDERS[:1], 1, False)),
        lambda t: embeddings.discriminant_figure(projections(t, EMBEDDERS[:1], 2, False)),
        lambda t: embeddings.layers_figure(layers(t, labels=("source",))),
        lambda t: embeddings.components_figure(components(t, EMBEDDERS[1:], ("source",), 1)),
        lambda t: embeddings.clustering_figure(clustering(t, EMBEDDERS[1:], ("source",))),
        lambda t: embeddings.translation_figure(translation(t, EMBEDDERS[:1])),
        lambda t: embeddings.signature_figure(signature(("a", "b"), EMBEDDERS[:1], (), 1)),
        lambda t: embeddings.reliability_figure(
            reliability(EMBEDDERS[:1], 4), signature_summary(("a",), EMBEDDERS[:1])
        ),
    ],
)
def test_one_contrast_and_one_embedder_are_enough(draw, tmp_path):
    style.save(draw({"one_contrast$": ("a", "b")}), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5000


def test_figures_need_no_torch_and_no_sklearn():
    # The environment that draws figures has none.
    code = (
        "import sys, model_metrology.plots.embeddings, model_metrology.plots.interactive; "
        "sys.exit(bool({'torch', 'sklearn', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the page of tables ---------------------------------------------------------------------------


def rows_in(page, heading):
    """Rows of the table below a heading, as lists of words."""
    part = page.split(f"<h2>{heading}</h2>")[1].split("<h2>")[0]
    rows = re.findall(r"<tr.*?</tr>", part, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[text_of(cell) for cell in row] for row in cells]


def text_of(cell):
    return html.unescape(cell).strip()


CLAIMS = pd.DataFrame(
    [["<b>easy</b>", "four writers of news", EMBEDDERS[0], "partly", "AUROC .9 & no more"]],
    columns=["claim", "contrast", "embedder", "held", "evidence"],
)


def test_tables_hold_every_method_with_interval_and_p():
    table = separability()
    page = tables.embeddings_page(table, CLAIMS)
    (head, *rows) = rows_in(page, "All sources of a contrast at once: held-out accuracy")
    assert head == [
        "contrast", "sources", "n", "groups", "chance", "all-MiniLM-L6-v2, final",
        "all-MiniLM-L6-v2, chosen layer", "multilingual_e5_base, final", *BASELINES, "highest",
    ]  # fmt: skip
    assert len(rows) == 4 and rows[1][:2] == ["_answers on programs", "$Stack_Overflow$, _ChatGPT"]
    whole = table[(table["source_a"] == "") & (table["control"] == "")]
    for row, contrast in zip(rows, CONTRASTS, strict=True):
        here = whole[whole["contrast"] == contrast]
        best = here.loc[here[here["embedder"] != EMBEDDERS[1]]["accuracy"].idxmax()]
        final = here[(here["embedder"] == EMBEDDERS[1]) & (here["choice"] == "final")].iloc[0]
        assert row[7] == (
            f"{final['accuracy']:.2f} [{final['accuracy_lower']:.2f},\u00a0"
            f"{final['accuracy_upper']:.2f}] p\u00a00.005"
        )
        if best["accuracy"] > final["accuracy"]:
            assert row[-1].startswith(best["embedder"])
    (_, *pairs) = rows_in(page, "Two sources at a time: held-out AUROC")
    assert len(pairs) == 1 + 1 + 6 + 10 and pairs[2][1] == "XSum, human – XSum, GPT-4"
    (_, *controlled) = rows_in(page, "With something taken away: held-out accuracy")
    assert [row[1] for row in controlled[:3]] == [
        "equal length", "letters only", "first words dropped",
    ]  # fmt: skip
    (_, *layers_chosen) = rows_in(page, "Layers chosen")
    assert layers_chosen[0] == [next(iter(CONTRASTS)), EMBEDDERS[0], "2 mean ×5"]
    assert rows_in(page, "Claims")[1] == list(CLAIMS.iloc[0])
    assert "<b>" not in page


def test_tables_of_parts_of_a_study():
    plain = separability(embedders=EMBEDDERS[1:], controls=("",))
    plain.loc[0, "accuracy"] = np.nan
    page = tables.embeddings_page(plain, CLAIMS.iloc[:0])
    assert page.count("<p>None.</p>") == 2 and "No embedder showed more than one view." in page
    page = tables.embeddings_page(pd.DataFrame(), CLAIMS)
    assert "<h2>Claims</h2>" in page and "Layers chosen" not in page


# -- the interactive page ------------------------------------------------------------------------

NASTY = {
    "contrast": "</script><b>one & $two$",
    "source": '<i>human</i> & "sons"',
    "excerpt": "</script><script>document.title='broken'</script><img src=x "
    "onerror=\"document.title='broken'\"> &lt;tag&gt; <a href='javascript:alert(1)'>x</a>",
}


def nasty():
    table = projections(dict(list(CONTRASTS.items())[1:3]), items=20)
    first = table["contrast"] == "_answers on programs"
    table.loc[first, "contrast"] = NASTY["contrast"]
    table.loc[table["source"] == "$Stack_Overflow$", ["source", "excerpt"]] = [
        NASTY["source"], NASTY["excerpt"],
    ]  # fmt: skip
    table.loc[3, ["excerpt", "labels", "lda1"]] = [np.nan, json.dumps({"<u>": "<s>"}), np.nan]
    return table


def packed(page, name):
    text = page.split(f'<script id="{name}" type="text/plain">')[1].split("</script>")[0]
    return gzip.decompress(base64.b64decode(text)).decode()


def test_the_page_holds_every_item_of_every_view():
    table = nasty()
    page = interactive.interactive_page(table, title="a <title>")
    assert "<title>a &lt;title&gt;</title>" in page and "vegaEmbed" in packed(page, "library")
    data = json.loads(packed(page, "data"))
    assert [each["name"] for each in data["contrasts"]] == [
        NASTY["contrast"], "four writers of news",
    ]  # fmt: skip
    assert data["colours"] == list(style.COLOURS)
    for each, (_, rows) in zip(
        data["contrasts"], table.groupby("contrast", sort=False), strict=True
    ):
        names = [(view["embedder"], view["name"]) for view in each["views"]]
        assert names == [
            (EMBEDDERS[0], "final, 6 mean"), (EMBEDDERS[0], "chosen layer, 2 mean"),
            (EMBEDDERS[1], "final, output"),
        ]  # fmt: skip
        part = rows[(rows["embedder"] == EMBEDDERS[0]) & (rows["choice"] == "chosen")]
        view = each["views"][1]
        assert np.allclose(view["at"]["pc2"], part["pc2"], atol=1e-3)
        assert ("lda2" in view["at"]) == (each["name"] != NASTY["contrast"])
        found = [each["items"][i] for i in view["item"]]
        expected = [
            [row["source"], row["group"], f"topic: {json.loads(row['labels'])['topic']}",
             row["excerpt"]]
            for row in part.to_dict("records")
        ]  # fmt: skip
        assert found == expected
    first = data["contrasts"][0]
    assert first["views"][0]["at"]["lda1"][3] is None
    assert first["items"][first["views"][0]["item"][3]][2:] == ["<u>: <s>", ""]


def test_no_text_becomes_markup_of_the_page():
    page = interactive.interactive_page(nasty())
    assert page.count("<script") == page.count("</script>") == 3
    for text in ("<img", "<i>", "javascript:", "http", "human"):
        assert text not in page
    # The same table, the same page: reports can be compared.
    assert page == interactive.interactive_page(nasty())


def test_a_page_is_as_small_as_a_frame_can_be():
    # Ten contrasts of 3,000 items whose texts are as various as texts can be.
    rng = np.random.default_rng(9)
    table = projections({f"c{i}": ("a", "b", "c") for i in range(10)}, EMBEDDERS[:1], 1000)
    letters = rng.integers(97, 123, (len(table) // 2, 160), dtype=np.uint8)
    texts = [row.tobytes().decode() for row in letters]
    table.loc[table["choice"] == "final", "excerpt"] = texts
    page = interactive.interactive_page(table[table["choice"] == "final"])
    assert len(page) <= 1_500_000
    (first, *_) = json.loads(packed(page, "data"))["contrasts"]
    shown = [source for source, *_ in first["items"]]
    # Some of every source, equally many.
    assert first["count"] == 3000 and 100 < len(shown) < 1500
    counts = [shown.count(source) for source in "abc"]
    assert max(counts) - min(counts) <= 1
    assert len(first["views"][0]["item"]) == len(first["views"][0]["at"]["pc1"]) == len(shown)


def test_a_page_of_nothing_says_so():
    for empty in (pd.DataFrame(), projections().iloc[:0]):
        page = interactive.interactive_page(empty)
        assert "There are no items to show." in page and len(page) < 2000


@pytest.fixture
def browser(tmp_path):
    selenium = pytest.importorskip("selenium.webdriver")
    if not has_browser():
        pytest.skip(NO_BROWSER)
    driver = open_browser(selenium, tmp_path)
    yield driver
    driver.quit()


POINTS = "#plot .role-mark path"


def chosen(browser, name, i):
    """Choose from a drop-down."""
    browser.execute_script(
        f"const box = document.getElementById('{name}'); box.value = {i};"
        "box.dispatchEvent(new Event('change'));"
    )


def shown(browser, selector):
    return [each.text for each in browser.find_elements("css selector", selector)]


def until(condition):
    for _ in range(100):
        if condition():
            return
        time.sleep(0.1)
    assert condition()


@pytest.mark.parametrize("embedded", [False, True])
def test_the_page_works_in_a_browser(browser, tmp_path, embedded):
    from selenium.webdriver.common.action_chains import ActionChains

    def point_at(selector, i, click=False):
        target = browser.find_elements("css selector", selector)[i]
        actions = ActionChains(browser).move_to_element(target)
        (actions.click() if click else actions).perform()

    def points():
        return len(browser.find_elements("css selector", POINTS))

    page = interactive.interactive_page(nasty())
    path = tmp_path / "page.html"
    if embedded:
        # As a report holds it.
        source = base64.b64encode(page.encode()).decode()
        frame = f"<iframe width=1300 height=900 src='data:text/html;base64,{source}'></iframe>"
        path.write_text(f"<!DOCTYPE html><title>report</title>{frame}", encoding="utf-8")
    else:
        path.write_text(page, encoding="utf-8")
    browser.get(path.as_uri())
    if embedded:
        browser.switch_to.frame(0)
    until(lambda: points() == 40)
    assert shown(browser, "#contrast option") == [NASTY["contrast"], "four writers of news"]
    assert NASTY["source"] in shown(browser, "#plot .role-legend-label text")
    # The item that is drawn last lies on top.
    point_at(POINTS, 19)
    until(lambda: shown(browser, "#vg-tooltip-element td.value"))
    values = shown(browser, "#vg-tooltip-element td.value")
    assert values == [NASTY["source"], "g19", "topic: sport", NASTY["excerpt"]]
    chosen(browser, "contrast", 1)
    until(lambda: points() == 80)
    chosen(browser, "axes", 3)
    until(lambda: "discriminant 2" in shown(browser, "#plot .role-axis-title text"))
    chosen(browser, "embedder", 1)
    until(lambda: shown(browser, "#view option") == ["final, output"])
    until(lambda: points() == 80)
    # One source alone, by its entry in the legend.
    point_at("#plot .role-legend-label text", 1, click=True)
    paths = f"[...document.querySelectorAll('{POINTS}')]"
    clear = f"return {paths}.filter(path => path.getAttribute('opacity') > 0.5).length"
    until(lambda: browser.execute_script(clear) == 20)
    # Back: one discriminant stands beside the first component, less the item that has none.
    chosen(browser, "contrast", 0)
    chosen(browser, "embedder", 0)
    chosen(browser, "axes", 3)
    until(lambda: points() == 39)
    assert "39 of 41 items" in shown(browser, "#count")[0]
    assert browser.execute_script("return document.title") == "Every item, to point at"
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
