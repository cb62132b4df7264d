"""Independent, named random streams for every run of a study.

One root seed a study. Each run derives one stream for each *source of randomness* by
:class:`numpy.random.SeedSequence` from (root, population, run, stream), so that streams are
statistically independent and none depends on how many others were drawn before it. A stream
that a population does not vary is derived without the run, hence shared by all of its runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

STREAMS: tuple[str, ...] = ("init", "order", "augmentation", "dropout", "label_noise", "data")
"""Sources of randomness of a training run, in the order used for reports."""


def _key(text: str) -> list[int]:
    # SeedSequence takes integers only; a digest keeps a name's stream the same everywhere,
    # which Python's salted `hash` would not.
    digest = hashlib.sha256(text.encode()).digest()
    return np.frombuffer(digest[:16], dtype="<u4").tolist()


@dataclass(frozen=True)
class Streams:
    """The random streams of one run.

    Parameters
    ----------
    root : int
        The study's root seed.
    population : str
        The population's name.
    run : int
        The run's number within its population.
    varies : iterable of str
        The streams (of `STREAMS`) that differ from run to run.
    """

    root: int
    population: str
    run: int
    varies: frozenset[str]

    def __init__(self, root: int, population: str, run: int, varies: Iterable[str]) -> None:
        unknown = set(varies) - set(STREAMS)
        if unknown:
            raise ValueError(
                f"varies: unknown stream(s) {sorted(unknown)}; choose from {list(STREAMS)}"
            )
        object.__setattr__(self, "root", int(root))
        object.__setattr__(self, "population", population)
        object.__setattr__(self, "run", int(run))
        object.__setattr__(self, "varies", frozenset(varies))

    def sequence(self, stream: str, *path: int) -> np.random.SeedSequence:
        """The seed sequence of `stream`, optionally of a child such as an epoch.

        Parameters
        ----------
        stream : str
            One of `STREAMS`.
        *path : int
            Further integers, e.g. the epoch: each path is a stream of its own, so an epoch's
            numbers can be drawn without having drawn those of the epochs before it (a resumed
            run then continues exactly as an undisturbed one).
        """
        if stream not in STREAMS:
            raise ValueError(f"stream: unknown {stream!r}; choose from {list(STREAMS)}")
        # run + 1: zero stands for "shared by all runs".
        member = self.run + 1 if stream in self.varies else 0
        entropy = [self.root, *_key(self.population), member, *_key(stream), *path]
        return np.random.SeedSequence(entropy)

    def generator(self, stream: str, *path: int) -> np.random.Generator:
        """A NumPy generator on :meth:`sequence`."""
        return np.random.default_rng(self.sequence(stream, *path))

    def seed(self, stream: str, *path: int) -> int:
        """A 63-bit integer seed from :meth:`sequence`, for libraries that take an integer."""
        return int(self.sequence(stream, *path).generate_state(1, np.uint64)[0] >> 1)
