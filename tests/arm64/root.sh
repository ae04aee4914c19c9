#!/usr/bin/env bash
# Unpacks an arm64 Debian with Python into $ARM64_ROOT, unless one is there. As any user; no package script runs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
suite=trixie # Python 3.13
# The one that this machine's apt has that suite from; where it has none, mmdebstrap chooses.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" 2>/dev/null | head -n 1 || true)}
packages=bash,coreutils,dash,findutils,git,grep,libstdc++6,procps,python3,python3-venv,sed

[[ ! -e $root/usr/bin/python3 ]] || exit 0
[[ ! -e $root ]] || fail "$root is there, and is no arm64 root" "remove it, or name another folder in ARM64_ROOT"
need mmdebstrap mmdebstrap
need unshare util-linux
echo "Unpacking Debian $suite for arm64${mirror:+ from $mirror} into $root"
rm -rf "$root.part"
mkdir -p "$(dirname "$root")"
# Nothing is configured, so nothing is emulated: Python and git run as they are unpacked.
unshare --user --map-root-user --mount mmdebstrap --quiet --mode=root --skip=check/qemu,chroot/mount \
    --variant=extract --architectures=arm64 --include="$packages" "$suite" "$root.part" ${mirror:+"$mirror"}
mv "$root.part" "$root"
