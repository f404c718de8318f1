#!/usr/bin/env bash
# Installs what is missing of these programs: from Debian's packages, as root or with sudo. Elsewhere it says what is missing.
#
#   install.sh PACKAGE...     names as Debian has them
set -euo pipefail

is_there() {
    case $1 in
        postgresql) compgen -G '/usr/lib/postgresql/*/bin' >/dev/null || command -v initdb >/dev/null ;;
        rabbitmq-server) [ -x /usr/sbin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null ;;
        # Debian's Python has the module `venv`, but not what it needs.
        python3-venv) python3 -c 'import ensurepip, venv' >/dev/null 2>&1 ;;
        build-essential) command -v cc >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

missing=()
for package in "$@"; do is_there "$package" || missing+=("$package"); done
[ ${#missing[@]} -gt 0 ] || exit 0

give_up() {
    echo "missing: ${missing[*]} (as Debian names them); $1, so install them yourself" >&2
    exit 1
}

command -v apt-get >/dev/null || give_up "this is no Debian or Ubuntu"
sudo=()
if [ "$EUID" -ne 0 ]; then
    command -v sudo >/dev/null || give_up "you are not root, and there is no sudo"
    sudo=(sudo)
fi
echo "installing ${missing[*]}" >&2
# No server of the system is to be started by its installation.
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 sh -c \
    "apt-get install -y --no-install-recommends ${missing[*]} >/dev/null 2>&1 ||
     { apt-get update >/dev/null && apt-get install -y --no-install-recommends ${missing[*]} >/dev/null; }" >&2
