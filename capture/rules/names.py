"""The names of our chains, in the two spellings that meshes use."""

from __future__ import annotations

from capture.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.config import Spelling


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


UNDERSCORE = ChainNames(
    inbound="ISTIO_INBOUND",
    in_redirect="ISTIO_IN_REDIRECT",
    output="ISTIO_OUTPUT",
    output_dns="ISTIO_OUTPUT_DNS",
    redirect="ISTIO_REDIRECT",
    divert="ISTIO_DIVERT",
    tproxy="ISTIO_TPROXY",
    drop="ISTIO_DROP",
)

DASH = ChainNames(*(getattr(UNDERSCORE, field).replace("_", "-") for field in ChainNames.__match_args__))

BY_SPELLING: dict[Spelling, ChainNames] = {"underscore": UNDERSCORE, "dash": DASH}
