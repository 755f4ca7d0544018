{{- /* The pod of a server; the Deployment and the leader of a LeaderWorkerSet have the same. Called with the root. */ -}}
{{- define "plait.podTemplate" -}}
metadata:
  labels:
    {{- include "plait.labels" . | nindent 4 }}
    # Endpoint pickers read the series of this engine type; Plait exports them under its names.
    inference.networking.k8s.io/engine-type: vllm
    llm-d.ai/engine-type: vllm
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "plait.podPlacement" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "plait.gracePeriodSeconds" . }}
  {{- if .Values.model.download.image }}
  initContainers:
    - name: download-model
      image: {{ .Values.model.download.image }}
      command: {{ toJson .Values.model.download.command }}
      env:
        - { name: MODEL_DIR, value: /models/model }
      {{- with .Values.model.download.secretName }}
      envFrom:
        - secretRef: { name: {{ . }} }
      {{- end }}
      securityContext: {{- include "plait.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - { name: model, mountPath: /models/model }
        - { name: scratch, mountPath: /tmp, subPath: download }
  {{- end }}
  containers:
    - name: plait
      image: {{ include "plait.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      envFrom:
        - configMapRef: { name: {{ include "plait.fullname" . }} }
      {{- include "plait.env" . | nindent 6 }}
      ports:
        - { name: http, containerPort: 8000 }
        - { name: metrics, containerPort: {{ .Values.metrics.port }} }
      startupProbe:
        httpGet: { path: /readyz, port: http }
        periodSeconds: {{ .Values.probes.startupPeriodSeconds }}
        failureThreshold: {{ .Values.probes.startupFailures }}
      readinessProbe:
        httpGet: { path: /readyz, port: http }
        periodSeconds: {{ .Values.probes.readinessPeriodSeconds }}
        failureThreshold: 1
        timeoutSeconds: 3
      livenessProbe:
        httpGet: { path: /livez, port: http }
        periodSeconds: {{ .Values.probes.livenessPeriodSeconds }}
        failureThreshold: {{ .Values.probes.livenessFailures }}
        timeoutSeconds: 5
      lifecycle:
        preStop:
          sleep: { seconds: {{ .Values.preStopSeconds }} }
      resources: {{- include "plait.resources" . | nindent 8 }}
      securityContext: {{- include "plait.containerSecurity" . | nindent 8 }}
      volumeMounts: {{- include "plait.volumeMounts" . | nindent 8 }}
  volumes: {{- include "plait.volumes" . | nindent 4 }}
{{- end }}

{{- define "plait.podPlacement" -}}
serviceAccountName: {{ include "plait.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .Values.gpu.enabled .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .Values.topologySpread.topologyKey }}
    whenUnsatisfiable: {{ .Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels: {{- include "plait.selectorLabels" . | nindent 8 }}
{{- end }}
{{- end }}

{{- define "plait.env" -}}
env:
  - name: POD_NAME
    valueFrom: { fieldRef: { fieldPath: metadata.name } }
  {{- if and .Values.auth.secretName (not .Values.auth.keysFile) }}
  - name: PLAIT_API_KEY
    valueFrom:
      secretKeyRef: { name: {{ .Values.auth.secretName }}, key: {{ .Values.auth.key }} }
  {{- end }}
  {{- if .Values.redis.secretName }}
  - name: PLAIT_STORE
    valueFrom:
      secretKeyRef: { name: {{ .Values.redis.secretName }}, key: {{ .Values.redis.urlKey }} }
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "plait.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "plait.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpu.enabled }}
{{- $gpus := dict .Values.gpu.resourceName (.Values.gpu.count | toString) }}
{{- $_ := set $resources "limits" (merge $gpus (default dict $resources.limits)) }}
{{- $_ := set $resources "requests" (merge $gpus (default dict $resources.requests)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "plait.volumeMounts" -}}
- { name: scratch, mountPath: /tmp, subPath: tmp }
- { name: scratch, mountPath: /home/plait/.cache, subPath: cache }
- { name: shared-memory, mountPath: /dev/shm }
{{- if hasPrefix "/models/" (include "plait.modelPath" .) }}
{{- if not .Values.model.baked }}
- name: model
  mountPath: /models/model
  {{- with .Values.model.claim.subPath }}
  subPath: {{ . }}
  {{- end }}
  readOnly: true
{{- end }}
{{- end }}
{{- if .Values.auth.keysFile }}
- { name: keys, mountPath: /etc/plait/keys, readOnly: true }
{{- end }}
{{- if .Values.redis.tls.secretName }}
- { name: redis-ca, mountPath: /etc/plait/redis, readOnly: true }
{{- end }}
{{- end }}

{{- define "plait.volumes" -}}
- name: scratch
  emptyDir: { sizeLimit: {{ .Values.scratch }} }
- name: shared-memory
  emptyDir: { medium: Memory, sizeLimit: {{ .Values.sharedMemory }} }
{{- if .Values.model.claim.name }}
- name: model
  persistentVolumeClaim: { claimName: {{ .Values.model.claim.name }}, readOnly: true }
{{- else if .Values.model.image.reference }}
- name: model
  image: { reference: {{ .Values.model.image.reference | quote }}, pullPolicy: {{ .Values.model.image.pullPolicy }} }
{{- else if .Values.model.download.image }}
- name: model
  emptyDir: { sizeLimit: {{ .Values.model.download.size }} }
{{- end }}
{{- if .Values.auth.keysFile }}
- name: keys
  secret:
    secretName: {{ .Values.auth.secretName }}
    defaultMode: 0440
    items:
      - { key: {{ .Values.auth.keysFile }}, path: keys.json }
{{- end }}
{{- if .Values.redis.tls.secretName }}
- name: redis-ca
  secret:
    secretName: {{ .Values.redis.tls.secretName }}
    items:
      - { key: {{ .Values.redis.tls.caKey }}, path: ca.crt }
{{- end }}
{{- end }}
