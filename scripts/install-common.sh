# shellcheck shell=sh
# What install.sh and uninstall.sh have in common: their arguments, and what a mount that is being served would lose.

PREFIX=${PREFIX:-/usr/local}
# empty: no helpers
SBINDIR=${SBINDIR-/sbin}
DESTDIR=${DESTDIR:-}
force=

run() {
  printf '+ %s\n' "$*"
  "$@"
}

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# PREFIX=/x and --prefix=/x mean the same
parse_arguments() {
  for argument in "$@"; do
    case $argument in
      PREFIX=*) PREFIX=${argument#PREFIX=} ;;
      --prefix=*) PREFIX=${argument#--prefix=} ;;
      DESTDIR=*) DESTDIR=${argument#DESTDIR=} ;;
      SBINDIR=*) SBINDIR=${argument#SBINDIR=} ;;
      --force) force=yes ;;
      *) die "there is no argument $argument; it takes PREFIX=DIR, SBINDIR=DIR, DESTDIR=DIR and --force" ;;
    esac
  done
  case $PREFIX in /*) ;; *) die "PREFIX must be an absolute path (got $PREFIX)" ;; esac
  case $PREFIX$SBINDIR in
    *[\'\"\\\$\`\&\|[:space:]]*) die "PREFIX and SBINDIR may have no spaces, quotes, \\, \$, & and | in them" ;;
  esac
  case $SBINDIR in '' | /*) ;; *) die "SBINDIR must be an absolute path, or empty (got $SBINDIR)" ;; esac
}

# remove FILE TEXT: only what install.sh has written, and with this text in it
remove() {
  if [ -f "$1" ] && grep -qF 'Installed by scripts/install.sh of imgfuse' "$1" && grep -qF "$2" "$1"; then run rm -f "$1"; fi
}

# The mounts that are served from $PREFIX/lib/imgfuse, one a line. Their processes have a library of it in memory, and load
# more of the program when they hand the image over or end.
served_from_here() {
  [ -d "$PREFIX/lib/imgfuse" ] || return 0
  library=$(readlink -f "$PREFIX/lib/imgfuse")
  for process in /proc/[0-9]*; do
    grep -qsF " $library/" "$process/maps" || continue
    # its title is "imgfuse mount IMAGE MOUNTPOINT"
    printf '%s (process %s)\n' "$(tr '\0' '\n' 2>/dev/null <"$process/cmdline" | head -n 1)" "${process#/proc/}"
  done
}

# assert_unused WHAT: refuses to pull the program away from under a mount
assert_unused() {
  [ -z "$DESTDIR" ] && [ -z "$force" ] || return 0
  served=$(served_from_here)
  [ -z "$served" ] || die "$1 would take the program from under this mount; unmount it first (imgfuse unmount DIR), or add --force:
$served"
}
