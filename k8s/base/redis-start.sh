#!/bin/sh
# Start one of the two Redis instances, `cache` or `gallery`, with one user who has only the rights that the service needs:
# serving/inference/cache.py and serving/access/limits.py, or serving/gallery/. Runs in the redis image (busybox).
set -eu

password_file=${PASSWORD_FILE:-/run/secrets/redis/password}
acl_file=${ACL_FILE:-/run/redis/users.acl}

case ${1:-} in
    cache)
        rights="~eolgul:embedding:* ~eolgul:rate:* +hget +hset +del +get +incrby +decrby +expire"
        # allkeys-lru: when memory is full, the least recently used embeddings go first. No persistence: nothing about a face is
        # written to a disk.
        storage="--dir /tmp --maxmemory 256mb --maxmemory-policy allkeys-lru --appendonly no"
        ;;
    gallery)
        rights="~eolgul:gallery:* +get +hget +set +hset +hdel +hgetall +del +zadd +zrem +zcard +zrange +zrangebylex +xadd +xrange +xrevrange +watch +unwatch"
        # noeviction: a full gallery refuses enrolments and loses nobody. Every change is on disk before it is answered, so that
        # a person who was reported as erased does not come back after a power cut.
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
# The ACL file holds only the password's digest and is in memory, so that `ACL LIST` shows no password.
digest=$(tr -d '\r\n' <"$password_file" | sha256sum | cut -d ' ' -f 1)

# The default user is off: every command needs a user name and a password. `+@read +@write` would allow FLUSHALL and KEYS, so
# commands are named one by one; -@dangerous is last, so that a category added later cannot allow them again.
# Nobody can be the default user, and yet it needs every right: Redis 7.0 to 8.4 replays the append-only file as that user and leaves
# out each transaction that it may not run, so that all people of the gallery would be gone after a restart (redis/redis issue 14541).
umask 077
cat >"$acl_file" <<ACL
user default off resetpass ~* resetchannels +@all
user eolgul on #$digest resetkeys resetchannels -@all $rights +multi +exec +ping +hello +select +client|setinfo +client|setname -@dangerous
ACL

# shellcheck disable=SC2086  # several words
exec redis-server \
    --port "${PORT:-6379}" --protected-mode no \
    --aclfile "$acl_file" \
    $storage --save "" \
    --loglevel notice "$@"
