{{- define "roadstead.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* At most 50 characters, so that what is added to it stays a name. */}}
{{- define "roadstead.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "roadstead.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "roadstead.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "roadstead.selector" -}}
app.kubernetes.io/name: {{ include "roadstead.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of the DaemonSet, so that no Service takes its pods for the mirror's. */}}
{{- define "roadstead.nodesSelector" -}}
app.kubernetes.io/name: {{ include "roadstead.name" . }}-nodes
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "roadstead.labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "roadstead.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "roadstead.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "roadstead.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* As the environment names an upstream: every other character is a low line. */}}
{{- define "roadstead.variable" -}}
{{ printf "ROADSTEAD_UPSTREAM__%s" (regexReplaceAll "[^A-Za-z0-9]" . "_" | upper) }}
{{- end }}

{{/* The whole configuration file. JSON's strings and lists of strings are TOML's, too. */}}
{{- define "roadstead.config" -}}
{{ .Values.config | trim }}
{{- range $name, $upstream := .Values.upstreams }}

[upstream.{{ $name | quote }}]
endpoints = {{ $upstream.endpoints | toJson }}
{{- if hasKey $upstream "default" }}
default = {{ $upstream.default }}
{{- end }}
{{- with $upstream.toml }}
{{ . | trim }}
{{- end }}
{{- end }}
{{- end }}

{{- define "roadstead.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
