"""Parsers of single values: what they give, and all that is nearly right and is refused."""

from collections.abc import Callable

import pytest

from capture.model.addresses import Network, parse_network
from capture.model.ruleset import Span
from capture.settings import parsers
from capture.settings.parsers import Selection, UidPorts


def ipv4(text: str) -> Network:
    return parse_network(text)


BAD_PORTS = ("-1", "+1", "65536", "070000", "1_0", "\u0661", "0x1", "1-", "080", "1.0")


GOOD: list[tuple[Callable[[str], object], str, object]] = [
    (parsers.port, "1", 1),
    (parsers.port, "65535", 65535),
    (parsers.port_range, "80", Span(80, 80)),
    (parsers.port_range, "8000-8100", Span(8000, 8100)),
    (parsers.port_range, "80-80", Span(80, 80)),
    (parsers.port_range, "1-65535", Span(1, 65535)),
    (parsers.port_range, "8000:8100", Span(8000, 8100)),
    (parsers.port_list, "", ()),
    (parsers.port_list, "0", ()),
    (parsers.port_list, " 443, 0,80 ,443,8000:8100", (Span(443, 443), Span(80, 80), Span(8000, 8100))),
    (parsers.port_list, ",".join(map(str, [*range(65535, 1, -1), 0, 7])), (Span(2, 65535),)),
    (parsers.port_list, "100-200,201:300," * 200 + "90", (Span(90, 90), Span(100, 300))),
    (parsers.id_range, "0", Span(0, 0)),
    (parsers.id_range, "4294967294", Span(4294967294, 4294967294)),
    (parsers.id_range, "1000-1999", Span(1000, 1999)),
    (parsers.user_or_group, "1337", Span(1337, 1337)),
    (parsers.user_or_group, "5-6", Span(5, 6)),
    (parsers.user_or_group, "istio-proxy", "istio-proxy"),
    (parsers.user_or_group, "_apt", "_apt"),
    (parsers.user_or_group, "pc01$", "pc01$"),
    (parsers.user_or_group, "Domain.Users", "Domain.Users"),
    (parsers.user_or_group, "a" * 32, "a" * 32),
    (parsers.networks, "10.1.2.3/8", (ipv4("10.0.0.0/8"),)),
    (parsers.networks, "10.1.2.3", (ipv4("10.1.2.3/32"),)),
    (parsers.networks, "::/0", (ipv4("::/0"),)),
    (parsers.networks, "FD00::1/128", (ipv4("fd00::1/128"),)),
    (parsers.ipv4_loopback, "127.0.0.1/32", ipv4("127.0.0.1/32")),
    (parsers.ipv4_loopback, "127.0.0.1/8", ipv4("127.0.0.0/8")),
    (parsers.ipv4_loopback, "127.0.0.53", ipv4("127.0.0.53/32")),
    (parsers.interface, "eth0", "eth0"),
    (parsers.interface, "k6t-eth0.100", "k6t-eth0.100"),
    (parsers.interface, "vif+", "vif+"),
    (parsers.interface, "a" * 15, "a" * 15),
    (parsers.interface, "eth0@if3", "eth0@if3"),
    (parsers.interfaces, "eth0, net1,eth0", ("eth0", "net1")),
    (parsers.interfaces, ",".join(map(str, range(256))), tuple(map(str, range(256)))),
    (parsers.packet_mark, "0", 0),
    (parsers.packet_mark, "0x53a", 1338),
    (parsers.packet_mark, "4294967295", 0xFFFF_FFFF),
    (parsers.mark, "1337", 1337),
    (parsers.mark, "0x539", 1337),
    (parsers.mark, "0xFfFfFfFf", 0xFFFFFFFF),
    (parsers.mark, "4294967295", 0xFFFFFFFF),
    (parsers.route_table, "133", 133),
    (parsers.route_table, "252", 252),
    (parsers.route_table, "256", 256),
    (parsers.log_level, "default:info,grpc:none", 4),
    *((parsers.log_level, name, at) for at, name in enumerate(["none", "fatal", "error", "warn", "info", "debug"])),
    (parsers.log_level, "all:none,warn", 3),
    (parsers.log_level, "all:none", 0),
    (parsers.log_level, "grpc:none", 4),
    (parsers.seconds, "5s", 5.0),
    (parsers.seconds, "500ms", 0.5),
    (parsers.seconds, "1m30s", 90.0),
    (parsers.seconds, "1.5h", 5400.0),
    (parsers.seconds, ".5s", 0.5),
    (parsers.seconds, "1s500000us", 1.5),
    (parsers.seconds, "2000000000ns", 2.0),
    (parsers.seconds, "7", 7.0),
    (parsers.seconds, "24h", 86400.0),
    (parsers.seconds, "86400", 86400.0),
    (parsers.uid_ports, "tcp:443:1000-2000", UidPorts("tcp", (Span(443, 443),), (Span(1000, 2000),))),
    (parsers.uid_ports, "udp:*:0", UidPorts("udp", (Span(1, 65535),), (Span(0, 0),))),
    (parsers.uid_ports, "tcp:1-9:5", UidPorts("tcp", (Span(1, 9),), (Span(5, 5),))),
    (parsers.word_parser("a", "b"), "b", "b"),
    (parsers.profile, "classic", "1.8"),
    (parsers.profile, "1.30", "1.30"),
    (parsers.profile, "current", parsers.PROFILES[-1]),
]

BAD: list[tuple[Callable[[str], object], str, list[str]]] = [
    (
        parsers.port,
        "0 65536 70000 -1 +80 8_0 0x50 080 8e1 80.0 http 80,81 80/tcp * \u0668\u0660",
        ["", "80 ", " 80", "80\n"],
    ),
    (
        parsers.port_range,
        "- 80- -80 90-80 80-90-100 80:90:100 80:90-100 80--90 :80 0 0-5 1-65536 80, * 80-x 080-090",
        ["", "80 - 90", "80-90\n"],
    ),
    (parsers.id_range, "-1 4294967295 99999999999 1000- 2-1 01 1,2 root *", [""]),
    (
        parsers.user_or_group,
        "1337x -root .hidden $x a:b a/b root; ro'ot \u00fcser 1-x \u0661 \xb2",
        ["", "a b", "a\nb", "a" * 33],
    ),
    (
        parsers.networks,
        "10.0.0.0/33 10.0.0.0/ /8 10.0.0.0/8/8 10.0.0/8 ::/129 10.0.0.0/-1 10.0.0.0/08 * x",
        ["10.0.0.0 /8", "10.0.0.0/8 fd00::/8", "10.0.0.0/8\n"],
    ),
    (
        parsers.ipv4_loopback,
        "0.0.0.0/0 127.0.0.1/7 126.0.0.0/7 10.0.0.0/8 128.0.0.1/32 ::1 ::1/128 127.0.0.1/33 *",
        [""],
    ),
    (
        parsers.interface,
        (
            "+ . .. eth/0 eth:0 -eth0 e+h eth0++ \u00e9th0 eth\u0660 eth'0 eth\"0 eth`0 eth\\0 !eth0 eth* eth;0 eth,0"
            " eth&0 eth|0 eth<0 eth>0 eth(0) eth{0} eth[0] $eth0 eth#0 eth%d eth^0 ~eth0"
        ),
        ["", "a" * 16, "eth 0", "eth\t0", "eth0\n", "eth\x7f", "eth\x00"],
    ),
    (parsers.interfaces, "eth/0 eth0,net/1", ["eth0,net 1", ",".join(map(str, range(257)))]),
    (parsers.packet_mark, "0x -1 +1 0x100000000 4294967296 0x5g 1337/0xff 01337", [""]),
    (
        parsers.mark,
        "0 0x0 0x 0X539 -1 +1 1_0 0x100000000 4294967296 0x5g 539h 1338 0x53a 1337/0xff 01337 0x_1 0x1_0 0x+1",
        [""],
    ),
    (parsers.route_table, "0 253 254 255 -1 4294967296 main 0x85 0133", [""]),
    (parsers.port_list, "65536 80;90 http 1-0 80:x " + " ".join("1," * 300 + bad for bad in BAD_PORTS), ["8 0"]),
    (parsers.log_level, "loud INFO default: default:loud a:b:c info,loud :info:", ["", " info", "info,"]),
    (parsers.boolean, "y n yes no on off YES tRUE tru 2 -1 null enabled \uff54\uff52\uff55\uff45", [" true", "true\n"]),
    (
        parsers.seconds,
        "0 0s s 5x -5s +5s 5s5 1e3s inf nan infs 1.2.3s .s ..s 24h1s 86401 1_0s \u0665s 0x5s ms",
        ["", "5 s", "5s\n", "9" * 400 + "s"],
    ),
    (
        parsers.uid_ports,
        (
            "tcp tcp:443 tcp:443: tcp::1000 icmp:443:1 tcp:0:1 tcp:443:* tcp:443:root TCP:443:1 tcp:443:1:2 tcp:443-:1"
            " tcp:443,80:1"
        ),
        ["", " tcp:443:1", "tcp: 443:1"],
    ),
    (parsers.word_parser("a", "b"), "A ab c *", ["", "a ", " "]),
    (parsers.profile, "1.9 30 1.3 Classic newest", ["", " 1.8"]),
]
"""For each parser: texts between blanks, and texts with blanks."""


@pytest.mark.parametrize(("parse", "text", "value"), GOOD)
def test_good_texts_have_a_value(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"), [(parse, text) for parse, texts, more in BAD for text in texts.split() + more]
)
def test_bad_texts_are_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller knows which one
        parse(text)


def test_every_parser_has_good_and_bad_texts() -> None:
    public = {
        name
        for name, value in vars(parsers).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == parsers.__name__
    }
    helpers = {"split_list", "list_of", "selection_of", "number", "span", "Networks", "Selection", "UidPorts"}
    in_good, in_bad = ({name_of(parse) for parse, *_ in table} for table in (GOOD, BAD))
    assert in_bad == public - helpers - {"plain_text"}, "plain_text takes everything"
    assert in_good == public - helpers - {"boolean"}, "boolean has tests of its own"


def name_of(parse: Callable[[str], object]) -> str:
    return getattr(parse, "__name__", "").replace("parse_word", "word_parser")


@pytest.mark.parametrize("text", ["true", "1", "t", "TRUE", "True", "T"])
def test_words_for_yes_are_true(text: str) -> None:
    assert parsers.boolean(text) is True


@pytest.mark.parametrize("text", ["", "false", "0", "f", "FALSE", "False", "F"])
def test_words_for_no_are_false(text: str) -> None:
    assert parsers.boolean(text) is False


class TestLists:
    parse = staticmethod(parsers.list_of(parsers.port))

    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("", ()),
            ("   ", ()),
            (",", ()),
            ("80", (80,)),
            ("80,81", (80, 81)),
            (" 80 ,\t81 ", (80, 81)),
            ("80,", (80,)),
            (",80,,81,", (80, 81)),
            ("81,80,81", (81, 80)),
        ],
    )
    def test_entries_in_order_each_once(self, text: str, values: tuple[int, ...]) -> None:
        assert self.parse(text) == values

    @pytest.mark.parametrize("text", ["80,x", "80;81", "80 81", "*", "80,*", "80\n81", "80,\n81", "80\u00a0"])
    def test_one_bad_entry_is_enough(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"\S"):
            self.parse(text)


class TestSelections:
    parse = staticmethod(parsers.selection_of(parsers.list_of(parsers.port)))

    @pytest.mark.parametrize("text", ["*", " * ", "\t*"])
    def test_a_star_selects_everything(self, text: str) -> None:
        assert self.parse(text) == Selection(is_everything=True)
        assert self.parse(text)

    def test_an_empty_text_selects_nothing(self) -> None:
        assert self.parse("") == Selection()
        assert not self.parse("")

    def test_a_list_selects_its_entries(self) -> None:
        assert self.parse("80,81") == Selection((80, 81))
        assert self.parse("80")

    @pytest.mark.parametrize("text", ["**", "*,80", "80,*", "*,*"])
    def test_a_star_among_entries_is_an_error(self, text: str) -> None:
        """The entries mean something to their author; what, we cannot know."""
        with pytest.raises(ValueError, match=r"\*"):
            self.parse(text)


def test_ports_keep_their_order_as_long_as_they_are_read_one_by_one() -> None:
    ports = [str(number) for number in range(9000, 9000 - 257 * 2, -2)]
    assert parsers.port_list(",".join(ports[:256]))[0] == Span(9000, 9000)
    assert parsers.port_list(",".join(ports))[0] == Span(8488, 8488)
