#!/usr/bin/env bash
# Runs a program of the arm64 root ($ARM64_ROOT) through qemu-user: enter.sh COMMAND [ARGUMENT...]
#
# What starts arm64 programs is registered in a user namespace, so that programs that start programs work, the machine's own
# table stays as it is, and any user may do it. Inside, /src is this checkout (read only) and /tmp the machine's.
# QEMU_CPU names the processor, as in `qemu-aarch64 -cpu help`; qemu's default has every feature that qemu knows.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ ${1:-} != --inside ]]; then
    need unshare util-linux
    need qemu-aarch64 qemu-user
    [[ -e $root/usr/bin/env ]] || fail "$root is no arm64 root" "make it: $here/root.sh"
    exec unshare --user --map-root-user --mount "$here/enter.sh" --inside "$@"
fi
shift

table=/proc/sys/fs/binfmt_misc
# A little-endian 64-bit ELF file of machine 183 (AArch64), of type 2 or 3 (executable, position independent).
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
# P: programs see their own argv[0]. F: qemu is opened now, where it is still to be seen.
register() {
    mount -t binfmt_misc none $table && echo ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64):PF" >$table/register
}
if ! register 2>/dev/null && ! "$root/usr/bin/true" 2>/dev/null; then
    fail "Linux $(uname -r) registers no arm64 programs in a user namespace; 6.7 and newer do" \
        "register them for the whole machine: apt-get install qemu-user-binfmt"
fi
for folder in dev proc sys tmp; do
    mount --rbind "/$folder" "$root/$folder"
done
# Names, certificates and pip's settings are the machine's: the package index that is reached there is reached here.
for path in /etc/hosts /etc/resolv.conf /etc/pip.conf /etc/ssl/certs; do
    [[ -e $path ]] || continue
    if [[ -d $path ]]; then mkdir -p "$root$path"; else touch "$root$path"; fi
    mount --rbind "$path" "$root$path"
done
mkdir -p "$root/src"
mount --bind "$checkout" "$root/src"
mount -o remount,bind,ro "$root/src"
exec chroot "$root" /usr/bin/env --chdir=/src HOME=/root PATH=/opt/venv/bin:/usr/bin:/bin LANG=C.UTF-8 "$@"
