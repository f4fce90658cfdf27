# Wait until what was applied runs, say for what, and name the pod and the reason where it does not. Sourced by deploy.sh.
# shellcheck shell=bash disable=SC2154  # kubectl, namespace, timeout, scratch: deploy.sh

# In the order in which one needs the other.
wait_for_workloads() {
    local manifests=$1 name
    for name in $(names_of StatefulSet "$manifests"); do
        case $name in gallery) ;; *) wait_for "statefulset/$name" "the object store" ;; esac
    done
    for name in $(names_of Deployment "$manifests"); do
        case $name in serving) ;; *) wait_for "deployment/$name" "the cache" ;; esac
    done
    for name in $(names_of StatefulSet "$manifests"); do
        case $name in gallery) wait_for "statefulset/$name" "the gallery" ;; esac
    done
    for name in $(names_of Job "$manifests"); do
        wait_for "job/$name" "the bucket and its accounts"
    done
}

wait_for() {
    local workload=$1 until=$((SECONDS + timeout)) began=$SECONDS reason='' before=''
    echo "waiting for $2 ($workload)"
    while ! is_up "$workload"; do
        reason=$(reason_of "${workload#*/}")
        [ "$reason" = "$before" ] || [ -z "$reason" ] || echo "  $reason"
        before=$reason
        [ "$SECONDS" -lt "$until" ] || give_up "$2 ($workload)" "${workload#*/}" "$reason"
        sleep 2
    done
    echo "  up after $((SECONDS - began)) s"
}

state_template='{{.metadata.generation}} {{.status.observedGeneration}} {{.spec.replicas}} {{.status.replicas}} {{.status.updatedReplicas}} {{.status.readyReplicas}}'

is_up() {
    local state
    case $1 in
        job/*)
            state=$("$kubectl" -n $namespace get "$1" -o 'jsonpath={range .status.conditions[?(@.status=="True")]}{.type}: {.message}{"\n"}{end}')
            case $state in
                *Complete:*) return 0 ;;
                *Failed:*) failed_job "${1#*/}" "$state" ;;
                *) return 1 ;;
            esac
            ;;
    esac
    # All pods are of the newest revision and ready, and no pod of an older one is left.
    state=$("$kubectl" -n $namespace get "$1" -o "go-template=$state_template") || return 1
    set -- $state
    [ $# = 6 ] && [ "$1" = "$2" ] && [ "$3" = "$4" ] && [ "$3" = "$5" ] && [ "$3" = "$6" ]
}

# Wait until the service is ready. 0: it is; 3: it waits for its first model, which the pipeline promotes later; 1: neither in time.
wait_for_serving() {
    local until=$((SECONDS + timeout)) began=$SECONDS reason='' before=''
    echo "waiting for the service (deployment/serving)"
    while ! is_up deployment/serving; do
        reason=$(reason_of serving)
        case $reason in *"no model has been promoted yet"*)
            echo "  up after $((SECONDS - began)) s, without a model yet: it loads the first one that the pipeline promotes"
            return 3
            ;;
        esac
        [ "$reason" = "$before" ] || [ -z "$reason" ] || echo "  $reason"
        before=$reason
        if [ "$SECONDS" -ge "$until" ]; then
            give_up "the service (deployment/serving)" serving "$reason"
        fi
        sleep 2
    done
    echo "  up after $((SECONDS - began)) s"
}

failed_job() { # NAME CONDITIONS: a Job that failed does not try again
    local reason words
    reason=$(printf '%s\n' "$2" | sed -n 's/^Failed: //p' | head -n 1)
    words=$("$kubectl" -n $namespace logs "job/$1" --tail=3 2>/dev/null | tr '\n' ' ') || words=
    fail "job/$1 failed: ${reason:-no reason is known}; its last words: ${words:-none}" 1
}

give_up() { # WHAT NAME REASON
    echo "deploy: $1 is not ready after $timeout s: ${3:-no reason is known}" >&2
    "$kubectl" -n $namespace get pods -l "app.kubernetes.io/name=$2" >&2 || true
    exit 1
}

# One line for every container that does not run, and for every pod that has no node, is not ready or was deleted.
pods_template='{{range .items}}{{$pod := .metadata.name}}{{if .metadata.deletionTimestamp}}{{$pod}}|ending|
{{else}}{{$ready := "False"}}{{range .status.conditions}}{{if eq .type "Ready"}}{{$ready = .status}}{{end}}{{if and (eq .type "PodScheduled") (eq .status "False")}}{{$pod}}|unscheduled|{{.message}}
{{end}}{{end}}{{if ne $ready "True"}}{{range .status.initContainerStatuses}}{{with .state.waiting}}{{$pod}}|waiting|{{.reason}}|{{.message}}
{{end}}{{end}}{{range .status.containerStatuses}}{{with .state.waiting}}{{$pod}}|waiting|{{.reason}}|{{.message}}
{{end}}{{with .state.terminated}}{{$pod}}|ended|{{.reason}}|exit status {{.exitCode}}
{{end}}{{with .state.running}}{{$pod}}|running|
{{end}}{{end}}{{end}}{{end}}{{end}}'

# Why the pods of a workload do not run, in one line: image, policy, quota, volume, a crash with its last words; else nothing.
reason_of() {
    local name=$1 pod kind reason message
    "$kubectl" -n $namespace get pods -l "app.kubernetes.io/name=$name" -o "go-template=$pods_template" >"$scratch/pods" 2>/dev/null || return 0
    # The pod that says most: one that cannot start before one that runs and is not ready, and one that was deleted last.
    if ! IFS='|' read -r pod kind reason message < <(sed 's/<no value>//g' "$scratch/pods" | grep . |
        awk -F '|' '{ print ($2 == "ending" ? 9 : $2 == "running" ? 5 : 1) "|" $0 }' | sort -t '|' -k 1,1n -k 3,3r | cut -d '|' -f 2-); then
        refused_pods "$name"
        return
    fi
    case $kind in
        unscheduled)
            case $reason in
                *PersistentVolumeClaim* | *persistentvolumeclaim*) echo "$pod waits for its volume: $reason$(last_event "involvedObject.name=data-$pod" '; ')" ;;
                *) echo "$pod has no node: $reason" ;;
            esac
            ;;
        waiting)
            case $reason in
                ErrImageNeverPull) echo "$pod: the node does not have the image, and it is not pulled: $message (kind load docker-image, minikube image load, k3s ctr images import)" ;;
                *Image*) echo "$pod: the image cannot be had: ${message:-$reason}" ;;
                CrashLoopBackOff) echo "$pod ends again and again; its last words: $(last_words "$pod" --previous)" ;;
                ContainerCreating | PodInitializing) echo "$pod is being made$(last_event_of "$pod" ': ')" ;;
                *) echo "$pod: $reason: $message" ;;
            esac
            ;;
        ended)
            [ "$reason" = Completed ] || echo "$pod ended ($reason, $message); its last words: $(last_words "$pod")"
            ;;
        ending)
            message=$(refused_pods "$name") # in its place
            echo "${message:-$pod is ending}"
            ;;
        running)
            message=$("$kubectl" -n $namespace logs "$pod" --tail=500 2>/dev/null | sed -n 's/^not ready: //p' | tail -n 1) || message=
            echo "$pod runs and is not ready${message:+: $message}"
            ;;
    esac
}

# Without pods: what the cluster said to whoever wanted to make them (quota, admission policy).
refused_pods() {
    "$kubectl" -n $namespace get events --field-selector reason=FailedCreate \
        -o 'go-template={{range .items}}{{.involvedObject.name}} {{.message}}{{"\n"}}{{end}}' 2>/dev/null |
        sed -n "s/^$1[a-z0-9-]* /no pod is allowed: /p" | tail -n 1
}

last_event() { # FIELDS PREFIX: the last warning about the objects with these fields
    "$kubectl" -n $namespace get events --field-selector "$1" \
        -o 'go-template={{range .items}}{{if or (eq .type "Warning") (eq .reason "FailedBinding")}}{{.message}}{{"\n"}}{{end}}{{end}}' 2>/dev/null |
        tail -n 1 | sed "s/^/$2/"
}

# Of a pod that has a node: not what was said before it had one, nor about an earlier pod of this name.
last_event_of() { # POD PREFIX
    local uid
    uid=$("$kubectl" -n $namespace get pod "$1" -o 'jsonpath={.metadata.uid}' 2>/dev/null) || return 0
    last_event "involvedObject.uid=$uid,reason!=FailedScheduling" "$2"
}

last_words() { # POD [--previous]
    local words
    words=$("$kubectl" -n $namespace logs "$@" --tail=3 2>/dev/null) || words=$("$kubectl" -n $namespace logs "$1" --tail=3 2>/dev/null) || words=
    echo "${words:-none}" | tr '\n' ' '
}
