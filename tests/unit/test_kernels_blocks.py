"""Blocks of kernels: what they hold, and that it stays within the memory that is given."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from model_metrology.kernels import Options, blocks, conjugate_kernel, functions, kernel_blocks
from model_metrology.kernels.blocks import Memory, Product, add_product, add_upper, mirrored


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


# -- sums in place -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 200])
def test_a_matrix_is_mirrored_in_its_own_memory(n):
    upper = random(n, n)
    expected = upper.triu() + upper.triu(1).T
    upper += torch.full((n, n), 1e30).tril(-1)  # of no account
    whole = mirrored(upper)
    assert whole.data_ptr() == upper.data_ptr()
    assert torch.equal(whole, expected)


class Watched(Product):
    """A product that keeps the sizes of its results, and the kinds of its operands."""

    sizes, kinds = [], set()

    def __call__(self, a, b):
        self.sizes.append(len(a) * len(b))
        self.kinds.update({a.dtype, b.dtype})
        return super().__call__(a, b)


@pytest.mark.parametrize("kind", [None, torch.bfloat16])
@pytest.mark.parametrize(("n", "m"), [(700, 500), (64, 3), (1, 90)])
def test_products_are_added_in_strips(n, m, kind):
    rows, columns = random(n, 20, dtype=torch.float32), random(m, 20, dtype=torch.float32) + 1
    product = Watched(kind)
    product.sizes.clear(), product.kinds.clear()
    into = torch.ones(n, m, dtype=torch.float64)
    add_product(into, rows, columns, product)
    assert max(product.sizes) <= max(n / 8, 256) * m
    expected = 1 + Product(kind)(rows, columns).double()
    torch.testing.assert_close(into, expected, rtol=0, atol=1e-5 if kind is None else 1e-1)
    product.sizes.clear()
    square = torch.zeros(n, n, dtype=torch.float64)
    add_upper(square, rows, product)
    assert max(product.sizes) <= max(n / 8, 64) * n
    # Rounded before they are cut into strips, not once a strip.
    assert product.kinds == {kind or torch.float32}


# -- sizes -------------------------------------------------------------------------------------

ENTRY = 16  # bytes of an entry of a block, and of one of the block before


@pytest.mark.parametrize("megabytes", [0.01, 1, 50, 4000])
@pytest.mark.parametrize("point_bytes", [0, 8, 1000, 10**5])
def test_blocks_are_sized_by_what_points_and_blocks_take(megabytes, point_bytes):
    memory = Memory(megabytes, point_bytes)
    if memory.available < 2 * point_bytes:
        with pytest.raises(ValueError, match="too small"):
            memory.side()
        return
    side = memory.side()
    assert 2 * side * point_bytes + ENTRY * side**2 <= memory.available or side == 1
    beyond = 1.1 * side + 1  # not much smaller than it might be
    assert 2 * beyond * point_bytes + 20 * beyond**2 > memory.available
    for rows, columns in ((10, 10), (1000, 1000), (30_000, 30_000), (30_000, 3)):
        held = int(memory.for_points(rows, columns) // max(point_bytes, 1))
        beside = memory.side_beside(held, rows, columns)
        largest = min(beside, rows) * min(beside, columns)
        assert held * point_bytes + ENTRY * largest <= memory.available + ENTRY
        # Holding all points is not paid for with tiny blocks.
        assert beside >= min(side // 2, rows)


def features(n, width=128):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2)).eval()
    return network, torch.randn(n, 16)


@pytest.mark.parametrize("across", [False, True])
def test_blocks_of_few_numbers_a_point_fit_too(across, monkeypatch):
    """All features fit; the kernel does not."""
    network, x = features(900)
    y = x[:500] if across else None
    whole = conjugate_kernel(network, x, y)
    sizes, seen = [], []
    original = functions.blocks

    def counted(hold, *arguments):
        return original(lambda points: seen.append(len(points)) or hold(points), *arguments)

    monkeypatch.setattr(functions, "blocks", counted)
    for memory_mb in (8, 4, 3):
        seen.clear()
        options = Options(memory_mb=memory_mb)
        found = list(kernel_blocks("conjugate", network, x, y, options))
        sizes.append(max(block.values.size for block in found))
        assert ENTRY * sizes[-1] < 1e6 * memory_mb
        # In several blocks, and yet nothing is computed twice.
        assert len(found) > 1 and sum(seen) == 900 + 500 * across
        np.testing.assert_allclose(
            conjugate_kernel(network, x, y, memory_mb=memory_mb), whole, atol=1e-6
        )
    assert sizes == sorted(set(sizes), reverse=True), "less memory, smaller blocks"


def test_squared_norms_do_not_keep_their_block():
    network, x = features(30)
    for block in kernel_blocks("conjugate", network, x, None, Options()):
        assert not np.shares_memory(block.row_squares, block.values)
        np.testing.assert_array_equal(block.row_squares, np.diag(block.values))


@pytest.mark.parametrize("raw", ["conjugate", "embedding"])
def test_outputs_are_looked_at_by_as_many_points_as_fit(raw):
    network, x = features(300, width=5000)
    seen = []
    network[0].register_forward_hook(lambda _, inputs, outputs: seen.append(len(outputs)))
    list(kernel_blocks(raw, network, x, None, Options(memory_mb=4)))
    assert 10 < max(seen) <= 25  # an eighth of the memory, 20 kB a point


@pytest.mark.parametrize(
    ("raw", "megabytes", "said"),
    [
        ("projected trace", 1000, "gradients of 200 points: 32 %, some"),
        ("trace", 1000, "inner products of a block: 50 %, some"),
        ("conjugate", 1, "penultimate feature vector kernel: "),
    ],
)
def test_long_work_says_how_far_it_is(raw, megabytes, said, caplog, monkeypatch):
    network, x = features(200)
    caplog.set_level("INFO")
    options = Options(memory_mb=megabytes, dim=16)
    assert len(list(kernel_blocks(raw, network, x, None, options))) == 1 or megabytes == 1
    assert said not in caplog.text  # as it takes no time
    monkeypatch.setattr(blocks, "_SAID_EVERY", 0)
    list(kernel_blocks(raw, network, x, None, options))
    assert said in caplog.text


# In a process of its own: what blocks take beyond what a small kernel took. Not by `ru_maxrss`,
# which a process inherits from the one that started it.
PEAK = """
import sys
from pathlib import Path
import torch
from torch import nn
from model_metrology.kernels import Options, kernel_blocks

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1.024e-3 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

torch.set_num_threads(1)
network = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2)).eval()
x, taken = torch.randn(3000, 8), []
for points in (x[:50], x):
    for block in kernel_blocks(sys.argv[1], network, points, None, Options(float(sys.argv[2]))):
        pass
    taken.append(peak())
print(taken[1] - taken[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no peak of a process's memory")
@pytest.mark.parametrize("raw", ["conjugate", "trace"])
def test_the_peak_of_memory_is_what_was_asked_for(raw):
    def taken(megabytes):
        command = [sys.executable, "-c", PEAK, raw, megabytes]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        return float(done.stdout)

    # 20 MB, and what an allocator leaves lying; in one block the kernel alone takes 72 MB.
    assert taken("20") < 40
    assert taken("4000") > 60
