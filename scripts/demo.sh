#!/usr/bin/env bash
# The demo, which is also the tutorial: every command is printed before it runs.
#
#   sudo ./scripts/demo.sh         makes a QED image, puts a partition and ext4 with real files on it, closes it,
#                                  shows that it is clean, and compares every file when it is attached again
#   sudo ./scripts/demo.sh -f FMT  the same with an image in another format: qcow2, vdi, vmdk, vpc (vhd), vhdx, parallels
#   sudo ./scripts/demo.sh IMAGE   shows what is on your own image; the image is opened read-only and never written.
#                                  Options of "imgfuse mount" may follow: --key-file FILE, --allow-backing DIR
#
# All set-up is done here: missing Debian packages, npm ci, the build.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
work=''
attached=''   # where an image is attached
mounted=''    # the mountpoint of the image

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi

say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }

# show WORD...: prints a command as it could be typed
show() {
  local word line='+'
  for word in "$@"; do
    case $word in *[!A-Za-z0-9_./:=,@%+-]* | '') line+=" $(printf %q "$word")" ;; *) line+=" $word" ;; esac
  done
  printf '%s%s%s\n' "$bold" "$line" "$plain"
}

run() {
  show "$@"
  "$@"
}

# The command as an installed imgfuse would be called.
imgfuse() { node "$root/dist/cli.js" "$@"; }

die() {
  printf 'demo.sh: %s\n' "$*" >&2
  exit 1
}

# Undoes what is still in place, whatever failed.
clean_up() {
  local code=$?
  set +e
  [ -z "$attached" ] || imgfuse detach "$attached"
  [ -z "$mounted" ] || imgfuse unmount "$mounted"
  local rest='what it had set up has been removed'
  # never rm -rf over something that is still mounted
  if [ -n "$work" ] && grep -qF " $work/" /proc/self/mountinfo; then
    rest="$work stays, because something of it is still mounted"
  elif [ -n "$work" ]; then
    rm -rf "$work"
  fi
  [ "$code" -eq 0 ] || printf 'demo.sh: failed (exit code %s); %s\n' "$code" "$rest" >&2
  exit "$code"
}

# ---- set-up ---------------------------------------------------------------------------------------------------------

# packages COMMAND=PACKAGE...: installs the packages of the commands that are missing
packages() {
  local pair missing=()
  for pair in "$@"; do command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "please install: ${missing[*]}"
  run apt-get update -q
  run env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

set_up() {
  [ "$(id -u)" -eq 0 ] || die "loop devices and mounting need root: sudo ./scripts/demo.sh${1:+ $1}"
  # sudo resets PATH: the node of the user who called it is looked for, too
  if ! command -v node >/dev/null && [ -n "${SUDO_USER:-}" ]; then
    local user_node
    user_node=$(su - "$SUDO_USER" -c 'command -v node' 2>/dev/null || true)
    [ -z "$user_node" ] || PATH=$(dirname "$user_node"):$PATH
  fi
  command -v node >/dev/null || die 'Node.js 20.19 or later is needed: https://nodejs.org'
  say 'Set-up: packages, dependencies, build'
  packages sfdisk=fdisk mkfs.ext4=e2fsprogs fusermount3=fuse3 losetup=mount
  [ -e /dev/fuse ] || run modprobe fuse
  [ -e /dev/loop-control ] || run modprobe loop
  cd "$root"
  [ -d node_modules ] || run npm ci --no-audit --no-fund
  if [ ! -f dist/cli.js ] || [ -n "$(find src -newer dist/cli.js -name '*.ts' -print -quit)" ]; then run npm run build; fi
  work=$(mktemp -d "${TMPDIR:-/tmp}/imgfuse-demo-XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  mkdir "$work/img" "$work/guest"
}

# ---- the pieces -----------------------------------------------------------------------------------------------------

mount_image() {
  run imgfuse mount "$@" "$work/img"
  mounted=$work/img
}

# mount_image_read_only IMAGE OPTION...: options stand behind the names, as in imgfuse mount IMAGE DIR -o ro
mount_image_read_only() {
  run imgfuse mount "$1" "$work/img" -o ro "${@:2}"
  mounted=$work/img
}

unmount_image() {
  run imgfuse unmount "$work/img"
  mounted=''
}

# attach_image [OPTION...] IMAGE
attach_image() {
  run imgfuse attach "$@" "$work/guest" || return
  attached=$work/guest
}

detach_image() {
  run imgfuse detach "$work/guest"
  attached=''
}

# ---- sudo ./scripts/demo.sh [-f FMT] --------------------------------------------------------------------------------

main_job() {
  local format=$1 image=$work/disk.$1 tree=$root/node_modules
  say "A $format image, empty"
  run imgfuse create -f "$format" "$image" 4G
  run imgfuse info "$image"

  say 'Mount it: its disk appears as a raw file'
  mount_image "$image"
  run ls -lh "$work/img"

  say 'A partition table and ext4, as on any disk'
  printf 'label: gpt\nstart=2048, type=linux\n' >"$work/partitions"
  run cat "$work/partitions"
  printf '%s+ sfdisk --quiet %s <%s%s\n' "$bold" "$work/img/disk.raw" "$work/partitions" "$plain"
  sfdisk --quiet "$work/img/disk.raw" <"$work/partitions"
  run sfdisk --list "$work/img/disk.raw"
  run ls -lh "$work/img/partitions"
  run mkfs.ext4 -q "$work/img/partitions/1.raw"
  say 'The last command returns when the image is flushed, clean and unlocked'
  unmount_image

  say "Now the files of the guest, in one step: copy a real directory tree, $(find "$tree" -type f | wc -l) files"
  attach_image "$image"
  run cp -a "$tree" "$work/guest/"
  run df -h "$work/guest"
  run imgfuse status "$image"
  detach_image

  say 'The dirty bit is clear and the check is clean'
  run imgfuse info --output=json "$image"
  imgfuse info --output=json "$image" | grep -q '"dirty-flag": false' || die 'the dirty bit is set'
  run imgfuse check "$image"

  say 'Compare every file: a command in the guest, which is detached when that ends'
  run imgfuse attach --read-only "$image" -- diff --recursive --no-dereference "$tree" "$(basename "$tree")"
  echo 'every file is the same'
  run imgfuse check "$image"
  say 'Done'
}

# ---- sudo ./scripts/demo.sh IMAGE -----------------------------------------------------------------------------------

show_image() {
  local image=$1
  say "What $image is"
  run imgfuse info "$image"
  say 'Mount it read-only: the image file is never written'
  mount_image_read_only "$@"
  run ls -lhR "$work/img"
  say 'Its partitions'
  run sfdisk --list "$work/img/disk.raw" || true
  run imgfuse status "$work/img"
  unmount_image
  say 'The files in it, read-only: a journal that was not replayed stays as it is'
  if attach_image --read-only --partition all "${@:2}" "$image"; then
    for directory in "$work/guest" "$work"/guest/p*; do
      [ ! -d "$directory" ] || run ls -la "$directory"
    done
    detach_image
  else
    echo 'there is no file system that can be mounted as it is'
  fi
  say 'Done'
}

case ${1:-} in
  -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 0 ;;
  '')
    set_up
    main_job qed
    ;;
  -f)
    case ${2:-} in
      qed | qcow2 | vdi | vmdk | vpc | vhd | vhdx | parallels) ;;
      *) die '-f is followed by qed, qcow2, vdi, vmdk, vpc, vhd, vhdx or parallels' ;;
    esac
    set_up
    main_job "$2"
    ;;
  *)
    [ -f "$1" ] || die "$1 is no file"
    image=$(readlink -f "$1")
    set_up "$1"
    show_image "$image" "${@:2}"
    ;;
esac
