#!/usr/bin/env bash
# Drives the whole HTTP API with curl, on a monitor that began without a VM, and ends it:
#
#   tsvmm --api-socket path=SOCKET & test/e2e/builtin/drive-api.sh SOCKET FOLDER
#
# Each exchange is a line of output: method, endpoint, status, content type and body, separated by tabs. The exit status is
# that of the first answer with another status than is expected here. FOLDER is for snapshots and such.
set -euo pipefail
socket=$1
folder=$2
body=$folder/answer

# expect STATUS METHOD ENDPOINT [BODY]
expect() {
  local wanted=$1 method=$2 endpoint=$3 status type
  local arguments=(--silent --show-error --max-time 30 --unix-socket "$socket" --request "$method")
  if (($# > 3)); then arguments+=(--header 'Content-Type: application/json' --data "$4"); fi
  : >"$body"
  IFS=' ' read -r status type < <(
    curl "${arguments[@]}" --output "$body" --write-out '%{http_code} %{content_type}\n' "http://localhost/api/v1/$endpoint"
  )
  printf '%s\t%s\t%s\t%s\t%s\n' "$method" "$endpoint" "$status" "$type" "$(<"$body")"
  if [[ $status != "$wanted" ]]; then
    echo "$method $endpoint answered $status instead of $wanted: $(<"$body")" >&2
    exit 1
  fi
}

refused=(vm.resize-disk vm.resize-zone vm.add-device vm.add-user-device vm.add-disk vm.add-fs vm.add-generic-vhost-user
  vm.add-net vm.add-pmem vm.add-vdpa vm.add-vsock vm.remove-device vm.send-migration vm.receive-migration)
orders=(vm.boot vm.pause vm.resume vm.reboot vm.shutdown vm.power-button vm.nmi)
config='{
  "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
  "memory": {"size": 67108864},
  "payload": {},
  "serial": {"mode": "Pty"},
  "console": {"mode": "Off"},
  "balloon": {"size": 0},
  "vsock": {"cid": 3, "socket": "'"$folder"'/vm.vsock"}
}'
snapshot='{"destination_url": "file://'"$folder"'/snapshot"}'
core='{"destination_url": "file://'"$folder"'/core"}'
restore='{"source_url": "file://'"$folder"'/snapshot"}'

# Nothing is there.
expect 200 GET vmm.ping
expect 404 GET vm.info
expect 404 GET vm.counters
for order in "${orders[@]}"; do expect 404 PUT "$order"; done
for endpoint in "${refused[@]}"; do expect 404 PUT "$endpoint" '{}'; done
expect 404 PUT vm.resize '{"desired_balloon": 0}'
expect 404 PUT vm.snapshot "$snapshot"
expect 404 PUT vm.coredump "$core"
expect 500 PUT vm.restore "$restore"
expect 204 PUT vm.delete

# Bodies that are not what they should be.
expect 400 PUT vm.create
expect 400 PUT vm.create '{"memory"'
expect 400 PUT vm.create '{"memory": {"size": "much"}}'
expect 400 PUT vm.restore '{"source": "/"}'

# A VM that is created, and not booted.
expect 204 PUT vm.create "$config"
expect 500 PUT vm.create "$config"
expect 200 GET vm.info
expect 405 GET vm.counters
for order in vm.pause vm.resume vm.reboot vm.shutdown vm.power-button vm.nmi; do expect 405 PUT "$order"; done
expect 405 PUT vm.snapshot "$snapshot"
expect 405 PUT vm.coredump "$core"
expect 400 PUT vm.boot '{"now": true}'

# One that runs.
expect 204 PUT vm.boot
expect 405 PUT vm.boot
expect 200 GET vm.info
expect 200 GET vm.counters
expect 405 PUT vm.resume
expect 405 PUT vm.snapshot "$snapshot"
expect 500 PUT vm.power-button
expect 204 PUT vm.resize '{"desired_balloon": 0, "desired_vcpus": 2, "desired_ram": 67108864}'
expect 500 PUT vm.resize '{"desired_vcpus": 4}'
expect 400 PUT vm.resize '{"desired_balloon": "all"}'
for endpoint in "${refused[@]}"; do expect 500 PUT "$endpoint" '{"id": "x"}'; done
expect 204 PUT vm.reboot

# One that is paused, saved and dumped.
expect 204 PUT vm.pause
expect 405 PUT vm.pause
expect 405 PUT vm.power-button
expect 200 GET vm.info
expect 204 PUT vm.snapshot "$snapshot"
expect 500 PUT vm.snapshot '{"destination_url": "file:///proc/nowhere"}'
expect 204 PUT vm.coredump "$core"
expect 500 PUT vm.coredump "$core"
expect 204 PUT vm.resume
expect 204 PUT vm.shutdown
expect 200 GET vm.info
expect 405 PUT vm.shutdown
expect 204 PUT vm.boot
expect 204 PUT vm.delete

# The saved one.
expect 204 PUT vm.restore "$restore"
expect 500 PUT vm.restore "$restore"
expect 200 GET vm.info
expect 500 PUT vm.snapshot "${snapshot%\}}"', "diff": true}'
expect 204 PUT vm.snapshot '{"destination_url": "file://'"$folder"'/diff", "diff": true}'
expect 204 PUT vm.resume
expect 204 PUT vm.delete
expect 204 PUT vm.restore '{"source_url": "file://'"$folder"'/diff"}'
expect 204 PUT vm.delete
expect 204 PUT vm.restore "${restore%\}}"', "resume": true, "overrides": {"vsock": {"socket": "'"$folder"'/other.vsock"}}}'
expect 200 GET vm.info
# The built-in guest has no handler for it.
expect 204 PUT vm.nmi

expect 204 PUT vmm.shutdown
