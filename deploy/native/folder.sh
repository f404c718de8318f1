# shellcheck shell=bash
# Sourced by the scripts here: the folder in which one of them keeps everything, and which it removes in the end. In /tmp anybody
# can have made one of that name before us, or a link of that name to something of ours.

# refuse_foreign DIR: only a folder that is ours, and that nobody else can write to.
refuse_foreign() {
    if [ -L "$1" ]; then echo "$1 is a link, and could lead anywhere" >&2; exit 1; fi
    if [ ! -d "$1" ]; then echo "$1 is no folder" >&2; exit 1; fi
    if [ ! -O "$1" ]; then echo "$1 belongs to somebody else" >&2; exit 1; fi
    if [ -n "$(find "$1" -maxdepth 0 -perm /022)" ]; then echo "$1 can be written to by others" >&2; exit 1; fi
}

# claim DIR MARKER: makes the folder, or goes on with one that carries the marker or is empty.
claim() {
    set -- "${1%/}" "$2"
    mkdir -p "$(dirname "$1")"
    # As root, PostgreSQL runs as a user of its own, who must come through.
    local mode=700
    [ "$EUID" -ne 0 ] || mode=711
    mkdir -m "$mode" "$1" 2>/dev/null || true
    refuse_foreign "$1"
    # In this order: another one may be making it, whose first file is the marker.
    if [ -n "$(ls -A "$1")" ] && [ ! -e "$1/$2" ]; then
        echo "$1 has something in it, and no $2: it is not ours to use" >&2
        exit 1
    fi
    chmod "$mode" "$1"
    : >>"$1/$2"
}

# owned DIR MARKER: is there a folder that we made? Exits where there is one that we did not make.
owned() {
    set -- "${1%/}" "$2"
    [ -e "$1" ] || [ -L "$1" ] || return 1
    refuse_foreign "$1"
    if [ ! -e "$1/$2" ]; then
        echo "$1 has no $2: it is not ours to touch" >&2
        exit 1
    fi
}
