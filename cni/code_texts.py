"""What each error code of the plugin means and what to do: the table from which ``docs/errors/`` is written.

Codes below 100 are those of the CNI specification ("Error"). The plugin itself does without these texts: its messages
say what happened to one pod.
"""

from __future__ import annotations

from capture.report.exit_codes import CodeText
from cni import codes, protocol

CALLED = "all commands of the plugin"
ADD = "ADD"

CNI_CODES = (
    CodeText(
        code=protocol.INCOMPATIBLE_VERSION,
        means="the version of the specification is not supported",
        programs=CALLED,
        explanation="The network configuration list has a `cniVersion` that the plugin does not support, or one that"
        " does not have this command.",
        remedies=(
            ("`cniVersion '...' is not supported`", "Set `cniVersion` of the list to one that the message has."),
            ("`GC exists since CNI 1.1.0`", "Set `cniVersion` to that version, if the other plugins support it."),
        ),
    ),
    CodeText(
        code=protocol.UNKNOWN_CONTAINER,
        means="the namespace does not exist",
        programs="CHECK",
        explanation="The pod's network namespace has gone. Nothing has to be done: the pod has ended.",
    ),
    CodeText(
        code=protocol.INVALID_ENVIRONMENT,
        means="a variable of the environment is missing or wrong",
        programs=CALLED,
        explanation="A container runtime tells the plugin by `CNI_...` variables what to do, and to which pod.",
        remedies=(
            ("`CNI_COMMAND is missing`", "The plugin was started by hand. To install it: `capture cni install`."),
            ("`CNI_NETNS: ...`", "The path is no network namespace. It has gone, or the runtime is at fault."),
            ("`CNI_ARGS: ...`", "The runtime passes what is no `KEY=VALUE` list, or names no pod of Kubernetes."),
        ),
    ),
    CodeText(
        code=protocol.IO_FAILURE,
        means="a stream or file cannot be read or written",
        programs=CALLED,
        explanation="Input is longer than any configuration, a stream is closed, or the node's disk refuses.",
        remedies=(
            (
                "`standard input was not closed ...`",
                "The runtime hangs, or the plugin was called by hand: `capture-cni < FILE`.",
            ),
            (
                "`standard input is longer than ...`",
                "Look for what a program has added to the network configuration list.",
            ),
            ("`standard output is closed`", "The runtime reads the result there. Look who called the plugin."),
            ("`No space left on device`", "Free space on the node's `/run`."),
        ),
    ),
    CodeText(
        code=protocol.DECODING_FAILURE,
        means="the network configuration is not JSON",
        programs=CALLED,
        explanation="The message has the line and the column. The file is in `/etc/cni/net.d`, or where `capture cni"
        " status` says.",
        remedies=(("line and column", "Correct the network configuration list there."),),
    ),
    CodeText(
        code=protocol.INVALID_CONFIGURATION,
        means="a key of the configuration cannot be used",
        programs=CALLED,
        explanation="The message has the key, its value and what is expected. [All keys](../cni.md#configuration).",
        remedies=(
            (
                "`network configuration: 'KEY' is ...`",
                "Correct the plugin's entry, or run `capture cni install` again.",
            ),
            ("`prevResult is ...`", "The plugin before this one in the list gave a wrong result."),
        ),
    ),
    CodeText(
        code=protocol.TRY_AGAIN_LATER,
        means="the API server does not answer now",
        programs=ADD,
        explanation="The plugin asked until its deadline. kubelet tries again by itself, so the pod starts when the API"
        " server is back.",
        remedies=(
            (
                "`timed out`, `connection refused`",
                "Is the API server up, and does the node reach `server` of the kubeconfig?",
            ),
            ("`429`, `5xx`", "The API server is overloaded. Wait."),
        ),
    ),
    CodeText(
        code=protocol.NOT_AVAILABLE,
        means="ADD could not work now",
        programs="STATUS",
        explanation="The runtime asks before it starts pods, and takes the node for not ready.",
        remedies=(
            ("`missing capability ...`", "The runtime has to run as root."),
            (
                "`no source of facts about pods`",
                "Add the capability `io.kubernetes.cri.pod-annotations` to the entry, or a kubeconfig.",
            ),
            ("a kernel module or program is named", "`capture doctor` on the node."),
        ),
    ),
    CodeText(
        code=protocol.NOT_AVAILABLE_LIMITED,
        means="the API server is needed for every pod, and does not answer",
        programs="STATUS",
        explanation='Only where `pod_sources` is `["kubernetes"]`. With `runtime` as the first source, pods outside the'
        " mesh start meanwhile. The message is that of the codes 11 and 102 to 107.",
        remedies=(("as of that code", "See its page."),),
    ),
    CodeText(
        code=codes.VALUE_REFUSED,
        means="the pod asks for something that cannot be done",
        programs=ADD,
        explanation="An annotation, a label, a variable or a user of the pod cannot be used. The message has its name,"
        " its value and what is expected.",
        remedies=(("`pod NAMESPACE/NAME: ...`", "Correct it in the pod's Deployment, or wherever the pod is made."),),
    ),
    CodeText(
        code=codes.POD_UNKNOWN,
        means="no source knows anything about the pod",
        programs=ADD,
        explanation="The plugin learns from the runtime's annotations, the node's agent, or the API server. None of"
        " those in `pod_sources` could say anything.",
        remedies=(
            (
                "`the runtime hands over no annotations`",
                "Add the capability `io.kubernetes.cri.pod-annotations` to the entry, or a kubeconfig.",
            ),
        ),
    ),
    CodeText(
        code=codes.BAD_KUBECONFIG,
        means="the kubeconfig, or a file that it names, cannot be used",
        programs=ADD,
        explanation="The message has the file and the place in it. The plugin reads JSON; `capture cni install"
        " --kubeconfig FILE` takes any YAML and converts it.",
        remedies=(
            ("`No such file or directory`", "Mount or copy it to the path that the network configuration says."),
            (
                "`exec`, `auth-provider`, `proxy-url`",
                "Not supported: name a `tokenFile`, or a client certificate and key.",
            ),
        ),
    ),
    CodeText(
        code=codes.NOT_TRUSTED,
        means="there is no trusted TLS connection with the API server",
        programs=ADD,
        explanation="Its certificate is of another authority or for another name, or the server does not use TLS.",
        remedies=(
            (
                "`the certificate of ... is not trusted`",
                "`certificate-authority` has to be this cluster's; `server` an address that the certificate has.",
            ),
            ("`no TLS connection with ...`", "Is `server` the API server?"),
        ),
    ),
    CodeText(
        code=codes.UNAUTHORIZED,
        means="the API server does not accept our credentials",
        programs=ADD,
        explanation="401. Tokens of service accounts end after an hour.",
        remedies=(
            (
                "`401`",
                "Renew the token or the certificate. Name a `tokenFile` that something renews; the node's agent does.",
            ),
        ),
    ),
    CodeText(
        code=codes.FORBIDDEN,
        means="the API server does not let us read pods",
        programs=ADD,
        explanation="403. The credentials are good, the rights are missing.",
        remedies=(
            (
                "`403`",
                "A ClusterRole with `get` on `pods`, and its binding: [cni.md](../cni.md#where-the-facts-come-from).",
            ),
        ),
    ),
    CodeText(
        code=codes.POD_NOT_FOUND,
        means="the API server does not have this pod",
        programs=ADD,
        explanation="The plugin asked until its deadline. It has no pod of this name, or one with another UID.",
        remedies=(
            ("the pod was deleted meanwhile", "Nothing to do."),
            ("every pod of the node", "`server` in the kubeconfig is another cluster's."),
        ),
    ),
    CodeText(
        code=codes.BAD_ANSWER,
        means="what answers is no API server",
        programs=ADD,
        explanation="The answer is not HTTP, not JSON, or no pod.",
        remedies=(("`does not answer as an API server`", "Look at `server`, and for a proxy in between."),),
    ),
    CodeText(
        code=codes.NOT_APPLIED,
        means="the rules were not written",
        programs=ADD,
        explanation="Or they were not there when the plugin read them back. The message has the words of the kernel or"
        " of the program.",
        remedies=(
            (
                "any",
                "`capture doctor` on the node. Then look for another program that writes into the pod's namespace.",
            ),
        ),
    ),
    CodeText(
        code=codes.CANNOT_CAPTURE,
        means="this kernel or host cannot, or a privilege is missing",
        programs=ADD,
        explanation="As [exit code 3](exit-3.md) of the other programs.",
        remedies=(("any", "`capture doctor` on the node says what is missing, and how to get it."),),
    ),
    CodeText(
        code=codes.HOST_NAMESPACE,
        means="the namespace is the node's own",
        programs=ADD,
        explanation="Capturing it would cut the node off. Pods with `hostNetwork` get no CNI plugin.",
        remedies=(("`refused: CNI_NETNS=...`", "Find out what called the plugin for it."),),
    ),
    CodeText(
        code=codes.DRIFT,
        means="the namespace is not as it was left",
        programs="CHECK",
        explanation="`details` have each difference. Only differences that matter to some packet count.",
        remedies=(
            (
                "a rule is missing",
                "Recreate the pod, or run ADD again for this one; the node's agent does with `repair`.",
            ),
            ("a foreign rule", "Change the program that wrote it. `capture verify` shows the packets."),
        ),
    ),
    CodeText(
        code=codes.DEFECT,
        means="a defect of the plugin",
        programs=CALLED,
        explanation="Report it, with `details`.",
    ),
)
