"""Tables over all runs: slopes against numpy and scipy, medians and counts by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from model_metrology.seeds import Streams
from model_metrology.spectra.recipes import WidthPopulation
from model_metrology.spectra.runs import MATRICES
from model_metrology.spectra.tables import claims_table, last_steps, slopes_table, summary_table
from model_metrology.spectra.training import train_width_runs

MEDIANS = [
    "outliers", "exponent", "bulk_distance", "norm_change", "alignment_teacher",
    "alignment_labels", "target_alignment", "test_r2",
]  # fmt: skip


def rows(group="g", run=0, steps=(0, 10), matrices=MATRICES, **values):
    """Rows of one run; values that a test leaves out are nothing in particular."""
    content = {
        "group": group, "run": run, "cell": 0, "kind": "bulk", "broadened": False, "outliers": 0,
        "size": 100, "largest": 3.0, "edge": 3.0, "exponent": np.nan, "bulk_distance": 0.01,
        "law_distance": 0.01, "norm_change": 0.5, "alignment_teacher": 0.1,
        "alignment_labels": 0.2, "target_alignment": 0.3, "test_r2": 0.4, "data.points": 200,
        "data.points_per_dimension": 2.0, "network.width_per_dimension": 1.5,
        "recipe.optimiser": "gd", "recipe.learning_rate": 1.0, "recipe.steps": 10,
        "recipe.batch_size": 200, "recipe.momentum": 0.0,
    } | values  # fmt: skip
    return [content | {"step": step, "matrix": matrix} for step in steps for matrix in matrices]


def table_of(*parts):
    return pd.DataFrame([row for part in parts for row in part])


def excluded_of(*groups):
    content = [{"group": group, "run": i, "reason": "?"} for i, group in enumerate(groups)]
    return pd.DataFrame(content, columns=["group", "run", "reason"])


# -- slopes ------------------------------------------------------------------------------------


def power_law(slope, sizes=(200, 400, 800), runs=3, seed=0, spread=0.1, **values):
    """‖change‖ = c n^slope with lognormal scatter; the same three norms but for a factor."""
    rng = np.random.default_rng(seed)
    parts, run = [], 0
    for n in sizes:
        for _ in range(runs):
            change = 7 * n**slope * math.exp(spread * rng.normal())
            options = {"recipe.batch_size": n} | {
                key: value(n) if callable(value) else value for key, value in values.items()
            }
            found = rows(run=run, norm_change=change, **{"data.points": n}, **options)
            for row in found:
                row["norm_change"] *= 1 + MATRICES.index(row["matrix"])
                row["norm_change"] *= row["step"] > 0
            parts.append(found)
            run += 1
    return table_of(*parts)


@pytest.mark.parametrize("level", [0.05, 0.2])
@pytest.mark.parametrize("slope", [-1.0, 0.0, -0.4])
def test_slopes_are_those_of_least_squares(slope, level):
    table = power_law(slope)
    found = slopes_table(table, ["g"], level=level)
    assert found["matrix"].tolist() == list(MATRICES) and (found["group"] == "g").all()
    for row in found.to_dict("records"):
        part = table[(table["matrix"] == row["matrix"]) & (table["step"] == 10)]
        x, y = np.log(part["data.points"]), np.log(part["norm_change"])
        expected, offset = np.polyfit(x, y, 1)
        assert row["slope"] == pytest.approx(expected, rel=1e-10)
        # Student's interval, written out.
        residual = y - expected * x - offset
        error = math.sqrt((residual**2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
        half = stats.t(len(x) - 2).ppf(1 - level / 2) * error
        assert row["low"] == pytest.approx(expected - half, rel=1e-9)
        assert row["high"] == pytest.approx(expected + half, rel=1e-9)
        assert (row["runs"], row["sizes"]) == (9, 3)


def test_intervals_cover_the_slope():
    held = []
    for seed in range(200):
        row = slopes_table(power_law(-1.0, seed=seed), ["g"], level=0.2).iloc[0]
        held.append(row["low"] <= -1.0 <= row["high"])
    # Binomial with 200 and .8: four standard errors.
    assert np.mean(held) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 200))


def test_slopes_are_of_the_last_step_and_the_sweep_alone():
    table = pd.concat([power_law(-1.0), power_law(-0.2, seed=1).assign(group="other")])
    alone = slopes_table(power_law(-1.0), ["g"])
    pd.testing.assert_frame_equal(slopes_table(table, ["g"]), alone)
    both = slopes_table(table, ["other", "g"])
    assert both["group"].tolist() == ["other"] * 3 + ["g"] * 3
    assert len(slopes_table(table, [])) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, -1.0),
        ({"recipe.optimiser": "sgd"}, -1.0),  # on all points
        ({"recipe.learning_rate": lambda n: n / 10}, 0.0),
        ({"recipe.learning_rate": lambda n: math.sqrt(n)}, math.nan),
        ({"recipe.steps": lambda n: n}, math.nan),
        ({"recipe.learning_rate": lambda n: n / 10, "recipe.steps": lambda n: n}, math.nan),
        ({"recipe.optimiser": "adam"}, math.nan),
        ({"recipe.optimiser": "rmsprop"}, math.nan),
        # The mean over a batch of fixed size does not fall as that over all points does.
        ({"recipe.optimiser": "sgd", "recipe.batch_size": 32}, math.nan),
        # At ratios that are not fixed nothing is predicted.
        ({"data.points_per_dimension": lambda n: n / 100}, math.nan),
        ({"network.width_per_dimension": lambda n: n / 100}, math.nan),
    ],
)
def test_predicted_slopes(options, expected):
    found = slopes_table(power_law(-1.0, **options), ["g"])["predicted"]
    np.testing.assert_array_equal(found, [expected] * 3)


@pytest.mark.parametrize(
    "recipe",
    [
        {"learning_rate": 1.0, "steps": 3},
        {"learning_rate": "n", "steps": 20},
        {"learning_rate": 1.0, "steps": 3, "optimiser": "sgd", "batch_size": 16},
    ],
    ids=str,
)
def test_predicted_slopes_are_those_of_training(recipe):
    parts, run = [], 0
    for n in (80, 160, 320, 640):
        options = recipe | {"learning_rate": n / 20} if recipe["learning_rate"] == "n" else recipe
        of = WidthPopulation(data={"points": n}, recipe=options)
        streams = [Streams(0, "p", run + i, of.varies) for i in range(3)]
        for trained in train_width_runs([of] * 3, streams, device=torch.device("cpu")):
            change = np.linalg.norm(trained.weights[-1] - trained.weights[0])
            parts.append(
                rows(
                    run=trained.run,
                    steps=[of.recipe.steps],
                    norm_change=change / math.sqrt(of.data.dimension),
                    **{"data.points": n, "recipe.batch_size": of.recipe.batch_size or n}
                    | {f"recipe.{key}": value for key, value in options.items()}
                    | {"recipe.optimiser": of.recipe.optimiser},
                )
            )
        run += 3
    row = slopes_table(table_of(*parts), ["g"]).iloc[0]
    # Corrections of order 1/n at these sizes move a slope by some .05; batches of 16 give −.6.
    assert math.isnan(row["predicted"]) or row["slope"] == pytest.approx(row["predicted"], abs=0.15)


@pytest.mark.parametrize(("sizes", "runs"), [((200,), 5), ((200, 400), 1), ((), 0)])
def test_too_few_sizes_or_runs_have_no_slope(sizes, runs):
    table = pd.concat([power_law(-1.0, sizes, runs), table_of(rows("other"))])
    found = slopes_table(table, ["g"])
    assert found[["slope", "low", "high"]].isna().all(axis=None)
    assert found["runs"].tolist() == [len(sizes) * runs] * 3
    assert found["sizes"].tolist() == [len(sizes)] * 3


def test_two_sizes_and_three_runs_have_one():
    table = power_law(-1.0, (200, 400), 2)
    table = table[table["run"] < 3]
    assert slopes_table(table, ["g"])[["slope", "low", "high"]].notna().all(axis=None)


def test_runs_that_did_not_move_are_left_out():
    table = pd.concat([power_law(-1.0), table_of(rows(run=99, norm_change=0.0))])
    found = slopes_table(table, ["g"])
    assert found["runs"].tolist() == [9] * 3 and np.isfinite(found["slope"]).all()


def test_slopes_beside_a_block_without_rows():
    """A block of which every run diverged leaves a table of columns; numbers stay numbers."""
    full = power_law(-1.0)
    joined = pd.concat([full, pd.DataFrame(columns=list(full))], ignore_index=True)
    pd.testing.assert_frame_equal(
        slopes_table(joined, ["g"]), slopes_table(full, ["g"]), check_dtype=False
    )
    summary = summary_table(joined, excluded_of("h"))
    assert summary["runs"].tolist() == [9] * 3 + [0] * 3


# -- summaries ---------------------------------------------------------------------------------


def test_last_steps_are_each_runs_own():
    table = table_of(rows(run=0, steps=(0, 3, 10)), rows(run=1, steps=(0, 5)), rows("h", 0, (0, 2)))
    found = last_steps(table)
    ends = found.drop_duplicates(["group", "run"])[["group", "run", "step"]].to_numpy().tolist()
    assert ends == [["g", 0, 10], ["g", 1, 5], ["h", 0, 2]] and len(found) == 9


def test_summary_counts_and_medians_by_hand():
    rng = np.random.default_rng(0)
    kinds = ["bulk", "bulk+spikes", "bulk+spikes", "heavy-tailed"]
    drawn = [{name: float(rng.random()) for name in MEDIANS} for _ in kinds]
    parts = [
        rows(run=i, kind=kind, broadened=i == 2, largest=3.0 + i, edge=2.0, **values)
        for i, (kind, values) in enumerate(zip(kinds, drawn, strict=True))
    ]
    # Rows of step 0 must not count.
    for part in parts:
        for row in part[:3]:
            row |= dict.fromkeys([*MEDIANS, "largest"], 1e6) | {"kind": "bulk"}
    found = summary_table(table_of(*parts, rows("h")), excluded_of("g", "g"))
    assert found["group"].tolist() == ["g"] * 3 + ["h"] * 3
    assert found["matrix"].tolist() == list(MATRICES) * 2
    for row in found[found["group"] == "g"].to_dict("records"):
        assert (row["runs"], row["diverged"], row["broadened"]) == (4, 2, 1)
        assert (row["bulk"], row["bulk+spikes"], row["heavy-tailed"]) == (1, 2, 1)
        assert row["over_edge"] == pytest.approx((4 / 2 + 5 / 2) / 2)
        for name in MEDIANS:
            middle = sorted(values[name] for values in drawn)[1:3]
            assert row[name] == pytest.approx(sum(middle) / 2)
    assert found.loc[found["group"] == "h", "diverged"].tolist() == [0] * 3


def test_medians_leave_out_what_is_nan():
    table = table_of(*(rows(run=i, exponent=x) for i, x in enumerate((np.nan, 2.0, 4.0))))
    assert summary_table(table, excluded_of())["exponent"].tolist() == [3.0] * 3


def test_a_group_of_which_every_run_diverged_is_in_the_summary():
    found = summary_table(table_of(rows("g")), excluded_of("h", "h", "g"))
    row = found[found["group"] == "h"]
    assert row["matrix"].tolist() == list(MATRICES)
    assert row["runs"].tolist() == [0] * 3 and row["diverged"].tolist() == [2] * 3
    assert row[[*MEDIANS, "over_edge"]].isna().all(axis=None)
    assert row[["bulk", "bulk+spikes", "heavy-tailed", "broadened"]].eq(0).all(axis=None)
    assert found.loc[found["group"] == "g", "diverged"].tolist() == [1] * 3


def test_tables_of_runs_that_all_diverged():
    empty = pd.DataFrame(columns=list(rows()[0]))
    found = summary_table(empty, excluded_of("g"))
    assert found["runs"].tolist() == [0] * 3 and found["diverged"].tolist() == [1] * 3
    slopes = slopes_table(empty, ["g"])
    assert slopes["slope"].isna().all() and slopes["runs"].tolist() == [0] * 3
    claims = claims_table(empty, slopes, expected={"g": "bulk"}, rng=np.random.default_rng(0))
    assert claims["share"].isna().all()


# -- claims ------------------------------------------------------------------------------------

EXPECTED = {"calm": "bulk", "spiky": "bulk+spikes", "heavy": "heavy-tailed"}


def claims(*parts, slopes=None, expected=EXPECTED, seed=0, level=0.05):
    table = table_of(*parts)
    slopes = slopes_table(table, []) if slopes is None else slopes
    if slopes.empty:
        slopes = pd.DataFrame({"slope": [], "predicted": []}, dtype=float)
    found = claims_table(
        table, slopes, expected=expected, rng=np.random.default_rng(seed), level=level
    )
    return found.set_index("claim")


def wilson(held, of, coverage):
    """Wilson 1927, written out."""
    z, share = stats.norm.ppf((1 + coverage) / 2), held / of
    middle = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    return middle - half, middle + half


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    found = []
    for i in range(8):
        found.append(rows("calm", i, law_distance=0.13 if i else 0.14))
        found.append(rows("spiky", i, kind="bulk+spikes" if i < 6 else "bulk", outliers=1))
        kind = ("heavy-tailed", "bulk+spikes")[i >= 3]
        found.append(rows("heavy", i, kind=kind, broadened=3 <= i < 5))
    for part in found:
        for row in part:
            row |= {"largest": rng.uniform(2, 9), "alignment_teacher": rng.random()}
            # What is not of the weights, or not at the end, is not counted.
            if row["matrix"] != "weights" or row["step"] == 0:
                row |= {"kind": "?", "law_distance": 1.0, "broadened": False}
    # A population of which nothing is expected.
    return [*found, rows("other", kind="heavy-tailed", largest=1e3, alignment_teacher=1e3)]


@pytest.mark.parametrize("level", [0.05, 0.3])
def test_kinds_are_counted_with_wilson_intervals(parts, level):
    found = claims(*parts, level=level)
    counts = {
        "calm: bulk": (8, 8),
        "spiky: bulk+spikes": (6, 8),
        "heavy: heavy-tailed": (3, 8),
        "populations expected to have a heavy tail break their bulk up": (5, 8),
        # 1.36/√100 = .136
        "populations that keep the bulk keep its law": (7, 8),
    }
    for claim, (held, of) in counts.items():
        row = found.loc[claim]
        assert (row["held"], row["of"], row["share"]) == (held, of, held / of)
        assert (row["low"], row["high"]) == pytest.approx(wilson(held, of, 1 - level), abs=1e-9)
        assert math.isnan(row["p_value"])


def test_growth_is_spearmans(parts):
    row = claims(*parts).loc["the alignment with the teacher grows with the spike"]
    table = last_steps(table_of(*parts))
    table = table[(table["matrix"] == "weights") & (table["group"] != "other")]
    expected = stats.spearmanr(table["largest"] / table["edge"], table["alignment_teacher"])
    assert row["share"] == pytest.approx(expected.statistic)
    assert row["p_value"] == pytest.approx(expected.pvalue)
    assert -1 <= row["low"] <= row["share"] <= row["high"] <= 1
    # Fisher's interval is about as wide: a bootstrap of 24 pairs is within a third of it.
    width = 2 * 1.96 / math.sqrt(24 - 3) * (1 - expected.statistic**2)
    assert row["high"] - row["low"] == pytest.approx(width, rel=1 / 3)
    again = claims(*parts).loc["the alignment with the teacher grows with the spike"]
    assert row["low"] == again["low"]


def test_growth_of_what_does_not_vary_is_not_defined():
    row = claims(*(rows("calm", i) for i in range(5)), expected={"calm": "bulk"})
    row = row.loc["the alignment with the teacher grows with the spike"]
    assert row[["held", "of", "share", "low", "high", "p_value"]].isna().all()


def test_rates_are_held_at_or_below_the_prediction(parts):
    slopes = pd.DataFrame(
        {
            "predicted": [-1.0, -1.0, -1.0, 0.0, 0.0, math.nan, -1.0],
            # at, far below (a bound holds), above by .11; bounded, not; nothing said; not fitted
            "slope": [-0.95, -2.0, -0.89, 0.05, 0.2, 5.0, math.nan],
        }
    )
    row = claims(*parts, slopes=slopes).loc["the norms obey the rates"]
    assert (row["held"], row["of"]) == (3, 5)


def test_claims_of_what_is_not_there_are_empty():
    found = claims(rows("other"))
    assert found["of"].fillna(0).eq(0).all()
    assert found[["share", "low", "high"]].isna().all(axis=None)


def test_nothing_expected_is_no_claim_of_a_population():
    found = claims(rows("other"), expected={})
    assert len(found) == 4 and not any(":" in claim for claim in found.index)


def test_definitions_say_what_is_counted(parts):
    found = claims(*parts)
    assert found["definition"].str.len().gt(20).all()
    assert list(found.columns) == ["definition", "held", "of", "share", "low", "high", "p_value"]
