{{- define "plait.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "plait.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "plait.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "plait.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "plait.selectorLabels" -}}
app.kubernetes.io/name: {{ include "plait.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "plait.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "plait.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "plait.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "plait.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name the account to use, or let the chart make one (serviceAccount.create: true)" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "plait.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "plait.drainSeconds" -}}
{{- get .Values.settings "drain_s" | default 30 | ceil | int }}
{{- end }}

{{- define "plait.gracePeriodSeconds" -}}
{{- if .Values.terminationGracePeriodSeconds }}
{{- .Values.terminationGracePeriodSeconds | int }}
{{- else }}
{{- add (.Values.preStopSeconds | int) (include "plait.drainSeconds" . | int) 15 }}
{{- end }}
{{- end }}

{{- define "plait.modelPath" -}}
{{- if or .Values.model.claim.name .Values.model.image.reference .Values.model.download.image -}}
/models/model
{{- else -}}
{{ .Values.model.baked }}
{{- end }}
{{- end }}

{{- /* What clients call the model, as the server does: by the name given, its directory's, or that of the one in the image. */ -}}
{{- define "plait.modelName" -}}
{{ .Values.model.name | default (include "plait.modelPath" . | default "storybook" | base) }}
{{- end }}

{{- /* Where a client's key can be read, as JSON; a keys file holds hashes alone, and then the name may be empty. */ -}}
{{- define "plait.clientKey" -}}
{{- if .Values.auth.keysFile -}}
{{ dict "name" .Values.test.secretName "key" .Values.test.key | toJson }}
{{- else -}}
{{ dict "name" .Values.auth.secretName "key" .Values.auth.key | toJson }}
{{- end }}
{{- end }}

{{- /* What no schema can say: values that do not go together. */ -}}
{{- define "plait.check" -}}
{{- $drain := include "plait.drainSeconds" . | int }}
{{- $needed := add (.Values.preStopSeconds | int) $drain 5 | int }}
{{- if lt (include "plait.gracePeriodSeconds" . | int) $needed }}
{{- fail (printf "terminationGracePeriodSeconds: %d is too short: preStopSeconds %d + settings.drain_s %d + 5 need %d, or running answers are killed; 0 computes it" (.Values.terminationGracePeriodSeconds | int) (.Values.preStopSeconds | int) $drain $needed) }}
{{- end }}
{{- $sources := compact (list .Values.model.claim.name .Values.model.image.reference .Values.model.baked .Values.model.download.image) }}
{{- if gt (len $sources) 1 }}
{{- fail (printf "model: choose one of claim, image, baked and download, not %s" (join " and " $sources)) }}
{{- end }}
{{- if and .Values.model.download.image (not .Values.model.download.command) }}
{{- fail "model.download.command: say what writes the model to $MODEL_DIR, e.g. [\"sh\", \"-c\", \"aws s3 sync s3://models/bagel \\\"$MODEL_DIR\\\"\"]" }}
{{- end }}
{{- if and (not .Values.auth.secretName) (not .Values.auth.insecure) }}
{{- fail "auth: name a Secret with a key for clients (auth.secretName), or set auth.insecure=true where a gateway in front asks for one" }}
{{- end }}
{{- if and .Values.auth.keysFile (not .Values.auth.secretName) }}
{{- fail "auth.keysFile: it is a key of auth.secretName, which is empty" }}
{{- end }}
{{- if ne .Values.autoscaling.kind "none" }}
{{- if gt (.Values.autoscaling.minReplicas | int) (.Values.autoscaling.maxReplicas | int) }}
{{- fail (printf "autoscaling: minReplicas %d is more than maxReplicas %d" (.Values.autoscaling.minReplicas | int) (.Values.autoscaling.maxReplicas | int)) }}
{{- end }}
{{- if lt (.Values.autoscaling.scaleDownSeconds | int) $drain }}
{{- fail (printf "autoscaling.scaleDownSeconds: %d is less than settings.drain_s %d: pods would be taken away faster than they drain" (.Values.autoscaling.scaleDownSeconds | int) $drain) }}
{{- end }}
{{- if .Values.multiNode.enabled }}
{{- fail "autoscaling: not with multiNode; scale the LeaderWorkerSet itself" }}
{{- end }}
{{- end }}
{{- if and .Values.multiNode.enabled (not .Values.multiNode.workerCommand) }}
{{- fail "multiNode.workerCommand: say what the workers run; they are given LWS_LEADER_ADDRESS, LWS_GROUP_SIZE and LWS_WORKER_INDEX" }}
{{- end }}
{{- if and .Values.inferencePool.enabled (not .Values.inferencePool.endpointPicker.name) }}
{{- fail "inferencePool.endpointPicker.name: name the Service of the endpoint picker" }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.gateways) }}
{{- fail "httpRoute.gateways: name at least one parent, e.g. [{name: public, namespace: gateways}]" }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if hasPrefix "PLAIT_" .name }}
{{- fail (printf "extraEnv: %s belongs into settings, as %s" .name (.name | trimPrefix "PLAIT_" | lower)) }}
{{- end }}
{{- end }}
{{- end }}
