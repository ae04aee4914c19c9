#!/bin/sh
# An update module of Mender (protocol 3): installs bundles of EdgeLLM. Written by `edgellm bundle mender`.
#
#     cp this to /usr/share/mender/modules/v3/edgellm-bundle and make it executable
#     mender-artifact write module-image -T edgellm-bundle -t DEVICE -n NAME -f pi-2.edgellm -o pi-2.mender
#
# The payload is one bundle, or one delta against the bundle that is served. Mender calls it with a state and a folder.
set -eu

root=@ROOT@
key=@KEY@
restart=@RESTART@
url=@URL@
state=${1:-}
files=${2:-.}
before=$files/tmp/edgellm-before
patched=$root/.mender.edgellm

edgellm() {
    own=@EDGELLM@
    [ -n "$own" ] || own=$root/current/venv/bin/edgellm
    [ -x "$own" ] || own=edgellm
    command "$own" bundle "$@"
}

current() {
    readlink "$root/current" || true
}

activate() {
    if [ -n "$restart" ]; then
        edgellm activate "$1" --root "$root" --restart "$restart" --url "$url"
    else
        edgellm activate "$1" --root "$root"
    fi
}

case $state in
    NeedsArtifactReboot) echo No ;;
    SupportsRollback) echo Yes ;;
    ArtifactInstall)
        # Called again, as after a loss of power, what was served may be the new one already.
        if [ ! -e "$before" ]; then
            current >"$before.new"
            mv "$before.new" "$before"
        fi
        set -- "$files"/files/*
        [ $# -eq 1 ] && [ -f "$1" ] || { echo "edgellm-bundle: the payload must be one file" >&2; exit 2; }
        bundle=$1
        case $bundle in
            *.delta)
                edgellm patch "$bundle" -o "$patched" --root "$root" --key "$key" --force
                bundle=$patched
                ;;
        esac
        edgellm install "$bundle" --root "$root" --key "$key" --json >"$files/tmp/edgellm-installed"
        slot=$(sed -n 's/^ *"slot": "\([AB]\)",*$/\1/p' "$files/tmp/edgellm-installed")
        activate "$slot"
        ;;
    ArtifactRollback)
        # Where installing failed, nothing was changed; where it was called before, it is done.
        slot=$(cat "$before" 2>/dev/null || true)
        if [ -n "$slot" ] && [ "$slot" != "$(current)" ]; then
            edgellm rollback --root "$root"
            [ -z "$restart" ] || sh -c "$restart"
        fi
        ;;
    Cleanup) rm -f "$patched" ;;
esac
