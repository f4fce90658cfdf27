#!/bin/sh
# Start one of the two Redis, `cache` or `gallery`, with one user who may do only what the service does there:
# serving/cache.py and serving/limits.py, or serving/gallery.py. Runs in the redis image (busybox).
set -eu

password_file=${PASSWORD_FILE:-/run/secrets/redis/password}
acl_file=${ACL_FILE:-/run/redis/users.acl}

case ${1:-} in
    cache)
        rights="~eolgul:embedding:* ~eolgul:rate:* +hget +hset +del +get +incrby +decrby +expire"
        # allkeys-lru: when full, the embeddings nobody asked for go first. No persistence: faces leave no trace on a disk.
        storage="--dir /tmp --maxmemory 256mb --maxmemory-policy allkeys-lru --appendonly no"
        ;;
    gallery)
        rights="~eolgul:gallery:* +get +set +hset +hdel +hgetall +del +zadd +zrem +zcard +zrange +zrangebylex +xadd +xrange +xrevrange +watch +unwatch"
        # noeviction: a full gallery refuses people, it forgets none. On disk before it is answered, an erasure above all:
        # nobody who was told to be gone may be back after a power cut.
        storage="--dir ${DATA_DIR:-/data} --maxmemory 512mb --maxmemory-policy noeviction --appendonly yes --appendfsync always"
        ;;
    *)
        echo "redis-start: expected cache or gallery" >&2
        exit 2
        ;;
esac
shift

if [ ! -s "$password_file" ]; then
    echo "redis-start: $password_file is empty" >&2
    exit 2
fi
# Only the digest is written down, in memory: the file that `ACL LIST` shows gives no password away.
digest=$(tr -d '\r\n' <"$password_file" | sha256sum | cut -d ' ' -f 1)

# The default user is off, so nothing works without a name and a password. `+@read +@write` would admit FLUSHALL and KEYS:
# commands are named one by one, and -@dangerous stays last so that adding a category some day cannot bring those back.
umask 077
cat >"$acl_file" <<ACL
user default off resetpass resetkeys resetchannels -@all
user eolgul on #$digest resetkeys resetchannels -@all $rights +multi +exec +ping +hello +select +client|setinfo +client|setname -@dangerous
ACL

# shellcheck disable=SC2086  # several words
exec redis-server \
    --port "${PORT:-6379}" --protected-mode no \
    --aclfile "$acl_file" \
    $storage --save "" \
    --loglevel notice "$@"
