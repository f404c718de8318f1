#!/bin/sh
# Runs `troupe` in a container. Replicas of a service share one name there, so a process that listens on every address tells the
# others its own, unless it was told one.
set -eu

if [ "${1:-}" = serve ] && [ -z "${TROUPE_SERVE__ADVERTISE:-}" ]; then
    listen=${TROUPE_SERVE__LISTEN:-0.0.0.0:50051}
    # The first of IPv4: with a colon in it, it would need brackets.
    TROUPE_SERVE__ADVERTISE="$(hostname -i | tr ' ' '\n' | grep -v : | head -n 1):${listen##*:}"
    export TROUPE_SERVE__ADVERTISE
fi
exec troupe "$@"
