# Reach the bucket of a deployed overlay with the command `eolgul`. Sourced by backup.sh and cluster-test.sh and, to sign a model, by deploy.sh.
# shellcheck shell=bash disable=SC2154,SC2034  # here, secrets, port: the script; place: for it

find_eolgul() {
    if [ -x "$here/../.venv/bin/eolgul" ]; then
        echo "$here/../.venv/bin/eolgul"
    else
        command -v eolgul || fail "the command eolgul is missing: make install, or pip install 'eolgul[serve]'"
    fi
}

backup_of() { # REGISTRY FOLDER [SIGNING]: a backup of nothing but a registry, its model signed with the key in a folder
    mkdir -p "$2/bucket"
    cp -R "$1" "$2/bucket/registry"
    [ -z "${3:-}" ] || "$(find_eolgul)" promote --to production --registry "$2/bucket/registry" --signing-key "$3/signing-key"
    echo '{"people": 0, "templates": 0, "objects": 0, "bytes": 0}' >"$2/counts.json"
}

value_of() { # KEY: of the overlay's secrets.env
    sed -n "s/^$1=//p" "$secrets/secrets.env"
}

connect_store() { # MANIFESTS: sets `place`, the registry's s3:// address, and the environment that reaches it as the pipeline does
    local endpoint service
    place=$(sed -n 's/^  EOLGUL_REGISTRY: *//p' "$1" | head -n 1)
    endpoint=$(sed -n 's/^  EOLGUL_S3_ENDPOINT: *//p' "$1" | head -n 1)
    EOLGUL_S3_SECURE=$(sed -n 's/^  EOLGUL_S3_SECURE: *"\{0,1\}\([a-z]*\).*/\1/p' "$1" | head -n 1)
    EOLGUL_S3_REGION=$(sed -n 's/^  EOLGUL_S3_REGION: *//p' "$1" | head -n 1)
    case $endpoint in
        *.*.svc:* | minio:* | seaweedfs:*)
            service=${endpoint%%[.:]*}
            forward_to "$service" "${endpoint##*:}"
            endpoint=127.0.0.1:$port
            ;;
    esac
    EOLGUL_S3_ENDPOINT=$endpoint
    if [ -n "$(value_of PIPELINE_S3_ACCESS_KEY)" ]; then
        EOLGUL_S3_ACCESS_KEY=$(value_of PIPELINE_S3_ACCESS_KEY)
        EOLGUL_S3_SECRET_KEY=$(value_of PIPELINE_S3_SECRET_KEY)
    fi
    # A store of one's own: the overlay knows only the service's account, which may read models.
    [ -n "${EOLGUL_S3_ACCESS_KEY:-}" ] || fail "the overlay's secrets name no account that may read and write the whole bucket: set EOLGUL_S3_ACCESS_KEY and EOLGUL_S3_SECRET_KEY to one of your store"
    export EOLGUL_S3_ENDPOINT EOLGUL_S3_SECURE EOLGUL_S3_REGION EOLGUL_S3_ACCESS_KEY EOLGUL_S3_SECRET_KEY
}
