#!/bin/sh
# Installs imgfuse from this checkout (run as root):
#
#   $PREFIX/lib/imgfuse                 the built package with its production dependencies
#   $PREFIX/bin/imgfuse                 the command
#   $PREFIX/share/man/man1/imgfuse.1    the manual page
#   $PREFIX/lib/systemd/system/imgfuse@.service    a mount as a service of systemd
#   $SBINDIR/umount.fuse.imgfuse        makes umount(8) wait for the clean close
#   $SBINDIR/mount.fuse.imgfuse         only where mount.fuse3 would not find $PREFIX/bin/imgfuse by itself
#
# Variables: PREFIX (default /usr/local), SBINDIR (default /sbin: umount(8) and mount(8) look nowhere else),
# DESTDIR (default empty: a staging directory in front of every path), NODE (default: the node in the PATH).
set -eu

PREFIX=${PREFIX:-/usr/local}
SBINDIR=${SBINDIR:-/sbin}
DESTDIR=${DESTDIR:-}
here=$(cd "$(dirname "$0")/.." && pwd)

run() {
  printf '+ %s\n' "$*"
  "$@"
}

die() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}

# PREFIX=/x and --prefix=/x mean the same
for argument in "$@"; do
  case $argument in
    PREFIX=*) PREFIX=${argument#PREFIX=} ;;
    --prefix=*) PREFIX=${argument#--prefix=} ;;
    DESTDIR=*) DESTDIR=${argument#DESTDIR=} ;;
    SBINDIR=*) SBINDIR=${argument#SBINDIR=} ;;
    *) die "there is no argument $argument; it takes PREFIX=, SBINDIR= and DESTDIR=" ;;
  esac
done
case $PREFIX in /*) ;; *) die "PREFIX must be an absolute path (got $PREFIX)" ;; esac

# The wrapper names node by its absolute path: mount(8) clears PATH, and an nvm node is in nobody else's PATH.
NODE=${NODE:-$(command -v node || true)}
[ -n "$NODE" ] || die "node is not in the PATH; install Node.js 20.19 or later, or set NODE=/path/to/node"
NODE=$(readlink -f "$NODE")
"$NODE" -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
  die "$NODE is too old; imgfuse needs Node.js 20.19 or later"

lib=$PREFIX/lib/imgfuse
program=$lib/dist/cli.js

cd "$here"
[ -d node_modules ] || run npm ci --no-audit --no-fund
[ -f dist/cli.js ] || run npm run build

run mkdir -p "$DESTDIR$lib" "$DESTDIR$PREFIX/bin" "$DESTDIR$PREFIX/share/man/man1" "$DESTDIR$SBINDIR" \
  "$DESTDIR$PREFIX/lib/systemd/system"
run rm -rf "$DESTDIR$lib/dist" "$DESTDIR$lib/node_modules"
run cp -R dist "$DESTDIR$lib/dist"
run cp package.json LICENSE "$DESTDIR$lib/"
# The production dependencies as npm ci put them here: installing needs no network and runs no script of a package.
npm ls --omit=dev --all --parseable 2>/dev/null | while read -r package; do
  name=${package#"$here/"}
  case $name in node_modules/*) ;; *) continue ;; esac
  # what is nested in a package has come along with it
  [ ! -e "$DESTDIR$lib/$name" ] || continue
  mkdir -p "$DESTDIR$lib/$(dirname "$name")"
  run cp -R "$package" "$DESTDIR$lib/$name"
done
[ -d "$DESTDIR$lib/node_modules/yargs" ] || die "the dependencies are incomplete; run npm ci in $here first"
run install -m 644 scripts/man/imgfuse.1 "$DESTDIR$PREFIX/share/man/man1/imgfuse.1"
unit=$DESTDIR$PREFIX/lib/systemd/system/imgfuse@.service
printf '+ write %s\n' "$unit"
sed "s|/usr/local/bin/imgfuse|$PREFIX/bin/imgfuse|" 'scripts/imgfuse@.service' >"$unit"
chmod 644 "$unit"

# wrapper FILE LINE...: an executable shell script of these lines
wrapper() {
  file=$1
  shift
  printf '+ write %s\n' "$file"
  { printf '#!/bin/sh\n# Installed by scripts/install.sh of imgfuse.\n' && printf '%s\n' "$@"; } >"$file"
  chmod 755 "$file"
}

wrapper "$DESTDIR$PREFIX/bin/imgfuse" "exec '$NODE' '$program' \"\$@\""
wrapper "$DESTDIR$SBINDIR/umount.fuse.imgfuse" "exec '$NODE' '$program' umount-helper \"\$@\""

# mount(8) runs mount.fuse3, which runs "imgfuse" through /bin/sh with no PATH set; that finds /usr/local/bin and /usr/bin.
case $PREFIX in
  /usr | /usr/local | /) run rm -f "$DESTDIR$SBINDIR/mount.fuse.imgfuse" ;;
  *)
    wrapper "$DESTDIR$SBINDIR/mount.fuse.imgfuse" \
      "PATH='$PREFIX/bin':/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
      'export PATH' \
      'exec mount.fuse3 "$@" -t fuse.imgfuse'
    ;;
esac

printf '%s\n' "imgfuse is installed: $PREFIX/bin/imgfuse (scripts/uninstall.sh PREFIX=$PREFIX removes it)"
