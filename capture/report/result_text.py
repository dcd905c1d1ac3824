"""``str()`` of the library's results: what the command line prints, from the same functions.

Importing this module fills ``capture.model.values.TEXTS``. The plugin does without it.
"""

from __future__ import annotations

from capture.analysis.compare import Difference
from capture.analysis.trace import Trace
from capture.model.packet import Packet
from capture.model.values import TEXTS
from capture.operations import Applied, Dumped, Verified
from capture.report import listings
from capture.report.applied_text import applied_text
from capture.report.difference_text import difference_text
from capture.report.packet_text import packet_text
from capture.report.trace_text import trace_lines
from capture.report.verified_text import verified_lines
from capture.settings.settings import Settings

TEXTS[Applied] = applied_text
TEXTS[Difference] = difference_text
TEXTS[Packet] = packet_text
TEXTS[Settings] = lambda settings: "\n".join(settings.lines()) or "every option has its default"
TEXTS[Verified] = lambda verified: "\n".join(verified_lines(verified))
TEXTS[Dumped] = lambda dumped: listings.table([*listings.parts(dumped)], dumped.verified, is_whole=True).rstrip("\n")
TEXTS[Trace] = lambda traced: "\n".join(trace_lines(traced))
