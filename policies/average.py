"""A moving average per domain that a policy carries from view to view.

Pure, on numpy columns. Called by policies with a column of ``View.carried(n, np.nan)``.
"""

from typing import Annotated

import msgspec
import numpy as np

from policies.base import Column

Step = Annotated[float, msgspec.Meta(gt=0, le=1)]


def moving_average(before: Column, now: Column, step: float) -> Column:
    """``before`` moved towards ``now`` by the fraction ``step``; ``now`` where nothing was carried.

    ``before`` is NaN there. ``step`` above 0, at most 1, which forgets all but ``now``.
    """
    return np.where(np.isnan(before), now, before + step * (now - before))
