"""How time grows with the input, on machines where the clock is not to be trusted."""

from __future__ import annotations

from collections.abc import Callable


def grows_linearly(seconds: Callable[[int], float], small: int, large: int) -> bool:
    """Whether the large input takes at most four times its share; `seconds` measures one try.

    Whatever else runs only makes a try longer, so the shortest of up to five of each are compared. Quadratic code takes
    `large / small` times its share: let that be 16, so that it never passes.
    """
    smalls, larges = [], []
    for _ in range(5):
        smalls.append(seconds(small))
        larges.append(seconds(large))
        if min(larges) < 4 * (large / small) * max(0.002, min(smalls)):
            return True
    return False
