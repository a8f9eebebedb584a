#!/usr/bin/env bash
# The demo, which is also the tutorial: every command is printed before it runs.
#
#   sudo ./scripts/demo.sh         makes a QED image, puts a partition and ext4 with real files on it, closes it,
#                                  shows that it is clean, and compares every file after a second mount
#   sudo ./scripts/demo.sh IMAGE   shows what is on your own image; the image is opened read-only and never written.
#                                  Options of "imgfuse mount" may follow: --key-file FILE, --allow-backing DIR
#
# All set-up is done here: missing Debian packages, npm ci, the build.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
work=''
guests=()     # what is mounted from the disk, latest last
loop=''       # the loop device over the raw file
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
  local code=$? index
  set +e
  for ((index = ${#guests[@]} - 1; index >= 0; index--)); do umount "${guests[index]}"; done
  [ -z "$loop" ] || losetup -d "$loop"
  [ -z "$mounted" ] || imgfuse unmount "$mounted"
  # never rm -rf over something that is still mounted
  if [ -n "$work" ] && ! grep -qF " $work/" /proc/self/mountinfo; then rm -rf "$work"; fi
  [ "$code" -eq 0 ] || printf 'demo.sh: failed (exit code %s); what it had set up has been removed\n' "$code" >&2
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

attach_loop() {
  show losetup --find --show "$@"
  loop=$(losetup --find --show "$@")
  echo "$loop"
}

detach_loop() {
  run losetup -d "$loop"
  loop=''
}

mount_guest() {
  run mount "$@"
  guests+=("${@: -1}")
}

unmount_guest() {
  run umount "${guests[-1]}"
  unset 'guests[-1]'
}

# Offset and length in bytes of each partition of the loop device, one a line; none without a partition table. Partitions
# are attached by their offset, because not every kernel makes device nodes for the partitions of a loop device.
partitions() {
  sfdisk --json "$loop" 2>/dev/null | node -e '
    const text = require("fs").readFileSync(0, "utf8");
    const table = text === "" ? {} : JSON.parse(text).partitiontable;
    const sector = table.sectorsize ?? 512;
    for (const { start, size } of table.partitions ?? []) console.log(start * sector, size * sector);'
}

# ---- sudo ./scripts/demo.sh -----------------------------------------------------------------------------------------

main_job() {
  local image=$work/disk.qed tree=$root/node_modules offset
  say 'A QED image, empty'
  run imgfuse create -f qed "$image" 4G
  run imgfuse info "$image"

  say 'Mount it: its disk appears as a raw file'
  mount_image "$image"
  run ls -lh "$work/img"

  say 'A loop device makes a disk of the file: partition table, ext4'
  attach_loop "$work/img/disk.raw"
  printf 'label: gpt\nstart=2048, type=linux\n' >"$work/partitions"
  run cat "$work/partitions"
  printf '%s+ sfdisk --quiet %s <%s%s\n' "$bold" "$loop" "$work/partitions" "$plain"
  sfdisk --quiet "$loop" <"$work/partitions"
  run sfdisk --list "$loop"
  read -r offset _ < <(partitions)
  detach_loop
  attach_loop --offset "$offset" "$work/img/disk.raw"
  run mkfs.ext4 -q "$loop"
  mount_guest "$loop" "$work/guest"

  say "Copy a real directory tree: $(find "$tree" -type f | wc -l) files"
  run cp -a "$tree" "$work/guest/"
  run df -h "$work/guest"
  run imgfuse status "$work/img"

  say 'Unmount everything; the last command returns when the image is flushed, clean and unlocked'
  unmount_guest
  detach_loop
  unmount_image

  say 'The dirty bit is clear and the check is clean'
  run imgfuse info --output=json "$image"
  imgfuse info --output=json "$image" | grep -q '"dirty-flag": false' || die 'the dirty bit is set'
  run imgfuse check "$image"

  say 'Mount again and compare every file'
  mount_image "$image"
  attach_loop --offset "$offset" "$work/img/disk.raw"
  mount_guest "$loop" "$work/guest"
  run diff --recursive --no-dereference "$tree" "$work/guest/$(basename "$tree")"
  echo 'every file is the same'
  unmount_guest
  detach_loop
  unmount_image
  run imgfuse check "$image"
  say 'Done'
}

# ---- sudo ./scripts/demo.sh IMAGE -----------------------------------------------------------------------------------

show_image() {
  local image=$1 offset length part parts=()
  say "What $image is"
  run imgfuse info "$image"
  say 'Mount it read-only: the image file is never written'
  mount_image_read_only "$@"
  run ls -lh "$work/img"
  say 'Its partitions'
  attach_loop --read-only "$work/img/disk.raw"
  run sfdisk --list "$loop" || true
  mapfile -t parts < <(partitions)
  if [ ${#parts[@]} -eq 0 ]; then
    # no partition table: the whole disk may be one file system
    show_file_system
    detach_loop
  else
    detach_loop
    for part in "${parts[@]}"; do
      read -r offset length <<<"$part"
      attach_loop --read-only --offset "$offset" --sizelimit "$length" "$work/img/disk.raw"
      show_file_system
      detach_loop
    done
  fi
  say 'Unmount the image'
  unmount_image
  say 'Done'
}

# Mounts the file system on the loop device read-only, lists its root directory and unmounts it; says so where the kernel
# cannot.
show_file_system() {
  local type options=ro
  type=$(blkid -p -o value -s TYPE "$loop" || true)
  say "$loop holds: ${type:-nothing that blkid knows}"
  case $type in
    '' | swap | LVM2_member | crypto_LUKS | linux_raid_member) return ;;
    # replaying a journal would write: the image is read-only, and so is this look at it
    ext3 | ext4) options=ro,noload ;;
    xfs) options=ro,norecovery ;;
    btrfs) options=ro,rescue=nologreplay ;;
  esac
  if run mount -t "$type" -o "$options" "$loop" "$work/guest"; then
    guests+=("$work/guest")
    run ls -la "$work/guest"
    unmount_guest
  else
    echo "this kernel cannot mount it"
  fi
}

case ${1:-} in
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 0 ;;
  '')
    set_up
    main_job
    ;;
  *)
    [ -f "$1" ] || die "$1 is no file"
    image=$(readlink -f "$1")
    set_up "$1"
    show_image "$image" "${@:2}"
    ;;
esac
