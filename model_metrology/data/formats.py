"""Readers of the raw formats: idx (MNIST), CIFAR-10's binary records, and image sprites."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + 3 * 32 * 32
_IDX_UBYTE = 0x08


def parse_idx(content: bytes, name: str = "idx data") -> NDArray[np.uint8]:
    """Parse an idx file of unsigned bytes.

    The format is LeCun's: two zero bytes, the element type, the number of axes, each axis's
    length as a big-endian 32-bit integer, then the elements in C order.

    Parameters
    ----------
    content : bytes
        The whole file, decompressed.
    name : str
        What to call it in errors.

    Returns
    -------
    ndarray of uint8
        Read-only view of `content` in the shape that the header states.

    Raises
    ------
    ValueError
        If the header is not idx's, or the file is shorter or longer than its header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{name}: not an idx file (its first bytes are {content[:4].hex(' ')})")
    kind, axes = content[2], content[3]
    if kind != _IDX_UBYTE:
        raise ValueError(f"{name}: idx element type 0x{kind:02x}, expected 0x08 (unsigned byte)")
    start = 4 + 4 * axes
    if len(content) < start:
        raise ValueError(f"{name}: truncated in its header ({len(content)} of {start} bytes)")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=axes, offset=4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise ValueError(
            f"{name}: {len(content)} bytes, but its header {shape} means {expected}; "
            "the file is truncated or damaged, fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def parse_cifar(
    content: bytes, name: str = "CIFAR data"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Parse a file of CIFAR-10's binary version.

    Each record is one label byte and 3,072 pixel bytes: red, green, blue, each row by row
    (Krizhevsky 2009).

    Parameters
    ----------
    content : bytes
        The whole file.
    name : str
        What to call it in errors.

    Returns
    -------
    images : ndarray of uint8, shape (n, 3, 32, 32)
        Read-only view of `content`.
    labels : ndarray of uint8, shape (n,)
        Read-only view of `content`.

    Raises
    ------
    ValueError
        If the file is not a whole number of records.
    """
    if not content or len(content) % _CIFAR_RECORD:
        raise ValueError(
            f"{name}: {len(content)} bytes are no whole number of {_CIFAR_RECORD}-byte records; "
            "the file is truncated or damaged, fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), records[:, 0]


def pack_cifar(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    """Write images and labels as records of CIFAR-10's binary version.

    Inverse of :func:`parse_cifar`.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, 3, 32, 32)
        Images.
    labels : ndarray of uint8, shape (n,)
        Labels.

    Raises
    ------
    ValueError
        If there are not as many labels as images.
    """
    if len(images) != len(labels):
        raise ValueError(f"labels: {len(labels)} labels for {len(images)} images")
    return np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1).tobytes()


def decode_sprite(content: bytes, name: str = "sprite") -> NDArray[np.uint8]:
    """Decode a PNG that holds one 32x32 RGB image in each of its rows.

    Parameters
    ----------
    content : bytes
        The PNG file; its row `i` holds the 1,024 pixels of image `i`, row by row.
    name : str
        What to call it in errors.

    Returns
    -------
    ndarray of uint8, shape (n, 3, 32, 32)

    Raises
    ------
    ValueError
        If the PNG cannot be decoded, or is not RGB and 1,024 pixels wide.
    """
    from PIL import Image  # only this one source needs it

    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        if image.mode != "RGB" or image.width != 1024:
            raise ValueError(f"{image.width} pixels wide and {image.mode}, expected 1024 and RGB")
        pixels = np.asarray(image)
    # Pillow reports a damaged PNG as a SyntaxError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: {error}") from error
    return pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
