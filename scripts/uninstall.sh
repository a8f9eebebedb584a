#!/bin/sh
# Removes exactly what scripts/install.sh has put in place; PREFIX, SBINDIR and DESTDIR as there.
set -eu

PREFIX=${PREFIX:-/usr/local}
SBINDIR=${SBINDIR:-/sbin}
DESTDIR=${DESTDIR:-}

run() {
  printf '+ %s\n' "$*"
  "$@"
}

for argument in "$@"; do
  case $argument in
    PREFIX=*) PREFIX=${argument#PREFIX=} ;;
    --prefix=*) PREFIX=${argument#--prefix=} ;;
    DESTDIR=*) DESTDIR=${argument#DESTDIR=} ;;
    SBINDIR=*) SBINDIR=${argument#SBINDIR=} ;;
    *)
      printf 'uninstall.sh: there is no argument %s; it takes PREFIX=, SBINDIR= and DESTDIR=\n' "$argument" >&2
      exit 1
      ;;
  esac
done

# A running mount has its code in memory, but its umount needs the helper.
if [ -z "$DESTDIR" ] && grep -q ' - fuse\.imgfuse ' /proc/self/mountinfo; then
  printf 'uninstall.sh: imgfuse is still mounted somewhere; "imgfuse status" lists it, unmount it first\n' >&2
  exit 1
fi

# remove FILE: only when it is ours
remove() {
  if [ -f "$1" ] && grep -q 'Installed by scripts/install.sh of imgfuse' "$1"; then run rm -f "$1"; fi
}

remove "$DESTDIR$PREFIX/bin/imgfuse"
remove "$DESTDIR$SBINDIR/umount.fuse.imgfuse"
remove "$DESTDIR$SBINDIR/mount.fuse.imgfuse"
run rm -f "$DESTDIR$PREFIX/share/man/man1/imgfuse.1" "$DESTDIR$PREFIX/lib/systemd/system/imgfuse@.service"
run rm -rf "$DESTDIR$PREFIX/lib/imgfuse"
printf 'imgfuse is removed from %s\n' "$DESTDIR$PREFIX"
