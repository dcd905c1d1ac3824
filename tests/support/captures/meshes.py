"""Fifty captures that meshes really have: all send TCP of an app to the proxy, out to port 80 and in to port 8080."""

from itertools import product

from capture.settings import options as option
from support.captures.settings import Texts

MESHES: tuple[Texts, ...] = (
    {},
    {option.EXCLUDED_OUTBOUND_NETWORKS: "10.96.0.0/12,169.254.169.254/32"},
    {option.EXCLUDED_OUTBOUND_PORTS: "3306,5432,6379,27017,9092"},
    {option.OUTBOUND_NETWORKS: "203.0.113.0/24,2001:db8::/32"},
    {option.EXCLUDED_INBOUND_PORTS: "15090,15021,15020,9090"},
    {option.INBOUND_PORTS: "8080,8443"},
    {option.REDIRECT_DNS: "true", option.CAPTURE_ALL_DNS: "true"},
    {option.DROP_INVALID: "true"},
    {option.EXCLUDED_OWNER_GROUPS: "3333"},
    {option.UID_PORT_EXCLUSIONS: "tcp:443:2000-2010"},
    {option.EXCLUDED_OUTBOUND_NETWORKS: ",".join(f"198.51.{third}.0/24" for third in range(0, 60, 2))},
    {option.RULE_COMMENTS: "true"},
    {option.PROXY_UID: "1337,4444"},
)
LAYOUTS: tuple[Texts, ...] = (
    {},
    {option.PROFILE: "current"},
    {option.CHAIN_NAMES: "underscore"},
    {option.PROFILE: "current", option.DUAL_STACK: "true"},
)
FIFTY = [{**mesh, **layout} for mesh, layout in product(MESHES, LAYOUTS)][:50]
