"""What a reason may say of a target that moved.

Owns: the words of growing and of shrinking, and the test that a reason does not say the opposite of
what became of its target. Pure. The conformance kit asks it of a policy, the coordinator of every
decision, because a user's policy need not have been tried by the kit.
"""

import re

_GROWING = re.compile(r"\b(grow|grows|growing|grew|up|raised?)\b", re.IGNORECASE)
_SHRINKING = re.compile(r"\b(shrinks?|shrinking|shrank|down|lowered|cut)\b", re.IGNORECASE)
#: What a rule says whose result was then changed for the sake of all.
_FITTED = re.compile(r"\b(scaled|to fit)\b", re.IGNORECASE)


def contradicts(reason: str, old: float, new: float) -> str:
    """``fell`` or ``rose``, of a target whose reason says the opposite; else empty."""
    grows, shrinks = bool(_GROWING.search(reason)), bool(_SHRINKING.search(reason))
    if grows == shrinks or _FITTED.search(reason):
        return ""
    if grows and new < old:
        return "fell"
    return "rose" if shrinks and new > old else ""
