{{- define "capture.name" -}}capture-agent{{- end }}
{{- define "capture.labels" -}}
app.kubernetes.io/name: istio-capture
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "capture.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}
{{/* Where things are on a node, by platform; what was only read and not run is marked in docs/tested.md. */}}
{{- define "capture.platforms" -}}
generic: {bin: /opt/cni/bin, conf: /etc/cni/net.d, socket: /run/containerd/containerd.sock}
eks: {bin: /opt/cni/bin, conf: /etc/cni/net.d, socket: /run/containerd/containerd.sock}
aks: {bin: /opt/cni/bin, conf: /etc/cni/net.d, socket: /run/containerd/containerd.sock}
talos: {bin: /opt/cni/bin, conf: /etc/cni/net.d, socket: /run/containerd/containerd.sock}
gke: {bin: /home/kubernetes/bin, conf: /etc/cni/net.d, socket: /run/containerd/containerd.sock}
openshift: {bin: /var/lib/cni/bin, conf: /etc/cni/multus/net.d, socket: /run/crio/crio.sock}
k3s: {bin: /var/lib/rancher/k3s/data/cni, conf: /var/lib/rancher/k3s/agent/etc/cni/net.d, socket: /run/k3s/containerd/containerd.sock}
microk8s: {bin: /var/snap/microk8s/current/opt/cni/bin, conf: /var/snap/microk8s/current/args/cni-network, socket: /var/snap/microk8s/common/run/containerd.sock}
{{- end }}
{{- define "capture.platform" -}}{{ get (include "capture.platforms" . | fromYaml) .Values.platform | toYaml }}{{- end }}
{{- define "capture.binDir" -}}{{ .Values.cni.binDir | default (include "capture.platform" . | fromYaml).bin }}{{- end }}
{{- define "capture.confDir" -}}{{ .Values.cni.confDir | default (include "capture.platform" . | fromYaml).conf }}{{- end }}
{{- define "capture.socket" -}}{{ .Values.runtimeSocket | default (include "capture.platform" . | fromYaml).socket }}{{- end }}
{{/* The parent of a directory: where the directory is moved away and made anew, that stays in sight. */}}
{{- define "capture.parent" -}}{{ eq (dir .) "/" | ternary . (dir .) }}{{- end }}
{{/* What the agent sees of the node's files, each path once (OpenShift has plugins and what they remember in one). */}}
{{- define "capture.mounts" -}}
{{- $socket := include "capture.socket" . -}}
{{- $mounts := list
  (dict "name" "bin" "mountPath" (include "capture.parent" (include "capture.binDir" .)))
  (dict "name" "conf" "mountPath" (include "capture.parent" (include "capture.confDir" .)))
  (dict "name" "state" "mountPath" "/run/istio-capture")
  (dict "name" "log" "mountPath" (dir .Values.cni.logFile))
  (dict "name" "remembered" "mountPath" "/var/lib/cni" "readOnly" true) -}}
{{- if ne $socket "none" -}}
{{- $mounts = append $mounts (dict "name" "runtime" "mountPath" (dir $socket) "readOnly" true) -}}
{{- end -}}
{{- if .Values.audit.enabled -}}
{{- $mounts = append $mounts (dict "name" "namespaces" "mountPath" "/run/netns" "mountPropagation" "HostToContainer" "readOnly" true) -}}
{{- end -}}
{{- $paths := list -}}
{{- range $mounts -}}
{{- if not (has .mountPath $paths) -}}
{{- $paths = append $paths .mountPath }}
- {{ toJson . }}
{{- end -}}
{{- end -}}
{{- end }}
