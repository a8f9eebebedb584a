#!/bin/sh
# Removes exactly what scripts/install.sh has put in place; PREFIX, SBINDIR and DESTDIR as there. It refuses while a mount is
# served from there, and --force does it all the same.
set -eu

. "$(cd "$(dirname "$0")" && pwd)/install-common.sh"
parse_arguments "$@"
assert_unused 'removing it'

# of several installations the last one has the helpers
remove "$DESTDIR$PREFIX/bin/imgfuse" "'$PREFIX/lib/imgfuse/dist/cli.js'"
if [ -n "$SBINDIR" ]; then
  remove "$DESTDIR$SBINDIR/umount.fuse.imgfuse" "'$PREFIX/lib/imgfuse/dist/cli.js'"
  remove "$DESTDIR$SBINDIR/mount.fuse.imgfuse" "'$PREFIX/bin'"
fi
run rm -f "$DESTDIR$PREFIX/share/man/man1/imgfuse.1" "$DESTDIR$PREFIX/lib/systemd/system/imgfuse@.service"
run rm -rf "$DESTDIR$PREFIX/lib/imgfuse"
if [ -z "$DESTDIR" ] && [ ! -e /sbin/umount.fuse.imgfuse ] && grep -q ' - fuse\.imgfuse ' /proc/self/mountinfo; then
  printf '%s\n' 'There are mounts of another imgfuse: end them with its "imgfuse unmount", because umount(8) does not wait for the clean close any more.'
fi
printf 'imgfuse is removed from %s\n' "$DESTDIR$PREFIX"
