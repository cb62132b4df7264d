"""Columns of a subject's kernel, computed block by block: the work of one job."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

# Not from the package, whose names are lazy: digests of code follow plain imports alone.
from model_metrology.kernels.functions import Options, kernel_blocks, log_error
from model_metrology.kernels.names import Raw
from model_metrology.kernels.points import TooSmallError
from model_metrology.surrogates.outputs import KernelColumns
from model_metrology.surrogates.subjects import Subject

__all__ = ["kernel_columns"]

Single = NDArray[np.float32]

# Below this share of the memory that was asked for, less of it hardly helps.
_LEAST = 1 / 64

_log = logging.getLogger(__name__)


def kernel_columns(
    raw: Raw, subject: Subject, start: int, stop: int, options: Options
) -> KernelColumns:
    """Compute columns of a kernel, block by block; where memory runs out, by smaller blocks.

    Parameters
    ----------
    raw : str
        Which inner products; see `model_metrology.kernels.KERNELS`.
    subject : Subject
        Network and points.
    start, stop : int
        Training points of the columns.
    options : Options
        How to compute.

    Raises
    ------
    ValueError
        If there are fewer training points, or see :func:`model_metrology.kernels.kernel_blocks`.
    MemoryError
        If the memory does not suffice for small blocks either.
    """
    if stop > len(subject.train):
        raise ValueError(
            f"stop: columns {start} to {stop} asked for, there are {len(subject.train)} training "
            "points; set surrogates.train to at most that"
        )
    memory = options.memory_mb
    while True:
        fitting = replace(options, memory_mb=memory)
        try:
            found = _columns(raw, subject, start, stop, fitting)
        except TooSmallError:
            if memory == options.memory_mb:
                raise
            break  # no smaller blocks can be had
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            reason = str(error)
        else:
            some, values = subject.train[start:stop], found.train[start:]
            log_error(raw, subject.model, some, None, False, fitting, values)
            return found
        # Outside of the handler, whose error holds on to what was allocated.
        memory /= 2
        if memory < _LEAST * options.memory_mb:
            break
        _log.warning("out of memory (%s); again with memory_mb %g", reason, memory)
    raise MemoryError(
        f"surrogates: columns {start} to {stop} of the {raw} kernel do not fit in this machine's "
        f"memory, nor in blocks of {2 * memory:g} MB ({reason}); lower surrogates.tile, which is "
        f"the columns of a job, or surrogates.train, or give the job more memory"
    )


def _out_of_memory(error: Exception) -> bool:
    # On CPUs, torch's allocator and its convolutions have no exception of their own.
    said = ("allocate memory", "could not create a primitive")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in said)


def _columns(raw: Raw, subject: Subject, start: int, stop: int, options: Options) -> KernelColumns:
    columns = subject.train[start:stop]
    train = np.empty((stop, stop - start), np.float32)
    test = np.empty((len(subject.test), stop - start), np.float32)
    squares = np.empty(stop - start), np.empty(len(subject.test))
    for block in kernel_blocks(raw, subject.model, columns, None, options):
        _put(train, block.values, start + block.row, block.column)
        _put(train, block.values.T, start + block.column, block.row)
        squares[0][block.row : block.row + len(block.row_squares)] = block.row_squares
    for target, rows in ((train, subject.train[:start]), (test, subject.test)):
        if not len(rows):
            continue
        for block in kernel_blocks(raw, subject.model, rows, columns, options):
            _put(target, block.values, block.row, block.column)
            if target is test:
                squares[1][block.row : block.row + len(block.row_squares)] = block.row_squares
    return KernelColumns(start, train, test, *squares)


def _put(target: Single, values: NDArray[np.float64], row: int, column: int) -> None:
    target[row : row + len(values), column : column + values.shape[1]] = values
