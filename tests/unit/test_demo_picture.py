"""The picture of a run of the demo: what is drawn stays in its frame, in whichever font."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import demo_picture

PAGE = Path(__file__).parents[2] / "docs" / "demo.svg"
NAMES = {"svg": "http://www.w3.org/2000/svg"}


def test_everything_drawn_is_within_the_frame() -> None:
    long = " ".join(["\x1b[32mok\x1b[0m", "<a&b>", *(f"word-{number}" for number in range(60))])
    for text in (demo_picture.drawn(["# make demo", "", long, f"    {long}"]), PAGE.read_text(encoding="utf-8")):
        picture = ET.fromstring(text)  # noqa: S314  # our own
        width, height = (float(picture.attrib[name]) for name in ("width", "height"))
        rows = picture.findall(".//svg:text", NAMES)
        assert len(rows) > 4
        for row in rows:
            assert float(row.attrib["x"]) + float(row.attrib["textLength"]) <= width - demo_picture.MARGIN
            assert float(row.attrib["y"]) <= height - demo_picture.MARGIN
    assert "Chain ISTIO-INBOUND (1 references)" in re.sub("\u00a0", " ", text)  # what iptables -t nat -nvL shows
    assert "All 11 requests went the way they should" in re.sub("\u00a0", " ", text)
