# What the scripts beside this one share.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$here/../.." && pwd)
root=${ARM64_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/edgellm/arm64-root}

# fail WHAT HINT
fail() {
    printf '%s\n  %s\n' "$1" "$2" >&2
    exit 1
}

# need PROGRAM PACKAGE
need() {
    command -v "$1" >/dev/null || fail "$1 is not here" "on Debian: apt-get install $2"
}
