// SPDX-License-Identifier: Apache-2.0
//
// Reads boot_params (Linux Documentation/arch/x86/zero-page.rst) and the command line it points to.

#include "boot.h"
#include "text.h"

#define BP_E820_ENTRIES 0x1e8  // u8
#define BP_CMD_LINE_PTR 0x228  // u32
#define BP_E820_TABLE 0x2d0    // struct boot_e820_entry[]
#define E820_MAX_ENTRIES 128
#define E820_RAM 1

struct PACKED boot_e820_entry {
    u64 addr;
    u64 size;
    u32 type;
};
_Static_assert(sizeof(struct boot_e820_entry) == 20, "e820 ABI");

// What tables.S maps: memory below the first limit, devices from the second one up to 4 GiB.
#define MAPPED_RAM_END 0x40000000UL
#define MAPPED_DEVICES 0xc0000000UL
#define MAPPED_DEVICES_END 0x100000000UL
#define VIRTIO_WINDOW_SIZE 0x200

#define MAX_WORD 128
// Worth about one halt and wake-up: an answer that comes within that time is had for less than sleeping would cost.
#define DEFAULT_SPIN_US 50
#define MAX_SPIN_US 1000000

extern char image_end[];

static void read_memory_map(const u8 *boot_params, struct boot_info *info)
{
    const struct boot_e820_entry *table = (const void *)(boot_params + BP_E820_TABLE);
    u32 count = min_u32(boot_params[BP_E820_ENTRIES], E820_MAX_ENTRIES);
    u64 image = (u64)image_end;
    for (u32 i = 0; i < count; i++) {
        u64 start = table[i].addr, end = start + table[i].size;
        if (table[i].type != E820_RAM) {
            continue;
        }
        info->memory_bytes += table[i].size;
        if (start <= image && image < end) {
            info->pool_start = image;
            info->pool_end = end < MAPPED_RAM_END ? end : MAPPED_RAM_END;
        }
    }
}

// <size>@<base>:<irq>, as Linux takes it; what follows is ignored.
static void add_device(const char *text, struct boot_info *info)
{
    u64 base, gsi, size;
    text = text_number(text, &size);
    if (text == NULL) {
        return;
    }
    if (*text == 'K' || *text == 'M') {
        text++;
    }
    if (*text++ != '@' || (text = text_number(text, &base)) == NULL || *text++ != ':' ||
        text_number(text, &gsi) == NULL) {
        return;
    }
    bool mapped = base >= MAPPED_DEVICES && base <= MAPPED_DEVICES_END - VIRTIO_WINDOW_SIZE;
    if (mapped && info->device_count < MAX_VIRTIO_DEVICES) {
        info->devices[info->device_count++] = (struct virtio_window){base, (u32)gsi};
    }
}

static void read_word(const char *word, struct boot_info *info)
{
    const char *value;
    u64 number;
    if ((value = text_after(word, "virtio_mmio.device=")) != NULL) {
        add_device(value, info);
    } else if ((value = text_after(word, "tsvmm.spin_us=")) != NULL) {
        if (text_number(value, &number) != NULL) {
            info->spin_us = number < MAX_SPIN_US ? (u32)number : MAX_SPIN_US;
        }
    } else if (text_equal(word, "tsvmm.bench=pio")) {
        info->bench_ports = true;
    }
}

static void read_command_line(const char *line, struct boot_info *info)
{
    char word[MAX_WORD];
    while (*line != '\0') {
        u32 length = 0;
        for (; *line != '\0' && *line != ' '; line++) {
            if (length < MAX_WORD - 1) {
                word[length++] = *line;
            }
        }
        word[length] = '\0';
        read_word(word, info);
        while (*line == ' ') {
            line++;
        }
    }
}

void boot_read(const u8 *boot_params, struct boot_info *info)
{
    u32 command_line;
    info->spin_us = DEFAULT_SPIN_US;
    read_memory_map(boot_params, info);
    memcpy(&command_line, boot_params + BP_CMD_LINE_PTR, sizeof command_line);
    if (command_line != 0) {
        read_command_line((const char *)(u64)command_line, info);
    }
}
