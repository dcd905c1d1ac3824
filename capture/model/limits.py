"""The highest values that packets and the kernel know."""

MAX_PORT = 0xFFFF
MAX_ID = 0xFFFF_FFFE
"""The highest user or group id; 2**32 - 1 means "no id" (credentials(7), chown(2))."""
MAX_INTERFACE_BYTES = 15
"""linux/if.h: IFNAMSIZ is 16 with the closing zero."""
