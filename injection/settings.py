"""The settings of a pod for its two carriers: arguments of ``istio-init``, or annotations.

Arguments are Istio's, in Istio's order (files/injection-template.yaml). The CNI plugin sees nothing but annotations,
the proxy's user and its environment, so all that is no default of the plugin's is written out for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capture.errors import ConfigurationError
from capture.model import conventions
from capture.model.values import Value
from capture.settings import options, parsers
from capture.settings.options import OPTIONS, RULE_OPTIONS, Option
from capture.settings.settings import ExplicitValue, Settings, from_environment
from initcontainer.arguments import SUBCOMMAND, parse_arguments

STATUS_PORT_ANNOTATION = "status.sidecar.istio.io/port"
DEFAULT_STATUS_PORT = str(conventions.STATUS_PORT)
ENVOY_PORTS = f"{conventions.METRICS_PORT},{conventions.HEALTH_PORT}"
NO_CAPTURE = "NONE"
"""The interception mode of pods whose traffic is not captured: a proxy, but no ``istio-init``."""

OPTIONS_BY_FLAG = {option.flag: option for option in RULE_OPTIONS if option.flag}

ALWAYS = (
    options.PROXY_PORT, options.INBOUND_CAPTURE_PORT, options.PROXY_UID, options.INTERCEPTION_MODE,
    options.OUTBOUND_NETWORKS, options.EXCLUDED_OUTBOUND_NETWORKS,
    options.INBOUND_PORTS, options.EXCLUDED_INBOUND_PORTS,
)  # fmt: skip
IF_GIVEN = (
    options.OUTBOUND_PORTS, options.EXCLUDED_OUTBOUND_PORTS, options.REROUTED_INTERFACES, options.EXCLUDED_INTERFACES,
)  # fmt: skip
"""The options that Istio's template passes, in its order; the second group only if it is given."""

BY_THE_PROXY = (options.PROXY_UID, options.PROXY_GID)
"""The options that the plugin reads from the proxy's container."""
BY_ENVIRONMENT = (options.REDIRECT_DNS, options.DUAL_STACK, options.DROP_INVALID)


SET_EXPECTED = "OPTION=VALUE with the long name of a capture option, such as istio-service-exclude-cidr=10.0.0.0/8"


def parse_set(texts: tuple[str, ...]) -> Settings:
    """Return what ``--set OPTION=VALUE`` gives: flags of the option table. ConfigurationError for any other."""
    explicit: dict[Option[Any], ExplicitValue] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        option = OPTIONS_BY_FLAG.get(name.removeprefix("--"))
        if option is None or not equals:
            raise ConfigurationError("--set", text, "command line", SET_EXPECTED)
        explicit[option] = ExplicitValue(value, f"--set {option.flag}")
    return Settings(explicit).checked()


class PodSettings(Value):
    """The settings of one pod: for all pods (``--set``), in its annotations, and in its proxy's environment."""

    base: Settings
    annotations: Mapping[str, str]
    environment: Mapping[str, str] = {}  # never changed
    uid: int = conventions.PROXY_ID
    gid: int = conventions.PROXY_ID

    @property
    def mode(self) -> str:
        """Return REDIRECT, TPROXY or NONE."""
        return self.text(options.INTERCEPTION_MODE) or "REDIRECT"

    @property
    def is_captured(self) -> bool:
        """Return whether anything is captured at all."""
        return self.mode != NO_CAPTURE

    def annotation_text(self, option: Option[Any]) -> str | None:
        """Return the value of the pod's annotations for an option."""
        return next((self.annotations[name] for name in option.annotations if name in self.annotations), None)

    def is_given(self, option: Option[Any]) -> bool:
        """Return whether any source sets an option."""
        return self.annotation_text(option) is not None or option in self.base.explicit

    def text(self, option: Option[Any]) -> str:
        """Return the text that counts for an option of Istio's template."""
        if option is options.EXCLUDED_INBOUND_PORTS:
            return self._excluded_inbound_ports()
        if option is options.PROXY_UID:
            return str(self.uid)
        text = self.annotation_text(option)
        return self.base.text(option) if text is None else text

    def _excluded_inbound_ports(self) -> str:
        excluded = self._with_status_port()
        return f"{ENVOY_PORTS},{excluded}" if excluded else ENVOY_PORTS

    def _with_status_port(self) -> str:
        """Return the ports that are left alone in addition to Envoy's own, the status port last; 0 is none."""
        text = self.annotation_text(options.EXCLUDED_INBOUND_PORTS)
        if text is None:
            excluded = self.base.explicit.get(options.EXCLUDED_INBOUND_PORTS)
            text = excluded.text if excluded else ""
        status = self.annotations.get(STATUS_PORT_ANNOTATION, DEFAULT_STATUS_PORT).strip()
        ports = text.split(",")
        if status in ("", "0") or status in ports:
            return text
        return ",".join([*filter(None, map(str.strip, ports)), status])

    # -- the two carriers

    def arguments(self) -> list[str]:
        """Return the arguments of ``istio-init``; ConfigurationError for a value that cannot be used."""
        words = [SUBCOMMAND]
        for option in (*ALWAYS, *(option for option in IF_GIVEN if self.is_given(option))):
            words += [f"-{option.short}", self.text(option)]
        if self.gid != self.uid:
            words += ["-g", str(self.gid)]
        for option, value in self.base.explicit.items():
            if option not in (*ALWAYS, *IF_GIVEN, options.PROXY_GID):
                words.append(f"--{option.flag}={value.text}")
        return words

    def plugin_annotations(self) -> dict[str, str]:
        """Return the annotations that the pod lacks, so that the CNI plugin does the same.

        ConfigurationError for a setting that has no annotation.
        """
        needed: dict[str, str] = {}
        if self.mode == NO_CAPTURE:
            return needed
        if self.mode == "TPROXY" and self.uid != conventions.PROXY_ID:
            # Then the proxy is root, of whom the plugin learns no other number.
            self._refuse(
                options.PROXY_UID, self.base.explicit.get(options.PROXY_UID, ExplicitValue(str(self.uid), "runAsUser"))
            )
        for option, value in self.base.explicit.items():
            if (
                option.annotations
                and self.annotation_text(option) is None
                and option is not options.EXCLUDED_INBOUND_PORTS
            ):
                needed[option.annotations[0]] = value.text
            elif not option.annotations and option not in BY_THE_PROXY and value.text != option.default:
                self._refuse(option, value)
        if not self.is_given(options.EXCLUDED_OUTBOUND_PORTS):
            needed[options.EXCLUDED_OUTBOUND_PORTS.annotations[0]] = ""  # the plugin's default is 15020
        ports = self._with_status_port()
        if ports != (self.annotation_text(options.EXCLUDED_INBOUND_PORTS) or "") and ports != DEFAULT_STATUS_PORT:
            needed[options.EXCLUDED_INBOUND_PORTS.annotations[0]] = ports
        return needed

    def _refuse(self, option: Option[Any], value: ExplicitValue) -> None:
        raise ConfigurationError(
            option.name,
            value.text,
            value.origin,
            "the default: no annotation sets another value for the CNI plugin; its network configuration may",
        )

    @property
    def is_plugin_excluding_more(self) -> bool:
        """Return whether the plugin leaves port 15020 alone although the arguments would not."""
        return DEFAULT_STATUS_PORT not in self.text(options.EXCLUDED_INBOUND_PORTS).split(",")

    def checked(self) -> Settings:
        """Return the settings that the arguments mean; ConfigurationError whose origin names the annotation."""
        self._check_ports()
        flags = parse_arguments(self.arguments(), OPTIONS).flags
        environment = from_environment(self.environment, BY_ENVIRONMENT, " of the proxy")
        explicit = {**environment.explicit}
        for option, text in flags.items():
            explicit[option] = ExplicitValue(text, self._origin(option))
        if self.mode == NO_CAPTURE:
            explicit[options.INTERCEPTION_MODE] = ExplicitValue("REDIRECT", "default")
        return Settings(explicit, environment.warnings).checked()

    def _check_ports(self) -> None:
        """Check the ports that are joined with others into one argument while they are as the pod has them."""
        ports = self.annotation_text(options.EXCLUDED_INBOUND_PORTS)
        if ports is not None:
            excluded = ExplicitValue(ports, self._origin(options.EXCLUDED_INBOUND_PORTS))
            Settings({options.EXCLUDED_INBOUND_PORTS: excluded}).checked()
        status = self.annotations.get(STATUS_PORT_ANNOTATION, "").strip()
        try:
            if status not in ("", "0"):
                parsers.port(status)
        except ValueError:
            origin = f"annotation {STATUS_PORT_ANNOTATION}"
            raise ConfigurationError(
                STATUS_PORT_ANNOTATION, status, origin, "a port (1-65535), or 0 for none"
            ) from None

    def _origin(self, option: Option[Any]) -> str:
        name = next((name for name in option.annotations if name in self.annotations), "")
        return f"annotation {name}" if name else self.base.origin(option)
