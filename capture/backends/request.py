"""Requests of backend, driver and variant, and the flavours that they leave open. Pure."""

from __future__ import annotations

from capture.backends.iptables.tables import VARIANTS
from capture.errors import ConfigurationError
from capture.model.text import enumerated
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.iptables.tables import Variant
    from capture.backends.needed_modules import Flavour

DRIVERS = {"iptables": ("netlink", "restore", "iptc"), "nftables": ("netlink", "libnftables")}
"""The drivers of each backend, the best first."""
VARIANTS_BY_DRIVER: dict[str, tuple[Variant, ...]] = {"netlink": ("nft",), "restore": VARIANTS, "iptc": ("legacy",)}
"""The variants of iptables that a driver knows."""


class BackendRequest(Value):
    """The requested backend, driver and variant, and their origin; "auto" and "" leave the choice to us."""

    not_compared = ("backend_origin", "driver_origin", "variant_origin")

    backend: str = "auto"
    driver: str = ""
    variant: str = ""
    backend_origin: str = "command line"
    driver_origin: str = "command line"
    variant_origin: str = "command line"


def requested_backend(request: BackendRequest) -> str:
    """Return the backend that a request names or implies, or "". Raises ConfigurationError if it contradicts itself."""
    requested = "" if request.backend == "auto" else request.backend
    implied = [backend for backend, drivers in DRIVERS.items() if request.driver in drivers]
    named = f"the backend {requested} ({request.backend_origin})" if requested else f"the driver {request.driver}"
    if requested and request.driver and requested not in implied:
        expected = f"{enumerated(DRIVERS[requested])} with {named}"
        raise ConfigurationError("--driver", request.driver, request.driver_origin, expected)
    backend = requested or (implied[0] if len(implied) == 1 else "")
    if request.variant and backend == "nftables":
        expected = f"none with {named}; variants are those of --backend iptables"
        raise ConfigurationError("--force-iptables-binary", request.variant, request.variant_origin, expected)
    backend = "iptables" if request.variant else backend
    if request.variant and request.variant not in VARIANTS_BY_DRIVER.get(request.driver, VARIANTS):
        fitting = enumerated(driver for driver, variants in VARIANTS_BY_DRIVER.items() if request.variant in variants)
        expected = f"{fitting} for iptables-{request.variant}"
        raise ConfigurationError("--driver", request.driver, request.driver_origin, expected)
    return backend


def flavours_allowed(request: BackendRequest) -> tuple[Flavour, ...]:
    """Return the flavours that a request leaves open, the first choice first."""
    backend = requested_backend(request)
    if backend == "nftables":
        return ("nftables",)
    fitting = VARIANTS_BY_DRIVER.get(request.driver, VARIANTS)
    variants = tuple(variant for variant in VARIANTS if variant in fitting and request.variant in ("", variant))
    return variants if backend else (*variants, "nftables")
