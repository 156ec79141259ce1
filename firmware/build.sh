#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Build the built-in guest: tsvmm-guest.elf beside this script, or the file named as the first argument.
# The same toolchain makes the same bytes, wherever the source lies: no debug information, build id or path is kept.
set -eu
export LC_ALL=C # the order of objects is the order of names
source_folder=$(cd "$(dirname "$0")" && pwd)
output=$(realpath "${1:-$source_folder/tsvmm-guest.elf}")
cd "$source_folder"
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT

# Interrupt handlers and the trap save no vector registers, and nothing enables them: integer code only.
flags="-std=gnu11 -O2 -Wall -Wextra -Werror -ffreestanding -fno-pic -fno-stack-protector -fcf-protection=none
  -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -ffunction-sections -fdata-sections
  -m64 -march=x86-64 -mgeneral-regs-only -mno-red-zone -fno-ident"

for source in *.S *.c; do
  # shellcheck disable=SC2086 # the flags are words
  ${CC:-gcc} $flags -c "$source" -o "$objects/$source.o"
done
# The page tables protect nothing from the guest's own code, so one segment, writable and executable, says the truth.
(cd "$objects" && ${LD:-ld} -nostdlib -static --gc-sections --build-id=none --no-warn-rwx-segments \
  -z max-page-size=4096 -z noexecstack -T "$source_folder/firmware.ld" -o guest.elf ./*.o)
${STRIP:-strip} --strip-all -o "$output" "$objects/guest.elf"
