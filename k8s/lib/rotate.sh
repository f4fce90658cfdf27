# New passwords and keys in place of the present ones, deployed at once. Sourced by deploy.sh; needs openssl.
# shellcheck shell=bash disable=SC2154  # here, kubectl, namespace, scratch, secrets: deploy.sh

rotate() { # WHAT: the values are new; the caller deploys
    command -v openssl >/dev/null || fail "openssl is missing"
    case $1 in
        redis) replace_values REDIS_PASSWORD ;;
        root) replace_values MINIO_ROOT_USER MINIO_ROOT_PASSWORD ;;
        s3)
            replace_values SERVING_S3_ACCESS_KEY SERVING_S3_SECRET_KEY PIPELINE_S3_ACCESS_KEY PIPELINE_S3_SECRET_KEY
            if [ -f "$here/kubeflow/secrets.env" ]; then
                FROM=${secrets##*/} pipeline_values >"$here/kubeflow/secrets.env.new"
                mv "$here/kubeflow/secrets.env.new" "$here/kubeflow/secrets.env"
                echo "k8s/kubeflow/secrets.env is new, too: KUBEFLOW_NAMESPACE=<where pipelines run> make deploy OVERLAY=kubeflow"
            fi
            ;;
        api)
            [ -f "$secrets/api-key" ] && [ "$(grep -o '"id"' "$secrets/api-keys.json" | wc -l)" = 1 ] ||
                fail "api-keys.json has not the one key of make secrets: eolgul key new, deploy, eolgul key revoke, deploy"
            new_api_key >"$secrets/api-key.new"
            entry_of "$secrets/api-key.new" >"$secrets/api-keys.json.new"
            mv "$secrets/api-keys.json.new" "$secrets/api-keys.json"
            mv "$secrets/api-key.new" "$secrets/api-key"
            ;;
        encryption)
            { new_encryption_key && cat "$secrets/encryption-keys"; } >"$secrets/encryption-keys.new"
            mv "$secrets/encryption-keys.new" "$secrets/encryption-keys"
            ;;
        signing)
            [ -n "$signing" ] || fail "this overlay's service takes unsigned models: k8s/components/signed-models says how to change that"
            [ -f "$signing/signing-key" ] || fail "k8s/${signing#"$here"/}/signing-key is missing: whoever holds the present key must sign, so new ones are made there"
            # The same one again after a failure: what it signed stays signed.
            [ -f "$signing/signing-key.new" ] || (umask 077 && new_signing_key >"$signing/signing-key.new")
            { public_key "$signing/signing-key.new" && public_key "$signing/signing-key"; } >"$signing/trusted-keys.new"
            mv "$signing/trusted-keys.new" "$signing/trusted-keys"
            ;;
        *) fail "$1: expected api, redis, s3, root, encryption or signing" ;;
    esac
}

replace_values() { # KEY…: of secrets.env
    local key value file=$secrets/secrets.env
    new_values "$file.example" >"$scratch/fresh"
    for key in "$@"; do
        value=$(sed -n "s/^$key=//p" "$scratch/fresh")
        case $value in '' | from-your-store) fail "$key is not ours to make: change it in your store and in ${file#"$here/"}" ;; esac
        grep -q "^$key=" "$file" || fail "${file#"$here/"} has no $key"
        sed "s|^$key=.*|$key=$value|" "$file" >"$file.new"
        mv "$file.new" "$file"
    done
}

# The new encryption key is deployed beside the old ones: what they sealed is sealed again, then they go.
finish_encryption() { # MANIFESTS
    local tries
    restart_serving
    for ((tries = 0; tries < 5; tries++)); do
        "$kubectl" -n $namespace exec deployment/serving -c serving -- eolgul gallery reseal >"$scratch/resealed" ||
            fail "the gallery could not be sealed again; the old keys are still in place, so run this again" 1
        cat "$scratch/resealed"
        ! grep -q '"resealed": *0[,}]' "$scratch/resealed" || break
        [ "$tries" != 4 ] || fail "the gallery still has values that an older key sealed; the old keys are still in place" 1
    done
    sed 1d "$secrets/encryption-keys" >>"$secrets/encryption-keys.old"
    head -n 1 "$secrets/encryption-keys" >"$secrets/encryption-keys.new"
    mv "$secrets/encryption-keys.new" "$secrets/encryption-keys"
    render "$folder" "$secrets" >"$1"
    apply -f "$1"
    restart_serving
    echo "The old keys are in encryption-keys.old: only backups made until now need them. Delete them with these backups."
}

# Both keys are trusted; what is served is signed with the new one, then the old one goes. Earlier models are signed when they come back
# (`eolgul promote --to DIGEST --signing-key FILE`).
finish_signing() { # MANIFESTS
    local eolgul place
    restart_serving
    eolgul=$(find_eolgul)
    connect_store "$1"
    if ! "$eolgul" promote --to production --registry "$place" --signing-key "$signing/signing-key.new" >"$scratch/signed" 2>"$scratch/error"; then
        grep -q 'no model has been promoted yet' "$scratch/error" ||
            fail "the served model could not be signed: $(tail -n 1 "$scratch/error"); both keys are trusted, so run this again" 1
        echo "There is no model to sign yet."
    fi
    end_forward
    public_key "$signing/signing-key.new" >"$signing/trusted-keys.new"
    mv "$signing/trusted-keys.new" "$signing/trusted-keys"
    mv "$signing/signing-key.new" "$signing/signing-key"
    render "$folder" "$secrets" >"$1"
    apply -f "$1"
    restart_serving
    echo "The service trusts only the new key. $(signing_words "$signing")"
}

restart_serving() { # pods read encryption keys when they start
    "$kubectl" -n $namespace rollout restart deployment/serving
    wait_for_serving || [ $? = 3 ] || exit 1
}
