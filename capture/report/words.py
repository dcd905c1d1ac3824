"""``str()`` of the library's results: what the command line prints, from the same functions.

Importing this module fills ``capture.model.values.WORDS``. The plugin does without it.
"""

from __future__ import annotations

from capture.analysis.compare import Difference
from capture.analysis.trace import Trace
from capture.model.packet import Packet
from capture.model.values import WORDS
from capture.operations import Applied, Dumped, Verified
from capture.report import listings
from capture.report.differences import difference_in_words, verified_in_words
from capture.report.outcome import outcome
from capture.report.packet_words import packet_in_words
from capture.report.traced import in_words as trace_in_words
from capture.settings.settings import Settings

WORDS[Applied] = outcome
WORDS[Difference] = difference_in_words
WORDS[Packet] = packet_in_words
WORDS[Settings] = lambda settings: "\n".join(settings.in_words()) or "every option has its default"
WORDS[Verified] = lambda verified: "\n".join(verified_in_words(verified))
WORDS[Dumped] = lambda dumped: listings.table([*listings.parts(dumped)], dumped.verified, is_whole=True).rstrip("\n")
WORDS[Trace] = lambda traced: "\n".join(trace_in_words(traced))
