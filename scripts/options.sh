# The options of a script that sources this with $usage set: each line "  --name N  ..." of it is an option with a value, which goes
# into $name, and "  --name  ..." one without, which makes $name yes. N and S are whole numbers. --help prints the usage and ends
# with 0; everything else that it does not know, a missing value and a value that is no number end with the usage and 2.
# shellcheck shell=sh disable=SC2154

refuse() {
  printf '%s\n%s\n' "$1" "$usage" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --help) printf '%s\n' "$usage" && exit 0 ;;
    --*[!a-z-]* | [!-]* | -[!-]* | '') refuse "there is no option '$1'" ;;
  esac
  # the rest of the option's line
  line=$(printf '%s\n' "$usage" | sed -n "s/^  $1 //p")
  case $line in
    '') refuse "there is no option '$1'" ;;
    [A-Z]*)
      [ $# -gt 1 ] || refuse "$1 needs a value"
      case $line in [NS]\ *) case $2 in *[!0-9]* | '') refuse "$1 needs a whole number, and '$2' is none" ;; esac ;; esac
      eval "${1#--}=\$2"
      shift
      ;;
    *) eval "${1#--}=yes" ;;
  esac
  shift
done
