// SPDX-License-Identifier: Apache-2.0
// What the boot loader left: memory map and command line.

#ifndef BOOT_H
#define BOOT_H

#include "types.h"

#define MAX_VIRTIO_DEVICES 16

struct virtio_window {
    u64 base;
    u32 gsi;
};

struct boot_info {
    u64 memory_bytes; // all of RAM
    u64 pool_start;   // RAM beyond the image that the identity map reaches
    u64 pool_end;
    struct virtio_window devices[MAX_VIRTIO_DEVICES];
    u32 device_count;
    u32 spin_us;
    bool bench_ports;
};

void boot_read(const u8 *boot_params, struct boot_info *info);

#endif
