"""Claims about embeddings: each verdict at its threshold, with the numbers that it rests on."""

from __future__ import annotations

import pandas as pd
import pytest

from model_metrology import files
from model_metrology.embeddings.claims import CLAIMS, claims_table

NONE = pd.DataFrame()
COLUMNS = ["claim", "contrast", "embedder", "held", "evidence"]


def separability(*rows):
    """Rows (embedder, control, choice, AUROC, p-value), or with sources a and b behind them."""
    table = []
    for embedder, control, choice, auroc, p_value, *sources in rows:
        a, b = sources or ("human", "machine")
        table.append(
            {
                "contrast": "news", "embedder": embedder, "view": "6 mean", "control": control,
                "choice": choice, "source_a": a, "source_b": b, "n": 40, "groups": 20,
                "chance": 0.5, "accuracy": auroc - 0.05, "accuracy_lower": 0.1,
                "accuracy_upper": 0.99, "auroc": auroc, "auroc_lower": auroc - 0.1,
                "auroc_upper": auroc + 0.01, "p_value": p_value, "chosen": "",
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def clustering(*rows, choice="final"):
    """Rows (label, method, ARI, p-value)."""
    return pd.DataFrame(
        {
            "contrast": "news", "embedder": "e5", "view": "6 mean", "choice": choice,
            "method": method, "label": label, "classes": 2, "clusters": 2, "noise": 0.0,
            "ari": ari, "nmi": ari, "purity": 0.75, "purity_chance": 0.55, "p_value": p_value,
        }
        for label, method, ari, p_value in rows
    )  # fmt: skip


def translation(choice="final", shift=0.9, p_value=0.01, **values):
    """The quantities of a translation; those of the topic where they are given."""
    before = {"language auroc before": 0.99, "language auroc after": 0.55} | values
    rows = [
        {"quantity": name, "value": value, "lower": value - 0.1, "upper": value + 0.1}
        for name, value in {**before, "paired shift": shift}.items()
    ]
    rows[-1]["p_value"] = p_value
    key = {"contrast": "en-es", "embedder": "e5", "view": "6 mean", "choice": choice}
    return pd.DataFrame([key | row for row in rows])


def verdicts(separability=NONE, clustering=NONE, translation=NONE, **options):
    table = claims_table(separability, clustering, translation, **options)
    assert list(table.columns) == COLUMNS
    return list(table["held"])


# -- told apart ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auroc", "p_value", "held"),
    [
        (0.95, 0.01, "held"),
        (1.0, 0.01, "held"),
        (0.949, 0.01, "partly"),
        (0.6, 0.05, "partly"),
        (0.6, 0.051, "not"),
        (0.5, 0.6, "not"),
    ],
)
def test_sources_are_easily_told_apart_or_at_all_or_not(auroc, p_value, held):
    assert verdicts(separability(("e5", "", "final", auroc, p_value))) == [held]


def test_the_level_is_that_of_the_study():
    table = separability(("e5", "", "final", 0.7, 0.15))
    assert verdicts(table, level=0.2) == ["partly"] and verdicts(table, level=0.1) == ["not"]


def test_evidence_names_the_best_baseline_and_the_hardest_control():
    table = separability(
        ("e5", "", "final", 0.97, 0.005),
        ("e5", "letters", "final", 0.81, 0.005),
        ("e5", "equal-length", "final", 0.72, 0.005),
        ("e5", "dropped", "final", 0.93, 0.005),
        # Neither what was chosen on training folds nor another pair's has a say.
        ("e5", "", "chosen", 0.999, 0.005),
        ("e5", "equal-length", "chosen", 0.1, 0.005),
        ("length", "", "baseline", 0.66, 0.005),
        ("word tf-idf", "", "baseline", 0.98, 0.005),
        ("length", "letters", "baseline", 0.995, 0.005),
        ("length", "", "baseline", 0.999, 0.005, "human", "other"),
        # All sources at once are no pair.
        ("e5", "", "final", 0.3, 0.9, "", ""),
        ("length", "", "baseline", 1.0, 0.005, "", ""),
    )
    [row] = claims_table(table, NONE, NONE).to_dict("records")
    assert row["claim"] == CLAIMS["separable"]
    assert (row["contrast"], row["embedder"], row["held"]) == ("news", "e5", "held")
    assert row["evidence"] == (
        "human – machine: AUROC 0.97 [0.87, 0.98] (easily: from 0.95), accuracy 0.92 [0.10, 0.99], "
        "p = 0.005; least under control 'equal-length': 0.72; word tf-idf does better: 0.98"
    )


def test_a_baseline_that_is_as_good_does_no_better():
    table = separability(("e5", "", "final", 0.9, 0.005), ("length", "", "baseline", 0.9, 0.005))
    [evidence] = claims_table(table, NONE, NONE)["evidence"]
    assert evidence.endswith("; length does no better: 0.90") and "control" not in evidence


def test_every_pair_and_embedder_is_judged_beside_baselines_of_its_own():
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    rows = [
        row
        for i, pair in enumerate(pairs)
        for row in (
            ("e5", "", "final", 0.96 - i / 10, 0.01, *pair),
            ("wordllama", "", "final", 0.7, 0.3, *pair),
            ("length", "", "baseline", 0.5 + i / 10, 0.01, *pair),
        )
    ]
    table = claims_table(separability(*rows), NONE, NONE)
    e5 = table[table["embedder"] == "e5"]
    assert list(e5["held"]) == ["held", "partly", "partly"]
    for i, ((a, b), evidence) in enumerate(zip(pairs, e5["evidence"], strict=True)):
        assert evidence.startswith(f"{a} – {b}: ") and evidence.endswith(f": {0.5 + i / 10:.2f}")
    assert list(table.loc[table["embedder"] == "wordllama", "held"]) == ["not"] * 3


# -- clusters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ari", "p_value", "held"),
    [
        (0.5, 0.05, "held"),
        (0.499, 0.05, "partly"),
        (0.01, 0.05, "partly"),
        (0.0, 0.05, "not"),
        (0.5, 0.051, "not"),
    ],
)
def test_clusters_recover_labels_or_have_to_do_with_them_or_not(ari, p_value, held):
    assert verdicts(clustering=clustering(("topic", "k-means", ari, p_value))) == [held]


def test_each_label_is_judged_by_the_method_that_finds_it_best():
    table = clustering(
        ("source", "k-means", 0.1, 0.01),
        ("source", "HDBSCAN", 0.6, 0.01),
        ("topic", "k-means", 0.3, 0.02),
        ("topic", "Gaussian mixture", -0.1, 1.0),
    )
    # Layers that were chosen are not what the claim is about.
    chosen = clustering(("source", "k-means", 1.0, 0.01), choice="chosen")
    found = claims_table(NONE, pd.concat([chosen, table]), NONE)
    assert set(found["claim"]) == {CLAIMS["clusters"]} and list(found["held"]) == ["held", "partly"]
    assert list(found["evidence"]) == [
        "source: HDBSCAN ARI 0.60 (recovered: from 0.5), purity 0.75 where 0.55 is chance, "
        "p = 0.01",
        "topic: k-means ARI 0.30 (recovered: from 0.5), purity 0.75 where 0.55 is chance, p = 0.02",
    ]


# -- translations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "shift", "p_value", "held"),
    [
        (0.9, 0.6, 0.9, 0.01, "held"),
        (0.9, 0.6, 0.9, 0.9, "held"),
        (0.9, 0.601, 0.9, 0.05, "partly"),
        # An axis that was hardly there cannot be removed.
        (0.899, 0.5, 0.9, 0.05, "partly"),
        (0.9, 0.601, 0.9, 0.051, "not"),
        (0.9, 0.601, -0.1, 0.01, "not"),
        # Carried too far, texts lie on the other side: the axis tells them as before.
        (0.9, 0.4001, 1.2, 0.01, "held"),
        (0.9, 0.3999, 1.2, 0.01, "partly"),
    ],
)
def test_the_language_axis_is_removed_or_left_in_part_or_not(before, after, shift, p_value, held):
    values = {"language auroc before": before, "language auroc after": after}
    table = translation(shift=shift, p_value=p_value, **values)
    [row] = claims_table(NONE, NONE, table).to_dict("records")
    assert row["claim"] == CLAIMS["language"] and row["held"] == held
    assert f"{before:.2f} before, {after:.2f} after (gone: 0.4 to 0.6)" in row["evidence"]
    assert f"texts move {shift:.2f} [{shift - 0.1:.2f}, {shift + 0.1:.2f}]" in row["evidence"]


@pytest.mark.parametrize(
    ("original", "translated", "held"),
    [
        (0.9, 0.95, "held"),
        (0.9, 0.8501, "held"),
        (0.9, 0.8499, "partly"),
        (0.9, 0.5501, "partly"),
        (0.9, 0.5499, "not"),
        (0.9, 0.1, "not"),
    ],
)
def test_the_topic_is_kept_or_in_part_or_not(original, translated, held):
    topics = {"topic auroc original": original, "topic auroc translated": translated}
    table = claims_table(NONE, NONE, translation(**topics))
    assert list(table["claim"]) == [CLAIMS["language"], CLAIMS["topic"]]
    assert table["held"][1] == held
    assert f"{original:.2f} before, {translated:.2f} after" in table["evidence"][1]


def test_translations_are_judged_in_the_final_view_alone():
    assert verdicts(translation=translation(choice="chosen")) == []


# -- tables that are empty, and as files have them -----------------------------------------------


def test_no_tables_no_claims():
    assert verdicts() == []
    # A study without translations has a table without columns; one may have columns and no rows.
    assert verdicts(separability=separability(("e5", "", "final", 1.0, 0.01)).iloc[:0]) == []
    assert verdicts(clustering=clustering(("topic", "k-means", 0.5, 0.01))) == ["held"]


def test_contrasts_of_baselines_alone_have_no_claims():
    assert verdicts(separability(("length", "", "baseline", 0.9, 0.01))) == []


def test_tables_from_files_give_the_same_claims(tmp_path):
    tables = {
        "separability": separability(
            ("1e5", "", "final", 0.97, 0.005, "NA", "7"),
            ("1e5", "letters", "final", 0.9, 0.005, "NA", "7"),
            ("length", "", "baseline", 0.66, 0.005, "NA", "7"),
            ("1e5", "", "final", 0.3, 0.9, "", ""),
        ),
        "clustering": clustering(("1", "k-means", 0.3, 0.01)),
        "translation": translation(**{"topic auroc original": 0.9, "topic auroc translated": 0.8}),
    }
    back = {}
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        back[name] = files.read_table(tmp_path / f"{name}.csv")
    # What is empty in these columns says something: all sources, no control.
    assert list(back["separability"]["control"]) == ["", "letters", "", ""]
    assert list(back["separability"]["source_a"]) == ["NA", "NA", "NA", ""]
    assert list(back["separability"]["chosen"]) == [""] * 4
    expected = claims_table(**tables)
    pd.testing.assert_frame_equal(claims_table(**back), expected)
    assert list(expected["held"]) == ["held", "partly", "held", "partly"]
    assert expected["evidence"][0].startswith("NA – 7: ") and expected["embedder"][0] == "1e5"
    # And the claims themselves go through a file.
    expected.to_csv(tmp_path / "claims.csv", index=False)
    pd.testing.assert_frame_equal(files.read_table(tmp_path / "claims.csv"), expected)
