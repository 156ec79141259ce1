#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Build the guest agent: tsvmm-agent beside this script, or the file named as the first argument.
# The same toolchain makes the same bytes, wherever the source lies: no debug information, build id or path is kept.
set -eu
export LC_ALL=C # the order of objects is the order of names
source_folder=$(cd "$(dirname "$0")" && pwd)
output=$(realpath "${1:-$source_folder/tsvmm-agent}")
cd "$source_folder"

# No C library, and integer code only: see system.h.
flags="-std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-pic -fno-stack-protector -fcf-protection=none
  -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -ffunction-sections -fdata-sections
  -m64 -march=x86-64 -mgeneral-regs-only -fno-ident -fno-strict-aliasing"

# shellcheck disable=SC2086 # the flags are words
${CC:-gcc} $flags -nostdlib -static -no-pie -Wl,--gc-sections -Wl,--build-id=none -Wl,-z,noexecstack \
  -Wl,-z,norelro -o "$output" ./*.c
${STRIP:-strip} --strip-all "$output"
