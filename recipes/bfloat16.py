"""Matrix products in bfloat16, on machines that are fast at them.

A processor without instructions for bfloat16 (most without AVX-512) takes 10 to 90 times as long for a product in it as
for one in float32, so there float32 is used, which also rounds less.
"""

from functools import cache

import torch


@cache
def is_fast(device_type: str) -> bool:
    """Whether the device computes products in bfloat16 faster than one by one; all but some processors do."""
    if device_type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def products(device_type: str, wanted: bool) -> torch.autocast:
    """Context whose matrix products are in bfloat16, if that is ``wanted`` and the device :func:`is_fast` at them."""
    return torch.autocast(device_type, torch.bfloat16, wanted and is_fast(device_type))
