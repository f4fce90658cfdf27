# Reach a service of the cluster through kubectl port-forward. Sourced by deploy.sh and backup.sh.
# shellcheck shell=bash disable=SC2154,SC2034  # kubectl, namespace, scratch: the script; port: for it

forwards=
end_forward() {
    # shellcheck disable=SC2086  # several process ids
    [ -z "$forwards" ] || kill $forwards 2>/dev/null || true
    forwards=
}

forward_to() { # SERVICE PORT: sets `port` to one of this machine that leads there
    local log=$scratch/forward-$1 tries process
    : >"$log"
    "$kubectl" -n $namespace port-forward --address 127.0.0.1 "service/$1" ":$2" >"$log" 2>&1 &
    process=$!
    forwards="$forwards $process"
    port=
    for ((tries = 0; tries < 150; tries++)); do
        port=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$log" | head -n 1)
        [ -z "$port" ] || return 0
        kill -0 "$process" 2>/dev/null || break
        sleep 0.1
    done
    fail "service/$1 cannot be reached through kubectl port-forward: $(tail -n 1 "$log")" 1
}
