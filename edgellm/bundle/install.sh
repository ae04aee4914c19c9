#!/bin/sh
# Installs a bundle on a machine that has no EdgeLLM yet. This script is signed on its own, so that it is checked first:
#
#     tar -xOf FILE install >install && tar -xOf FILE install.minisig >install.minisig
#     minisign -Vm install -p KEY.pub && sh install FILE --key KEY.pub
#
# Further flags are those of `edgellm bundle install`; the folder is /opt/edgellm unless --root names another. Nothing is
# written before processor, system, Python, memory and disk were found to do. What runs of the bundle is compared with
# the hashes below first; then EdgeLLM, which is a part of that, compares all of the bundle with its signature.
set -eu

refuse() {
    echo "install: $1" >&2
    exit "${2:-4}"
}

usage="usage: sh install FILE --key KEY|--unsigned [--root DIR] [--target NAME]"
[ $# -ge 1 ] || refuse "$usage" 2
case $1 in -h | --help) echo "$usage"; exit 0 ;; esac
bundle=$1
shift
[ -f "$bundle" ] || refuse "$bundle is no file" 2
case $bundle in */*) ;; *) bundle=./$bundle ;; esac # a name with a colon is a machine's for tar
root=/opt/edgellm
before=
for argument in "$@"; do
    case $before in --root) root=$argument ;; esac
    case $argument in --root=*) root=${argument#--root=} ;; esac
    before=$argument
done

arch=$(uname -m)
# -I: what lies in the current folder, somebody else's perhaps, is not run.
version_of() {
    "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null || true
}
python=$(version_of python3)
# Both say it last in their first line. A small system has neither, and its library says it of itself.
glibc=$( { getconf GNU_LIBC_VERSION || ldd --version; } 2>/dev/null | sed -n '1s/.* 2\.\([0-9]\{1,\}\)$/\1/p')
[ -n "$glibc" ] || glibc=$(cat /lib/*/libc.so.6 /lib64/libc.so.6 /lib/libc.so.6 2>/dev/null |
    LC_ALL=C sed -n 's/.*GNU C Library .* version 2\.\([0-9]\{1,\}\)\..*/\1/p' | sed -n 1p)
library=${glibc:+glibc-2.$glibc}
# musl's loader says it where it is given no program.
[ -n "$library" ] || library=$("/lib/ld-musl-$arch.so.1" 2>&1 | sed -n 's/^Version \([0-9]*\.[0-9]*\)\..*/musl-\1/p')
memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)
place=$root
while [ ! -d "$place" ]; do place=$(dirname "$place"); done
free=$(df -Pk "$place" | { read -r _; read -r _ _ _ available _; echo "$available"; })

fits=
why=
code=4
while read -r name its_arch its_python its_library its_memory its_room its_archive its_program; do
    if [ "$its_arch" != "$arch" ]; then why="$why; $name is for $its_arch, this is $arch"
    elif [ "$its_archive" = - ] && [ "$its_python" != "$python" ] && [ "$(version_of "python$its_python")" != "$its_python" ]; then
        why="$why; $name is for Python $its_python, this is ${python:-a machine without python3}"
        [ -z "$python" ] || why="$why (install python$its_python, or make the bundle with --python $python)"
    elif [ "${library%.*}" != "${its_library%.*}" ] || [ "${library##*.}" -lt "${its_library##*.}" ]; then
        why="$why; $name needs $its_library, this is ${library:-another library}"
    elif [ "$memory" -lt "$its_memory" ]; then
        why="$why; $name needs $its_memory KiB of memory, there are $memory"
        code=3
    elif [ "$free" -lt "$its_room" ]; then
        why="$why; $name needs $its_room KiB in $place, there are $free"
        code=5
    else
        fits=$name
        python3=python3
        [ "$its_python" = "$python" ] || python3=python$its_python
        archive=$its_archive
        program=$its_program
    fi
done <<'TARGETS'
@TARGETS@
TARGETS
[ -n "$fits" ] || refuse "the bundle is not for this machine: ${why#; }" "$code"
[ "$archive" != - ] || "$python3" -I -c 'import ensurepip, venv' 2>/dev/null ||
    refuse "this Python makes no virtual environments: install $python3-venv"

mkdir -p "$root" || refuse "$root cannot be made: choose a folder that can be written with --root" 2
stage=$(mktemp -d "$root/.first.XXXXXX") || refuse "$root cannot be written: choose another folder with --root" 2
trap 'rm -rf "$stage"' EXIT
trap 'exit 130' INT TERM
printf '#!/bin/sh\n' >"$stage/try"
chmod +x "$stage/try"
"$stage/try" 2>/dev/null || refuse "$root is mounted noexec: choose a folder on another file system with --root" 2

# Takes a file of so many bytes out of the bundle. Not by `tar -x`, which makes links and folders as it is told.
take() {
    mkdir -p "$stage/${3%/*}"
    tar -xOf "$bundle" "$3" | head -c "$2" >"$stage/$3"
    [ "$(sha256sum <"$stage/$3")" = "$1  -" ] ||
        refuse "$3 is another file than this script was made for: get the bundle again, and use none of this one"
}

while read -r sha256 bytes path; do
    case $path in wheels/* | "$archive") take "$sha256" "$bytes" "$path" ;; esac
done <<'FILES'
@FILES@
FILES

if [ "$archive" != - ]; then
    mkdir "$stage/own"
    # busybox's tar does not look by itself whether gzip packed it.
    { gzip -dc <"$stage/$archive" 2>/dev/null || cat "$stage/$archive"; } | tar -xf - -C "$stage/own" ||
        refuse "its Python cannot be unpacked"
    python3=$stage/own/$program
fi
"$python3" -I -m venv "$stage/venv" || refuse "no virtual environment can be made with $python3"
# What is used once is not compiled first.
PIP_CONFIG_FILE=/dev/null "$stage/venv/bin/python" -I -m pip install --no-compile --no-index --no-cache-dir --disable-pip-version-check \
    --quiet --only-binary=:all: --find-links "$stage/wheels" 'edgellm[bundle]'
EDGELLM_HOME="$stage/home" "$stage/venv/bin/python" -I -m edgellm bundle install "$bundle" --root "$root" --activate "$@"
