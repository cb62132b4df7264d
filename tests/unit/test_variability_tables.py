"""The tables of a variability study, against direct computation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from model_metrology.runs import Outputs
from model_metrology.variability import tables


def make_outputs(population, runs, *, noise=0.5, shift=0.0, n=400, seed=0, one_logit=False):
    """Runs that share their test points' difficulty, with a given accuracy and shift."""
    points = np.random.default_rng(99)
    labels = np.arange(n) % 2
    common = (2.0 * labels - 1.0) * points.gamma(2.0, size=n) + points.normal(scale=0.5, size=n)
    gaps = common + shift + np.random.default_rng(seed).normal(scale=noise, size=(runs, n))
    logits = gaps[..., None] if one_logit else np.stack([-gaps / 2, gaps / 2], axis=-1)
    return Outputs(population, np.arange(runs), logits.astype(np.float32), labels, ("cat", "dog"))


@pytest.fixture(scope="module")
def base():
    return make_outputs("base", 25)


@pytest.fixture(scope="module")
def reference(base):
    return base.split(20)[0]


@pytest.fixture(scope="module")
def null(reference):
    return tables.null_table(reference)


@pytest.fixture(scope="module")
def measured(base, reference, null):
    return tables.alpha_table(base, reference, null, bootstraps=20, rng=np.random.default_rng(0))


def test_reference_runs_are_no_candidates(measured):
    table, weights = measured
    assert sorted(table["run"].unique()) == [20, 21, 22, 23, 24]
    assert list(table["scope"].iloc[:4]) == ["pooled", "cat", "dog", "maximum"]
    assert weights.shape == (5, 400)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_scopes_have_their_own_points_and_the_maximum_is_one_of_them(measured):
    table = measured[0]
    run = table[table["run"] == 20].set_index("scope")
    assert list(run.loc[["pooled", "cat", "dog"], "n"]) == [400, 200, 200]
    assert run.loc["maximum", "alpha"] == max(run.loc["cat", "alpha"], run.loc["dog", "alpha"])


def test_distance_is_that_of_scipy(base, reference, measured):
    gaps = base.logits[..., 1].astype(float) - base.logits[..., 0]
    pooled = gaps[:20].ravel()
    table = measured[0]
    for run, part in table[table["scope"] == "pooled"].groupby("run"):
        expected = stats.ks_2samp(gaps[run], pooled).statistic
        assert part["statistic"].item() == pytest.approx(expected, abs=1e-12)


def test_exchangeable_candidates_are_no_outliers_and_a_shifted_run_is(reference, null, measured):
    # Under exchangeability p <= 1/21 has probability 1/21 a candidate; the seeds are fixed.
    usual = measured[0][measured[0]["scope"] == "pooled"]
    assert (usual["p_value_ks"] > 0.05).all()
    shifted = make_outputs("shifted", 2, shift=1.0, seed=5)
    kwargs = {"bootstraps": 20, "rng": np.random.default_rng(0)}
    table, _ = tables.alpha_table(shifted, reference, null, **kwargs)
    pooled = table[table["scope"] == "pooled"]
    assert pooled["p_value_ks"].to_numpy() == pytest.approx(1 / 21)
    assert (pooled["alpha"] > 0.1).all()
    assert (pooled["alpha_bound"] <= pooled["alpha"]).all()


def test_labels_exchanged_between_classes_show_in_the_classes_alone(reference, null):
    honest = make_outputs("swapped", 1, seed=8)
    logits = honest.logits.copy()
    cats, dogs = np.flatnonzero(honest.labels == 0)[:60], np.flatnonzero(honest.labels == 1)[:60]
    logits[0, cats], logits[0, dogs] = honest.logits[0, dogs], honest.logits[0, cats]
    swapped = Outputs("swapped", honest.runs, logits, honest.labels, honest.classes)
    kwargs = {"bootstraps": 20, "rng": np.random.default_rng(0)}
    before = tables.alpha_table(honest, reference, null, **kwargs)[0].set_index("scope")
    after = tables.alpha_table(swapped, reference, null, **kwargs)[0].set_index("scope")
    assert after.loc["pooled", "alpha"] == before.loc["pooled", "alpha"]
    assert after.loc["maximum", "alpha"] > before.loc["maximum", "alpha"] + 0.1
    assert after.loc["maximum", "p_value"] == pytest.approx(1 / 21)


def test_p_value_counts_the_null(reference, null, measured):
    table = measured[0]
    for scope in ("pooled", "cat", "maximum"):
        usual = null.loc[null["scope"] == scope, "alpha"].to_numpy()
        assert len(usual) == 20
        for row in table[table["scope"] == scope].itertuples():
            assert row.p_value == pytest.approx((1 + (usual >= row.alpha).sum()) / 21)


def test_own_table_holds_each_run_against_the_others():
    outputs = make_outputs("own", 4)
    table = tables.own_alpha_table(outputs)
    gaps = outputs.logits[..., 1].astype(float) - outputs.logits[..., 0]
    row = table[(table["run"] == 2) & (table["scope"] == "pooled")].iloc[0]
    expected = stats.ks_2samp(gaps[2], np.delete(gaps, 2, axis=0).ravel()).statistic
    assert row["statistic"] == pytest.approx(expected, abs=1e-12)
    assert row["reference_runs"] == 3 and row["against"] == "own"


def test_one_logit_is_its_own_gap():
    two, one = (make_outputs("x", 6, one_logit=flag) for flag in (False, True))
    # Halves of float32 gaps recombine to within one float32 rounding of the gap.
    a, b = (tables.own_alpha_table(outputs)["statistic"] for outputs in (two, one))
    np.testing.assert_allclose(a, b, atol=1 / 400)


def test_metrics_leave_a_run_out_of_its_own_reference(base, reference):
    table = tables.metrics_table(base, reference)
    assert list(table["role"]) == ["reference"] * 20 + ["candidate"] * 5
    predicted = base.logits.argmax(axis=-1)
    expected = np.mean([np.mean(predicted[3] != predicted[j]) for j in range(20) if j != 3])
    assert table.loc[3, "churn_pairwise"] == pytest.approx(expected, abs=1e-12)
    assert table.loc[3, "accuracy"] == pytest.approx(np.mean(predicted[3] == base.labels))
    others = np.mean([np.mean(predicted[3] != predicted[j]) for j in range(25) if j != 3])
    assert table.loc[3, "churn_own"] == pytest.approx(others, abs=1e-12)
    gaps = base.logits[..., 1].astype(float) - base.logits[..., 0]
    ensemble = gaps[:20].mean(axis=0) > 0
    assert table.loc[24, "churn_ensemble"] == pytest.approx(np.mean(predicted[24] != ensemble))


def test_ensemble_size_table_narrows_and_agrees_with_scipy_at_one_run(base, reference):
    table = tables.ensemble_size_table(
        base.split(20)[1], reference, trim=0.05, replicates=60, rng=np.random.default_rng(0)
    )
    distance = table[table["quantity"] == "statistic"].set_index("reference_runs")
    gaps = base.logits[..., 1].astype(float) - base.logits[..., 0]
    expected = np.mean(
        [stats.ks_2samp(gap, run).statistic for gap in gaps[20:] for run in gaps[:20]]
    )
    # 60 draws of one of 20 runs: the mean is within 3 standard errors of some 2 %.
    assert distance.loc[1, "mean"] == pytest.approx(expected, rel=0.06)
    width = distance["high"] - distance["low"]
    assert 0 < width[20] < width[1]
    accepted = table[table["quantity"] == "accepted"].pivot_table(
        index="reference_runs", columns="test", values="mean"
    )
    assert (accepted["trimmed"] >= accepted["untrimmed"]).all()


def test_power_grows_with_the_planted_difference(base, reference):
    planted = [
        (0.0, base.split(20)[1]),
        (0.3, make_outputs("a", 8, shift=0.3, seed=3)),
        (1.0, make_outputs("b", 8, shift=1.0, seed=4)),
    ]
    table = tables.power_table(reference, planted)
    for _, part in table.groupby("test"):
        power = part.sort_values("planted")["power"].to_numpy()
        assert power[0] <= power[-1] == 1.0
    assert (table["low"] <= table["power"]).all() and (table["power"] <= table["high"]).all()


def test_coverage_table_knows_the_truth():
    table = tables.coverage_table(
        contaminations=[0.2],
        points=[400],
        reference_runs=5,
        simulations=20,
        bootstraps=20,
        rng=np.random.default_rng(0),
    )
    # One-sided contamination 0.2 at tolerance 0.05: 1 - 0.8/0.95.
    assert table["true_alpha"].to_numpy() == pytest.approx(1 - 0.8 / 0.95)
    assert set(table["interval"]) == {"bootstrap", "DKW bound"}


def synthetic_tables():
    """Ten candidates, 20 reference runs; two candidates are outliers, one shows in accuracy."""
    alpha = pd.DataFrame(
        {
            "population": "base",
            "run": range(20, 30),
            "against": "reference",
            "scope": "pooled",
            "n": 100,
            "alpha": np.linspace(0.0, 0.9, 10),
            "statistic": np.linspace(0.01, 0.1, 10),
            "p_value": [1.0] * 8 + [0.04] * 2,
            "p_value_ks": [1.0] * 8 + [0.04] * 2,
        }
    )
    metrics = pd.DataFrame(
        {
            "population": "base",
            "run": range(30),
            "role": ["reference"] * 20 + ["candidate"] * 10,
            "accuracy": [0.90] * 10 + [0.92] * 10 + [0.91] * 9 + [0.5],
            "churn_pairwise": 0.1,
            "churn_own": 0.1,
            "churn_ensemble": 0.1,
            "ece": 0.02,
        }
    )
    return alpha, metrics


def test_claims_count_what_they_say():
    alpha, metrics = synthetic_tables()
    claims = tables.claims_table(alpha, metrics, reference="base", sources=[])
    assert list(claims["held"].iloc[:3]) == [1, 8, 1]
    assert list(claims["of"].iloc[:3]) == [2, 8, 9]
    interval = stats.binomtest(1, 2).proportion_ci(0.95)
    assert claims.loc[0, "low"] == pytest.approx(interval.low)
    assert claims["p_value"].iloc[3:].isna().all()


def test_claim_of_sources_is_a_kruskal_wallis_test():
    alpha, metrics = synthetic_tables()
    rng = np.random.default_rng(0)
    own = pd.DataFrame(
        {
            "population": np.repeat(["init", "order"], 8),
            "run": np.tile(np.arange(8), 2),
            "against": "own",
            "scope": "pooled",
            "alpha": rng.random(16),
            "statistic": rng.random(16),
        }
    )
    claims = tables.claims_table(
        pd.concat([alpha, own]), metrics, reference="base", sources=["init", "order"]
    )
    expected = stats.kruskal(own["alpha"][:8], own["alpha"][8:]).pvalue
    assert claims["p_value"].iloc[3] == pytest.approx(expected)


def test_correlations_are_scipys_spearman():
    alpha, metrics = synthetic_tables()
    metrics["ece"] = np.random.default_rng(1).random(30)
    table = tables.correlations_table(alpha, metrics, rng=np.random.default_rng(0))
    row = table[(table["candidates"] == "all") & (table["metric"] == "ece")].iloc[0]
    expected = stats.spearmanr(alpha["alpha"], metrics["ece"][20:]).statistic
    assert row["value"] == pytest.approx(expected)
    assert row["low"] <= row["value"] <= row["high"]


def test_summary_counts_and_compares_with_theory():
    alpha, metrics = synthetic_tables()
    alpha = pd.concat([alpha, alpha.assign(scope="maximum")])
    excluded = pd.DataFrame({"population": ["base"], "run": [30], "reason": ["diverged"]})
    row = tables.summary_table(alpha, metrics, excluded).iloc[0]
    assert (row["runs"], row["excluded"], row["candidates"], row["outliers"]) == (30, 1, 10, 2)
    error = 1 - metrics["accuracy"].mean()
    assert row["accuracy_sd_expected"] == pytest.approx(np.sqrt(error / 200))
    assert row["alpha"] == pytest.approx(0.45)
