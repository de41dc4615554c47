"""Rows of a tensor that is kept."""

import torch

from postdiff.postdiff_core.row_cache import Cached, join


def test_rows_in_order_in_one_tensor_are_joined_without_a_copy():
    tensor = torch.arange(12.0).reshape(6, 2)
    parts = [Cached(tensor, rows, (1, 2)) for rows in (slice(2, 4), slice(4, 5))]
    joined = join(parts)
    assert torch.equal(joined, tensor[2:5]) and joined.data_ptr() == tensor[2:].data_ptr()
    assert torch.equal(join(parts[::-1]), torch.cat([tensor[4:5], tensor[2:4]]))
