"""What setting outputs beyond ±15 to zero, and interpolating F₀, do to α̂.

    python benchmarks/clipping.py

The code released with Banerjee et al. 2024 (arXiv:2406.08307) does both. Here candidates are held
against 16 runs: two humps of logit gaps around ±5…±12, as confident binary models have them,
correlated over runs at each of 8,000 test points. Half of the table is for candidates of the
same population, whose α̂ should be 0, half for candidates with gaps 10 % wider. Interpolation is
linear between 1,000 evenly spaced points. α̂ at the authors' tolerance, mean over 20 candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model_metrology.variability import alpha_hat, empirical_cdf

POINTS, RUNS, CANDIDATES, LIMIT, KNOTS = 8000, 16, 20, 15.0, 1000


def draw(confidence: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Candidates and reference runs whose gaps lie around ±confidence."""
    side = np.where(rng.random(POINTS) < 0.5, -confidence, confidence)
    shared = side + 0.4 * confidence * rng.normal(size=POINTS)
    gaps = shared + 0.15 * confidence * rng.normal(size=(CANDIDATES + RUNS, POINTS))
    return gaps[:CANDIDATES], gaps[CANDIDATES:]


def clipped(gaps: np.ndarray) -> np.ndarray:
    return np.where(np.abs(gaps) > LIMIT, 0.0, gaps)


def interpolated(sample: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """F₀ by linear interpolation of the empirical CDF: jumps become ramps."""
    grid = np.linspace(sample.min(), sample.max(), KNOTS)
    heights = empirical_cdf(sample)(grid)
    return lambda x: np.interp(x, grid, heights, left=0.0, right=1.0)


def main() -> None:
    heads = ("beyond 15", "gaps", "as they are", "set to zero", "and interpolated")
    print("".join(f"{head:>18}" for head in heads))
    for wider in (1.0, 1.1):
        for confidence in (5.0, 8.0, 10.0, 12.0):
            candidates, reference = draw(confidence, np.random.default_rng(0))
            candidates = wider * candidates
            pool = np.sort(reference, axis=None)
            variants = (
                (candidates, pool),
                (clipped(candidates), clipped(pool)),
                (clipped(candidates), interpolated(clipped(pool))),
            )
            means = [
                np.mean([alpha_hat(run, law, tolerance="authors").alpha for run in runs])
                for runs, law in variants
            ]
            share = f"{np.mean(np.abs(pool) > LIMIT):.3f}"
            cells = (share, f"× {wider}", *(f"{mean:.3f}" for mean in means))
            print("".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
