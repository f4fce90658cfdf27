# Ask the deployed service once, with the key that `make secrets` made. Sourced by deploy.sh.
# shellcheck shell=bash disable=SC2154  # kubectl, namespace, scratch: deploy.sh

# A grey picture of 8×8 pixels as PNG: no face is found in it, and the answer says so.
grey="iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAD0lEQVR42mNowAEYhpYEAILzYAEllbNjAAAAAElFTkSuQmCC"

smoke_verify() { # FOLDER of the secrets; 3 if there is no model yet
    local folder=$1 key=${EOLGUL_API_KEY:-} code tries
    [ -n "$key" ] || [ ! -f "$folder/api-key" ] || key=$(cat "$folder/api-key")
    if [ -z "$key" ]; then
        echo "The service was not asked: no key is known here (EOLGUL_API_KEY, or the api-key that make secrets makes)."
        return
    fi
    if ! command -v curl >/dev/null; then
        echo "The service was not asked: curl is not installed here."
        return
    fi
    echo "asking the service, with the key's scope verify"
    printf 'Authorization: Bearer %s\n' "$key" >"$scratch/header"
    forward_to serving 3000
    # A key that was just made reaches the pods within about a minute.
    for ((tries = 0; tries < ${SMOKE_TRIES:-24}; tries++)); do
        code=$(ask "http://127.0.0.1:$port/v1/models/current") || code=none
        [ "$code" = 401 ] || break
        [ "$tries" != 0 ] || echo "  the pods do not know the key yet"
        sleep 5
    done
    case $code in
        401) fail "the service refuses the key (401): is it in $folder/api-keys.json?" 1 ;;
        503)
            [ "$2" = 3 ] || fail "the service answers 503: $(detail)" 1
            echo "  the key is accepted; there is no model yet"
            return
            ;;
        200) ;;
        *) fail "the service answers $code: $(detail)" 1 ;;
    esac
    echo "  model $(sed -n 's/.*"digest":"\([0-9a-f]\{12\}\).*/\1/p' "$scratch/answer")"
    if [ -n "${PHOTOS:-}" ]; then
        # shellcheck disable=SC2086  # two names
        set -- $PHOTOS
    else
        printf %s "$grey" | openssl base64 -d -A >"$scratch/grey.png" 2>/dev/null || printf %s "$grey" | base64 -d >"$scratch/grey.png"
        set -- "$scratch/grey.png" "$scratch/grey.png"
    fi
    code=$(ask "http://127.0.0.1:$port/v1/verify" -F "image1=@$1" -F "image2=@$2") || code=none
    case $code in
        200) echo "  verdict $(sed -n 's/.*"verdict":"\([a-z]*\)".*/\1/p' "$scratch/answer")" ;;
        422) echo "  as expected, no face in a grey picture: $(detail)" ;;
        403) fail "the key lacks the scope verify: $(detail)" 1 ;;
        *) fail "verify answers $code: $(detail)" 1 ;;
    esac
    end_forward
}

ask() { # URL [curl options]: prints the status; the body is in $scratch/answer
    curl -sS --max-time 60 --noproxy '*' -H "@$scratch/header" -o "$scratch/answer" -w '%{http_code}' "$@" 2>"$scratch/curl"
}

detail() {
    sed -n 's/.*"detail":"\([^"]*\)".*/\1/p' "$scratch/answer" 2>/dev/null || tail -n 1 "$scratch/curl"
}
