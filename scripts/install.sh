#!/bin/sh
# Installs imgfuse from this checkout (run as root):
#
#   $PREFIX/lib/imgfuse                 the built package with its production dependencies
#   $PREFIX/bin/imgfuse                 the command
#   $PREFIX/share/man/man1/imgfuse.1    the manual page
#   $PREFIX/lib/systemd/system/imgfuse@.service    a mount as a service of systemd
#   $SBINDIR/umount.fuse.imgfuse        makes umount(8) wait for the clean close
#   $SBINDIR/mount.fuse.imgfuse         only where mount.fuse3 would not find $PREFIX/bin/imgfuse by itself: not for
#                                       PREFIX=/usr/local and /usr
#
# Variables: PREFIX (default /usr/local), SBINDIR (default /sbin: umount(8) and mount(8) look nowhere else; empty: neither
# of the helpers), DESTDIR (default empty: a staging directory in front of every path), NODE (default: the node in the PATH).
# It refuses to replace a program that serves a mount; --force does it all the same.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/install-common.sh"
parse_arguments "$@"

# before anything is written: half an installation helps nobody
if [ -z "$DESTDIR" ] && [ -n "$SBINDIR" ] && [ -d "$SBINDIR" ] && [ ! -w "$SBINDIR" ]; then
  die "$SBINDIR cannot be written: run this as root, or add SBINDIR= to do without the helpers of mount(8) and umount(8)"
fi
assert_unused 'installing over it'

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
if [ ! -f dist/cli.js ] || [ -n "$(find src -newer dist/cli.js -name '*.ts' -print -quit)" ]; then run npm run build; fi

run mkdir -p "$DESTDIR$lib" "$DESTDIR$PREFIX/bin" "$DESTDIR$PREFIX/share/man/man1" "$DESTDIR$PREFIX/lib/systemd/system"
run rm -rf "$DESTDIR$lib/dist" "$DESTDIR$lib/node_modules"
run mkdir "$DESTDIR$lib/dist"
run cp -R dist/cli.js dist/program "$DESTDIR$lib/dist/"
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
[ -d "$DESTDIR$lib/node_modules/koffi" ] || die "the dependencies are incomplete; run npm ci in $here first"
# The code that V8 compiles, for this Node; without it every start takes longer.
run "$NODE" scripts/bundle/code-cache.mjs "$DESTDIR$lib/dist/program" || echo "it will start without that code" >&2
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

if [ -n "$SBINDIR" ]; then
  run mkdir -p "$DESTDIR$SBINDIR"
  wrapper "$DESTDIR$SBINDIR/umount.fuse.imgfuse" "exec '$NODE' '$program' umount-helper \"\$@\""
  # mount(8) runs mount.fuse3, which runs "imgfuse" through /bin/sh with no PATH set; that finds /usr/local/bin and /usr/bin.
  case $PREFIX in
    /usr | /usr/local | /) remove "$DESTDIR$SBINDIR/mount.fuse.imgfuse" mount.fuse3 ;;
    *)
      wrapper "$DESTDIR$SBINDIR/mount.fuse.imgfuse" \
        "PATH='$PREFIX/bin':/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        'export PATH' \
        'exec mount.fuse3 "$@" -t fuse.imgfuse'
      ;;
  esac
else
  printf '%s\n' 'No helpers: umount(8) does not wait for the clean close, "imgfuse unmount" does.'
fi

printf '%s\n' "imgfuse is installed: $PREFIX/bin/imgfuse (scripts/uninstall.sh PREFIX=$PREFIX removes it)"
