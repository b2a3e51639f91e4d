# The basic calls, one after the other, each with what it must leave behind. $1 is the mount point.
# A step that fails ends the tour (bash -e); the last line says that it came to its end.
cd "$1"
ok() { echo "ok $*"; }
fails() { # fails WORD COMMAND...: it must fail with that message
  local word=$1 out; shift
  if out=$(LC_ALL=C "$@" 2>&1); then echo "succeeded, but should not: $*"; exit 1; fi
  case "$out" in *"$word"*) ;; *) echo "$*: \`$out' instead of \`$word'"; exit 1 ;; esac
}
same() { # same WHAT EXPECTED
  [ "$1" = "$2" ] || { echo "\`$1' instead of \`$2' at line ${BASH_LINENO[0]}"; exit 1; }
}

: >empty; same "$(stat -c '%s %F' empty)" "0 regular empty file"; ok create empty
printf hello >small; same "$(cat small)" hello; same "$(stat -c %s small)" 5; ok write and read back
head -c 5000000 /dev/zero | tr '\0' x >large; same "$(sha256sum <large)" "$(head -c 5000000 /dev/zero | tr '\0' x | sha256sum)"; ok five megabytes
printf ' world' >>small; same "$(cat small)" "hello world"; ok append
for i in 1 2 3 4 5 6 7 8; do (for j in $(seq 25); do echo "line $i $j" >>appended; done) & done; wait
same "$(wc -l <appended)" 200; same "$(sort -u appended | wc -l)" 200; ok appends side by side
dd if=/dev/zero of=holes bs=1 count=1 seek=3000000 status=none; same "$(stat -c %s holes)" 3000001
same "$(head -c 3000000 holes | tr -d '\0' | wc -c)" 0; ok a hole reads as zeros
printf abcdef | dd of=small bs=1 seek=2 conv=notrunc status=none; same "$(cat small)" "heabcdefrld"; ok overwrite in the middle
truncate -s 4 small; same "$(cat small)" heab; truncate -s 8 small; same "$(od -An -c small | tr -d ' \n')" 'heab\0\0\0\0'; ok truncate down and up
: >small; same "$(stat -c %s small)" 0; ok open with O_TRUNC

mkdir directory; same "$(stat -c %F directory)" directory; same "$(stat -c %h directory)" 2; ok mkdir
mkdir directory/inner; same "$(stat -c %h directory)" 3; ok a directory counts its directories
fails "File exists" mkdir directory; fails "No such file" cat missing; fails "Not a directory" cat small/x; ok errors of lookup
touch directory/a directory/b directory/.c; same "$(ls -A directory | tr '\n' ' ')" ".c a b inner "; ok readdir
fails "not empty" rmdir directory; ok rmdir of what is not empty
rmdir directory/inner; same "$(stat -c %h directory)" 2; ok rmdir
for i in $(seq 300); do : >"directory/entry-$i"; done; same "$(ls directory | wc -l)" 302; rm directory/entry-*; same "$(ls directory | wc -l)" 2; ok many entries

echo one >one; echo two >two; mv one two; same "$(cat two)" one; [ ! -e one ]; ok rename over a file
mv two directory/moved; same "$(cat directory/moved)" one; ok rename into another directory
mkdir away; mv directory away/renamed; same "$(cat away/renamed/moved)" one; ok rename a directory
fails "subdirectory of itself" mv away away/renamed/below; ok no directory into itself
mkdir full; touch full/x; fails "not empty" mv -T away full; ok no rename over a full directory
mv away/renamed directory; rmdir away; rm -r full; ok and back
echo held >held; exec 5<held; echo other >other; mv other held; same "$(cat <&5)" held; same "$(cat held)" other; exec 5<&-; ok an open file outlives a rename over it

ln held hard; same "$(stat -c %h held)" 2; same "$(stat -c %i held)" "$(stat -c %i hard)"; echo changed >hard; same "$(cat held)" changed; ok hard link
rm held; same "$(cat hard)" changed; same "$(stat -c %h hard)" 1; ok one name less
ln -s hard soft; same "$(readlink soft)" hard; same "$(cat soft)" changed; ln -s nowhere broken; fails "No such file" cat broken; ok symbolic links
ln -s loop-a loop-b; ln -s loop-b loop-a; fails "Too many levels" cat loop-a; ok a loop of links

chmod 4750 hard; same "$(stat -c %a hard)" 4750; echo more >>hard; chmod 600 hard; same "$(stat -c %a hard)" 600; ok chmod
chown 12:34 hard; same "$(stat -c %u:%g hard)" 12:34; ok chown
touch -d '2001-02-03 04:05:06.123456789 UTC' hard; same "$(stat -c %.9Y hard)" 981173106.123456789; ok times to the nanosecond
umask 027; touch masked; mkdir masked-directory; same "$(stat -c %a masked masked-directory | tr '\n' ' ')" "640 750 "; umask 022; ok umask
mkdir inherit; chgrp 34 inherit; chmod 2775 inherit; mkdir inherit/d; touch inherit/f; same "$(stat -c %g inherit/d inherit/f | tr '\n' ' ')" "34 34 "; same "$(stat -c %a inherit/d)" 2755; ok setgid is inherited
before=$(stat -c %.9Z directory); touch directory/newer; [ "$(stat -c %.9Z directory)" != "$before" ]; ok an entry changes its directory\'s time

setfattr -n user.colour -v blue hard; same "$(getfattr --only-values -n user.colour hard)" blue
setfattr -n user.shape -v round hard; same "$(getfattr -d hard 2>/dev/null | grep -c '^user\.')" 2
setfattr -x user.colour hard; fails "No such attribute" getfattr -n user.colour hard; ok extended attributes

exec 6<>unlinked; echo content >&6; rm unlinked; [ ! -e unlinked ]; same "$(cat /proc/self/fd/6)" content; exec 6>&-; ok an open file outlives its name
mkfifo pipe; same "$(stat -c %F pipe)" fifo; (echo through >pipe &); same "$(cat pipe)" through; ok a fifo
name=$(printf 'n%.0s' $(seq 255)); touch "$name"; fails "name too long" touch "${name}n"; rm "$name"; ok names of 255 bytes
touch -- $'sp ace\nnewline' 'ünïcödé'; same "$(find . -maxdepth 1 -name $'sp ace\nnewline' -printf x)" x; rm $'sp ace\nnewline' 'ünïcödé'; ok strange names
(flock -n 7 || exit 1; flock -n hard true && exit 1 || exit 0) 7<hard; ok flock shuts others out
fallocate -l 200000 allocated; same "$(stat -c %s allocated)" 200000; same "$(tr -d '\0' <allocated | wc -c)" 0; ok fallocate
[ "$(stat -f -c %b .)" -gt 0 ]; [ "$(stat -f -c %a .)" -gt 0 ]; same "$(stat -f -c %l .)" 255; df . >/dev/null; ok statfs
sync -d large; sync -f large; ok fsync
cp large copied; cmp large copied; ok copy_file_range or its fallback
rm -rf ./*; same "$(ls -A)" ""; ok nothing is left
cd /
echo "tour done"
