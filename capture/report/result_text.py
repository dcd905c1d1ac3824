"""``str()`` of the library's results: what the command line prints, from the same functions.

Importing this module fills ``capture.model.values.STR_BY_CLASS``; the first ``str()`` of a value does so.
"""

from __future__ import annotations

from capture.analysis.compare import Difference
from capture.analysis.trace import Step, Trace
from capture.backends.iptables.render import shown_rule
from capture.model.location import Cause
from capture.model.packet import Packet
from capture.model.values import STR_BY_CLASS
from capture.operations import Applied, Diagnosis, Dumped, Verified
from capture.report.applied_text import applied_text
from capture.report.diagnosis_text import cause_lines, diagnosis_lines
from capture.report.listings import dumped_text
from capture.report.packet_text import packet_text
from capture.report.trace_text import trace_lines
from capture.report.verified_text import difference_text, verified_lines
from capture.settings.settings import Settings

STR_BY_CLASS[Applied] = applied_text
STR_BY_CLASS[Cause] = lambda cause: "\n".join(cause_lines([cause]))
STR_BY_CLASS[Diagnosis] = lambda diagnosis: "\n".join(diagnosis_lines(diagnosis))
STR_BY_CLASS[Difference] = difference_text
STR_BY_CLASS[Packet] = packet_text
STR_BY_CLASS[Settings] = lambda settings: "\n".join(settings.lines()) or "every option has its default"
STR_BY_CLASS[Verified] = lambda verified: "\n".join(verified_lines(verified))
STR_BY_CLASS[Dumped] = dumped_text
STR_BY_CLASS[Step] = lambda step: f"{step.location.short}: {shown_rule(step.rule, step.family)}"
STR_BY_CLASS[Trace] = lambda traced: "\n".join(trace_lines(traced))
