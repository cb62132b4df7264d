from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from model_metrology.data.formats import decode_sprite, pack_cifar, parse_cifar, parse_idx

IDX = b"\0\0\x08\x03" + b"\0\0\0\x02" + b"\0\0\0\x03" + b"\0\0\0\x01" + bytes(range(6))


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def test_idx_is_read_in_the_shape_of_its_header() -> None:
    assert parse_idx(IDX).tolist() == [[[0], [1], [2]], [[3], [4], [5]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\x1f\x8b\x08\0rest", "not an idx file"),
        (b"\0\0\x0d\x01\0\0\0\0", "element type 0x0d"),
        (IDX[:9], "truncated in its header"),
        (IDX[:-1], "truncated or damaged"),
        (IDX + b"\0", "truncated or damaged"),
        # A header whose size overflows 64 bits must not wrap round to a plausible one.
        (b"\0\0\x08\x04" + b"\x80\0\0\0" * 4, "truncated or damaged"),
    ],
)
def test_damaged_idx_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"some-file: .*{message}"):
        parse_idx(content, "some-file")


def test_cifar_record_is_label_then_red_green_blue_planes() -> None:
    red, green, blue = bytes([1]) * 1024, bytes([2]) * 1024, bytes([3]) * 1024
    images, labels = parse_cifar(bytes([7]) + red + green + blue)
    assert labels.tolist() == [7]
    assert images.shape == (1, 3, 32, 32)
    assert images[0].reshape(3, -1).mean(axis=1).tolist() == [1, 2, 3]


def test_cifar_records_survive_the_round_trip() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(0, 10, 5, dtype=np.uint8)
    again, labels_again = parse_cifar(pack_cifar(images, labels))
    assert np.array_equal(again, images)
    assert np.array_equal(labels_again, labels)
    with pytest.raises(ValueError, match="labels: 4 labels for 5 images"):
        pack_cifar(images, labels[:4])


@pytest.mark.parametrize("size", [0, 3072, 2 * 3073 - 1])
def test_truncated_cifar_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"batch\.bin: .*truncated"):
        parse_cifar(bytes(size), "batch.bin")


def test_sprite_rows_are_images_with_channels_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1024, 3), dtype=np.uint8)
    images = decode_sprite(png(pixels))
    assert images.shape == (2, 3, 32, 32)
    # Pixel 37 of a row is line 1, column 5.
    assert images[1, :, 1, 5].tolist() == pixels[1, 37].tolist()


def test_wrong_sprites_are_refused() -> None:
    whole = png(np.zeros((4, 1024, 3), np.uint8))
    wrong = {
        "grey": png(np.zeros((4, 1024), np.uint8)),
        "narrow": png(np.zeros((4, 32, 3), np.uint8)),
        "truncated": whole[: len(whole) // 2],
        "text": b"no picture",
    }
    for name, content in wrong.items():
        with pytest.raises(ValueError, match=f"^{name}: "):
            decode_sprite(content, name)
