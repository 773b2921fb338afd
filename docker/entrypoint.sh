#!/bin/sh
# An engine mounts secrets with a mode and owner of its own choice; the package takes only a key
# file that nobody else can read. So it gets a copy, in memory.
set -eu
secret="${CLUSTER_KEY_SECRET:-/run/secrets/cluster_key}"
if [ -z "${CELERY_ACTORS_KEY_FILE:-}" ]; then
    if [ ! -r "$secret" ]; then
        echo "There is no cluster key: mount one as $secret, readable by user $(id -u)." >&2
        exit 1
    fi
    CELERY_ACTORS_KEY_FILE="/dev/shm/.cluster-key.$(id -u)"
    (umask 077; cp "$secret" "$CELERY_ACTORS_KEY_FILE.$$")
    chmod 600 "$CELERY_ACTORS_KEY_FILE.$$"
    mv "$CELERY_ACTORS_KEY_FILE.$$" "$CELERY_ACTORS_KEY_FILE"
    export CELERY_ACTORS_KEY_FILE
fi
exec "$@"
