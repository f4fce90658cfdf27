# Make the passwords and keys of an overlay, once. Sourced by deploy.sh; needs openssl.
# shellcheck shell=bash disable=SC2154  # here: deploy.sh

make_secrets() {
    local folder=$1 short=k8s/${1#"$here"/}
    command -v openssl >/dev/null || fail "openssl is missing: install it, or fill in $short/secrets.env by hand"
    umask 077
    if [ "${folder##*/}" = kubeflow ]; then
        write_once "$folder/secrets.env" pipeline_values
        return
    fi
    write_once "$folder/secrets.env" new_values "$folder/secrets.env.example"
    write_once "$folder/encryption-keys" new_encryption_key
    if [ ! -e "$folder/api-keys.json" ] && [ ! -e "$folder/api-key" ]; then
        write_once "$folder/api-key" new_api_key
        write_once "$folder/api-keys.json" entry_of "$folder/api-key"
    else
        echo "$short/api-keys.json is kept"
    fi
    if grep -q 'from-your-store' "$folder/secrets.env"; then
        echo "$short/secrets.env: fill in the keys that your object store gave you (from-your-store)"
    fi
    echo "Git ignores these files. Keep a copy where you keep passwords: without $short/encryption-keys the gallery is lost."
}

make_signing_key() { # FOLDER: a pair of keys, unless somebody else's public keys are there
    local folder=$1
    if [ -e "$folder/trusted-keys" ]; then
        echo "k8s/${folder#"$here"/}/trusted-keys is kept"
        return
    fi
    write_once "$folder/signing-key" new_signing_key
    write_once "$folder/trusted-keys" public_key "$folder/signing-key"
    echo "Models are served only when this key signed them. $(signing_words "$folder")"
}

new_signing_key() { openssl genpkey -algorithm ed25519; } # as eolgul signing-key new
public_key() { openssl pkey -pubout -in "$1"; }

signing_words() { # FOLDER: how others get the key
    local key=k8s/${1#"$here"/}/signing-key
    echo "For the pipeline: kubectl -n <where pipelines run> create secret generic eolgul-signing --from-file=key=$key --dry-run=client -o yaml | kubectl apply -f -; by hand: eolgul promote … --signing-key $key"
}

write_once() { # FILE COMMAND…: what the command prints, unless the file is there
    local file=$1 short=k8s/${1#"$here"/}
    shift
    if [ -e "$file" ]; then
        echo "$short is kept"
        return
    fi
    "$@" >"$file.new"
    mv "$file.new" "$file"
    echo "$short is made"
}

new_values() { # EXAMPLE: its keys with random values
    local key value
    while IFS='=' read -r key value; do
        case $key$value in
            *_USERchange-me | *_ACCESS_KEYchange-me) echo "$key=$(openssl rand -hex 8)" ;;
            *change-me) echo "$key=$(openssl rand -hex 16)" ;;
            *) [ -n "$value" ] && echo "$key=$value" || true ;;
        esac
    done < <(grep -v '^#' "$1" | grep .)
}

# As `eolgul gallery new-key`: "<key id>:<base64 of 32 bytes>".
new_encryption_key() {
    echo "k$(openssl rand -hex 4):$(openssl rand -base64 32)"
}

# As `eolgul key new`: the key itself, which clients send; the service knows only its digest.
new_api_key() {
    echo "eolgul_$(openssl rand -hex 6)_$(openssl rand -base64 32 | tr '+/' '-_' | tr -d '=')"
}

entry_of() { # FILE of a key: the file of keys with its one entry
    local key id
    key=$(cat "$1")
    id=${key#eolgul_}
    cat <<JSON
{"format": 1, "keys": [{"id": "${id%%_*}", "tenant": "default", "sha256": "$(printf %s "$key" | openssl dgst -sha256 -r | cut -d ' ' -f 1)",
 "scopes": ["verify", "detect", "embed", "identify", "enroll", "gallery"], "note": "made by make secrets"}]}
JSON
}

# The pipeline's two values, from the overlay that is deployed: FROM, or the only one that has secrets.
pipeline_values() {
    local from=${FROM:-} file found=0
    if [ -z "$from" ]; then
        for file in "$here"/overlays/*/secrets.env; do
            [ -f "$file" ] && grep -q '^PIPELINE_S3_ACCESS_KEY=' "$file" || continue
            from=$(basename "$(dirname "$file")")
            found=$((found + 1))
        done
        [ "$found" = 1 ] || fail "FROM=<overlay> must name the overlay whose pipeline account is meant ($found have secrets)"
    fi
    file=$here/overlays/$from/secrets.env
    [ -f "$file" ] || fail "k8s/overlays/$from/secrets.env is missing: make secrets OVERLAY=$from first"
    sed -n -e 's/^PIPELINE_S3_ACCESS_KEY=/EOLGUL_S3_ACCESS_KEY=/p' -e 's/^PIPELINE_S3_SECRET_KEY=/EOLGUL_S3_SECRET_KEY=/p' "$file"
}
