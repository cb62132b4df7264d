"""Logs of jobs: to the job's file and to the terminal at once."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

logger = logging.getLogger("model_metrology")
"""The library's logger; silent until an application asks for its messages."""


def start_log(path: str | Path) -> logging.Logger:
    """Send the library's messages, warnings and uncaught exceptions to a file and to stderr.

    Parameters
    ----------
    path : path-like
        The log file; written anew.

    Returns
    -------
    logging.Logger
        The library's logger.
    """
    format_ = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    for handler in (logging.FileHandler(path, mode="w"), logging.StreamHandler(sys.stderr)):
        handler.setFormatter(format_)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(logger.handlers[0])

    def log_exception(kind, value, trace):  # type: ignore[no-untyped-def]
        logger.handlers[0].emit(
            logger.makeRecord(
                logger.name, logging.ERROR, "", 0, str(value), (), (kind, value, trace)
            )
        )
        sys.__excepthook__(kind, value, trace)

    sys.excepthook = log_exception
    return logger
