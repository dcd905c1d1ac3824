"""The names of our chains, in the two spellings that meshes use. The name makes a chain our own.

Upstream writes ISTIO_OUTPUT; older listings print ISTIO-OUTPUT.
"""

from __future__ import annotations

from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Spelling = Literal["dash", "underscore"]


class ChainNames(Value):
    """Our chains by what they do; how they are spelled is the user's choice."""

    inbound: str
    in_redirect: str
    output: str
    output_dns: str
    redirect: str
    divert: str
    tproxy: str
    drop: str


UNDERSCORE = ChainNames(*(f"ISTIO_{field.upper()}" for field in ChainNames.__match_args__))
DASH = ChainNames(*(getattr(UNDERSCORE, field).replace("_", "-") for field in ChainNames.__match_args__))

NAMES_BY_SPELLING: dict[Spelling, ChainNames] = {"underscore": UNDERSCORE, "dash": DASH}

SPELLING_BY_NAME: dict[str, Spelling] = {
    getattr(names, field): spelling
    for spelling, names in NAMES_BY_SPELLING.items()
    for field in ChainNames.__match_args__
}
"""How the name of each of our chains is spelled."""


def is_own_chain(name: str) -> bool:
    """Return whether a chain of this name is our own."""
    return name in SPELLING_BY_NAME


DORMANT, NOT_HOOKED = "dormant", "not hooked"
"""States of chains that packets do not enter."""


def state_name(name: str, state: str) -> str:
    """Return the name of a chain in a state: ``OUTPUT(dormant)``."""
    return f"{name}({state})" if state else name
