#!/bin/sh
# Start Redis with one user who may do only what serving/cache.py and serving/limits.py do. Runs in the redis image (busybox).
set -eu

password_file=${PASSWORD_FILE:-/run/secrets/redis/password}
acl_file=${ACL_FILE:-/run/redis/users.acl}

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
user eolgul on #$digest resetkeys ~eolgul:embedding:* ~eolgul:rate:* resetchannels -@all +hget +hset +del +get +incrby +decrby +expire +multi +exec +ping +hello +select +client|setinfo +client|setname -@dangerous
ACL

# allkeys-lru: when full, the embeddings nobody asked for go first. No persistence: faces leave no trace on a disk.
exec redis-server \
    --port "${PORT:-6379}" --protected-mode no --dir /tmp \
    --aclfile "$acl_file" \
    --maxmemory 256mb --maxmemory-policy allkeys-lru \
    --save "" --appendonly no \
    --loglevel notice "$@"
