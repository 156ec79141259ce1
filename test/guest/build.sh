#!/bin/bash
# Builds the Linux test guest: a kernel and what it boots from. README.md describes what is in them.
#
#   test/guest/build.sh            build what is not in the cache
#   test/guest/build.sh --install  the same, and install missing Debian packages first (needs root)
#   test/guest/build.sh --print    only look: exit status 3 if something is not in the cache
#
# Standard output has five lines, and nothing else:
#   kernel=PATH      the ELF file, vmlinux
#   bzimage=PATH     the same kernel
#   modules=PATH     a folder with its modules in lib/modules/VERSION
#   initramfs=PATH
#   disk=PATH        an image with an ext4 root file system; read-only for everybody, so copy it to write to it
# The cache is ${TSVMM_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/tsvmm}/guest; each artefact lies in a
# folder named by a hash of all it is made from, so a folder that exists is complete and right.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TSVMM_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:?HOME or TSVMM_CACHE_DIR must be set}/.cache}/tsvmm}/guest

source_package=linux-source-6.1
# What each half needs. gcc is installed without its recommendations, so its headers are named.
kernel_packages=("$source_package" gcc libc6-dev make patch flex bison bc libelf-dev xz-utils kmod)
root_packages=(busybox-static socat libc6 cpio e2fsprogs gcc libc6-dev linux-libc-dev binutils)
# Of those, the ones whose contents end up in the root file system.
copied_packages=(busybox-static socat libc6)

say() { printf '%s\n' "guest: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# ---- what the cache's keys are made of ----

# The version that is installed, or would be. A hit in the cache then needs no package at all.
package_version() {
  local version
  version=$(dpkg-query -W -f='${Version}' "$1" 2>/dev/null || true)
  if [ -z "$version" ]; then
    version=$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p')
  fi
  printf '%s=%s\n' "$1" "$version"
}

hash_of() { sha256sum | cut -c 1-16; }

# The functions that build are hashed as text: a change of theirs is a change of the recipe.
kernel_key() {
  {
    package_version "$source_package"
    cat "$here/guest.config" "$here"/*.patch "$here/lz4-store.c"
    declare -f configure_kernel build_kernel install_modules
  } | hash_of
}

root_key() {
  local package
  {
    for package in "${copied_packages[@]}"; do package_version "$package"; done
    cat "$here"/{mini.h,init.c,vsock-tool.c,disk-tool.c}
    declare -f compile make_stubs build_root build_disk
  } | hash_of
}

# ---- packages ----

missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s\n' "$package"
  done | sort -u
}

require_packages() {
  local missing
  command -v dpkg-query >/dev/null || die "this script wants a Debian system: the kernel source and the guest's programs are Debian packages"
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! $install; then
    die "missing packages: ${missing[*]}
guest: install them with: apt-get install --no-install-recommends ${missing[*]}
guest: or let this script do it: $0 --install"
  fi
  say "installing ${missing[*]}"
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

# ---- the kernel ----

configure_kernel() { # in the source tree
  make tinyconfig
  ./scripts/kconfig/merge_config.sh -m .config "$here/guest.config"
  make olddefconfig
  # kconfig drops in silence what it cannot switch on.
  local line lost=0
  while IFS= read -r line; do
    grep -qxF -- "$line" .config || { printf 'lost from guest.config: %s\n' "$line" && lost=1; }
  done < <(grep -E '^CONFIG_[A-Z0-9_]+=' "$here/guest.config")
  return $lost
}

build_kernel() { # result folder
  local out=$1 tree=$work/linux-source-6.1 log=$work/log patch_file status=0
  # Nobody's name, machine or clock in the image.
  export KBUILD_BUILD_USER=tsvmm KBUILD_BUILD_HOST=test KBUILD_BUILD_TIMESTAMP='1970-01-01 00:00:00 UTC'
  say "kernel: unpacking the source"
  tar -C "$work" -xf /usr/src/linux-source-6.1.tar.xz
  for patch_file in "$here"/*.patch; do
    patch -d "$tree" -p1 <"$patch_file" >>"$log" || fail_with_log "$log" "kernel: $(basename "$patch_file") does not apply"
  done
  (cd "$tree" && configure_kernel) >>"$log" 2>&1 || fail_with_log "$log" "kernel: the configuration failed"
  gcc -std=gnu11 -O2 -Wall -Wextra -Werror -o "$work/lz4-store" "$here/lz4-store.c"
  # nice: somebody may be working on this machine. setsid: a process group that can be ended whole.
  setsid nice -n 10 make -C "$tree" -j"$(nproc)" LZ4="$work/lz4-store" bzImage modules >>"$log" 2>&1 9>&- &
  builder=$!
  watch_build "$builder" "$log"
  wait "$builder" || status=$?
  builder=
  [ $status -eq 0 ] || fail_with_log "$log" "kernel: the build failed"
  strip -o "$out/vmlinux" "$tree/vmlinux"
  cp "$tree/arch/x86/boot/bzImage" "$out/bzImage"
  cp "$tree/System.map" "$out/System.map"
  cp "$tree/.config" "$out/config"
  install_modules "$tree" "$out/modules" >>"$log" 2>&1 || fail_with_log "$log" "kernel: its modules cannot be installed"
}

# As distributions install them. Those of the network are compressed, so that there are both kinds; not all, since the kernel
# would inflate them one emulated instruction at a time.
install_modules() { # source-tree result-folder
  local folder
  make -C "$1" CONFIG_MODULE_COMPRESS_GZIP= INSTALL_MOD_PATH="$2" INSTALL_MOD_STRIP=1 modules_install || return
  folder=$(echo "$2"/lib/modules/*)
  rm -f "$folder"/{build,source,modules.*.bin}
  gzip -n -r "$folder/kernel/net" || return
  # Debian's depmod cannot read what gzip compressed, so it came first.
  sed -i 's,\(kernel/net/[^: ]*\.ko\),\1.gz,g' "$folder/modules.dep"
}

# About how many lines the build prints; only for showing progress.
kernel_steps=1500

watch_build() { # pid log
  local started=$SECONDS last=-10 now steps
  while kill -0 "$1" 2>/dev/null; do
    now=$((SECONDS - started))
    if [ -t 2 ] || [ $((now - last)) -ge 10 ]; then
      last=$now
      steps=$(grep -cE '^  [A-Z]' "$2" || true)
      if [ -t 2 ]; then
        printf '\rguest: kernel: %d of about %d steps, %d s ' "$steps" $kernel_steps $now >&2
      else
        say "kernel: $steps of about $kernel_steps steps, $now s"
      fi
    fi
    sleep 1
  done
  if [ -t 2 ]; then printf '\n' >&2; fi
}

# The log outlives the temporary folder only when something went wrong.
fail_with_log() { # log message
  mv -f "$1" "$cache/failed.log"
  tail -n 30 "$cache/failed.log" >&2
  die "$2; the whole log: $cache/failed.log"
}

# ---- the root file system: an initramfs and a disk of the same content ----

# Freestanding (see mini.h), one segment and no alignment padding: fewer pages to copy and to fault in.
compile() { # source output
  gcc -std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector \
    -fno-asynchronous-unwind-tables -fcf-protection=none -mgeneral-regs-only -s \
    -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro -o "$2" "$1"
}

# Debian's socat is linked with OpenSSL and libwrap, 7 MB of libraries with all that they want in turn, none of which
# an address like VSOCK-CONNECT uses. One empty library with their symbols stands in for them; calling one of its
# functions ends socat with SIGILL.
make_stubs() { # program output
  local symbols name size
  symbols=$(objdump -T "$1" | awk '/\*UND\*/ && !/GLIBC/ && $2 != "w" {print $NF, (/OPENSSL/ ? "ssl" : "plain")}' | sort -u)
  {
    printf '.text\n'
    awk '{printf ".globl %s\n.type %s, @function\n%s:\n", $1, $1, $1}' <<<"$symbols"
    printf 'ud2\n.data\n'
    # Variables, which the program takes over by copy relocations: name and size.
    readelf -rW "$1" | awk '/R_X86_64_COPY/ && !/GLIBC/ {print $5}' | while read -r name; do
      size=$((16#$(objdump -T "$1" | awk -v name="$name" '$NF == name {print $5}')))
      printf '.globl %s\n.type %s, @object\n.size %s, %d\n.balign 8\n%s: .zero %d\n' "$name" "$name" "$name" $size "$name" $size
    done
    printf '.section .note.GNU-stack,"",@progbits\n'
  } >"$work/stubs.s"
  {
    printf 'OPENSSL_3.0.0 {\nglobal:\n'
    awk '$2 == "ssl" {print $1 ";"}' <<<"$symbols"
    printf '};\n'
  } >"$work/stubs.map"
  gcc -shared -nostdlib -s -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-soname,libstubs.so \
    -Wl,--version-script="$work/stubs.map" -o "$2" "$work/stubs.s"
}

build_root() { # result folder
  local out=$1 root=$work/root lib=lib/x86_64-linux-gnu library
  mkdir -p "$root"/{bin,dev,lib64,proc,sys,tmp} "$root/$lib"
  compile "$here/init.c" "$root/init"
  compile "$here/vsock-tool.c" "$root/bin/vsock-tool"
  compile "$here/disk-tool.c" "$root/bin/disk-tool"
  # busybox-static finds its applets by itself (FEATURE_SH_STANDALONE): no links, each of which costs boot time.
  install -m 755 "$(command -v busybox)" "$root/bin/busybox"
  ln -s busybox "$root/bin/sh"
  install -m 755 "$(command -v socat)" "$root/bin/socat"
  install -m 755 /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
  install -m 755 "/$lib/libc.so.6" "$root/$lib/"
  make_stubs "$root/bin/socat" "$root/$lib/libstubs.so"
  for library in $(objdump -p "$root/bin/socat" | awk '$1 == "NEEDED" && $2 != "libc.so.6" {print $2}'); do
    ln -s libstubs.so "$root/$lib/$library"
  done
  # The dynamic linker must be content with the stubs, here already.
  chroot_check "$root" || die "root: socat does not start with the stand-in libraries"
  find "$root" -exec touch -h -d @0 {} +
  # Not compressed: the kernel would inflate it one emulated instruction at a time.
  (cd "$root" && find . -mindepth 1 | sort | cpio --quiet --reproducible -o -H newc -R 0:0) >"$out/initramfs.cpio"
  build_disk "$root" "$out/root.ext4"
}

# mkfs.ext4 fills it without mounting anything, so without being root. No checksums of metadata, and nothing left for the
# kernel to initialise in the background: both are kernel instructions.
build_disk() { # root image
  # Where the kernel looks for init on a disk.
  mkdir "$1/sbin"
  ln -s ../init "$1/sbin/init"
  find "$1/sbin" -exec touch -h -d @0 {} +
  E2FSPROGS_FAKE_TIME=1 PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -d "$1" -L tsvmm-root -b 4096 -m 0 -J size=4 \
    -O ^metadata_csum,^64bit,^resize_inode -U 00000000-0000-4000-8000-000000000001 \
    -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,hash_seed=00000000-0000-4000-8000-000000000002 \
    "$2" 24M >"$work/mkfs" 2>&1 || fail_with_log "$work/mkfs" "root: mkfs.ext4 failed"
  chmod a-w "$2"
}

# Resolves all symbols (LD_BIND_NOW) without being root: by the guest's linker, in the guest's library folder.
chroot_check() { # root
  local output
  output=$(LD_BIND_NOW=1 "$1/lib64/ld-linux-x86-64.so.2" --inhibit-cache --library-path "$1/lib/x86_64-linux-gnu" "$1/bin/socat" -V 2>&1) || return 1
  [[ $output == *'socat version'*'WITH_VSOCK 1'* && $output != *'different size'* ]]
}

# ---- putting it together ----

work=
builder=
clean_up() {
  if [ -n "$builder" ]; then kill -- "-$builder" 2>/dev/null || true; fi
  if [ -n "$work" ]; then rm -rf "$work"; fi
}

# One at a time: a second run waits and then finds the result.
make_artefact() { # kind key
  local target=$cache/$1-$2
  [ ! -d "$target" ] || return 0
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  if ! flock -n 9; then
    say "$1: waiting for another run"
    flock 9
  fi
  if [ ! -d "$target" ]; then
    rm -rf "$cache"/work.* # of a run that was killed: whoever works holds the lock
    work=$(mktemp -d "$cache/work.XXXXXX")
    mkdir "$work/out"
    "build_$1" "$work/out"
    mv "$work/out" "$target"
    rm -rf "$work"
    work=
    say "$1: built"
  fi
  exec 9>&-
}

install=false
print=false
for argument in "$@"; do
  case $argument in
    --install) install=true ;;
    --print) print=true ;;
    *) die "unknown argument $argument; usage: $0 [--install | --print]" ;;
  esac
done

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

kernel=$cache/kernel-$(kernel_key)
root=$cache/root-$(root_key)
if [ ! -d "$kernel" ] || [ ! -d "$root" ]; then
  if $print; then exit 3; fi
  [ "$(uname -m)" = x86_64 ] || die "the guest is built for x86-64 on x86-64 only"
  needed=()
  if [ ! -d "$kernel" ]; then needed+=("${kernel_packages[@]}"); fi
  if [ ! -d "$root" ]; then needed+=("${root_packages[@]}"); fi
  require_packages "${needed[@]}"
  # The packages may have been upgraded just now.
  kernel=$cache/kernel-$(kernel_key)
  root=$cache/root-$(root_key)
  make_artefact root "${root##*-}"
  make_artefact kernel "${kernel##*-}"
fi
printf 'kernel=%s\nbzimage=%s\nmodules=%s\n' "$kernel/vmlinux" "$kernel/bzImage" "$kernel/modules"
printf 'initramfs=%s\ndisk=%s\n' "$root/initramfs.cpio" "$root/root.ext4"
