// SPDX-License-Identifier: Apache-2.0

#include "virtio.h"
#include "machine.h"
#include "memory.h"
#include "text.h"

// Register offsets (virtio 1.2, 4.2.2); R or W as the driver sees them.
#define VIRTIO_MMIO_MAGIC_VALUE 0x000         // R
#define VIRTIO_MMIO_VERSION 0x004             // R
#define VIRTIO_MMIO_DEVICE_ID 0x008           // R
#define VIRTIO_MMIO_DEVICE_FEATURES 0x010     // R
#define VIRTIO_MMIO_DEVICE_FEATURES_SEL 0x014 // W
#define VIRTIO_MMIO_DRIVER_FEATURES 0x020     // W
#define VIRTIO_MMIO_DRIVER_FEATURES_SEL 0x024 // W
#define VIRTIO_MMIO_QUEUE_SEL 0x030           // W
#define VIRTIO_MMIO_QUEUE_NUM_MAX 0x034       // R
#define VIRTIO_MMIO_QUEUE_NUM 0x038           // W
#define VIRTIO_MMIO_QUEUE_READY 0x044         // RW
#define VIRTIO_MMIO_QUEUE_NOTIFY 0x050        // W
#define VIRTIO_MMIO_INTERRUPT_ACK 0x064       // W
#define VIRTIO_MMIO_STATUS 0x070              // RW
#define VIRTIO_MMIO_QUEUE_DESC_LOW 0x080      // W, high half in the next register
#define VIRTIO_MMIO_QUEUE_DRIVER_LOW 0x090    // W, likewise
#define VIRTIO_MMIO_QUEUE_DEVICE_LOW 0x0a0    // W, likewise
#define VIRTIO_MMIO_CONFIG 0x100

#define VIRTIO_MMIO_MAGIC 0x74726976 // "virt"
#define VIRTIO_MMIO_VERSION_MODERN 2

#define VIRTIO_MMIO_INT_VRING 0x1
#define VIRTIO_MMIO_INT_CONFIG 0x2

#define VIRTIO_STATUS_ACKNOWLEDGE 1
#define VIRTIO_STATUS_DRIVER 2
#define VIRTIO_STATUS_DRIVER_OK 4
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_DEVICE_NEEDS_RESET 64
#define VIRTIO_STATUS_FAILED 128

// A reset takes a device no longer than a few register accesses.
#define MAX_RESET_POLLS 10000

#define VIRTQ_AVAIL_F_NO_INTERRUPT 1
#define VIRTQ_USED_F_NO_NOTIFY 1

// Word offsets within the avail and used rings.
#define RING_FLAGS 0
#define RING_IDX 1
#define RING_ENTRIES 2

bool virtio_probe(u64 base, u32 device_id)
{
    return mmio_read(base + VIRTIO_MMIO_MAGIC_VALUE) == VIRTIO_MMIO_MAGIC &&
           mmio_read(base + VIRTIO_MMIO_VERSION) == VIRTIO_MMIO_VERSION_MODERN &&
           mmio_read(base + VIRTIO_MMIO_DEVICE_ID) == device_id;
}

bool virtio_begin(struct virtio_device *device, u64 base, u64 wanted)
{
    u32 status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
    device->base = base;
    mmio_write(base + VIRTIO_MMIO_STATUS, 0);
    for (u32 polls = 0; mmio_read(base + VIRTIO_MMIO_STATUS) != 0; polls++) {
        if (polls == MAX_RESET_POLLS) {
            return false;
        }
    }
    mmio_write(base + VIRTIO_MMIO_STATUS, status);

    u64 offered = 0;
    for (u32 half = 0; half < 2; half++) {
        mmio_write(base + VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
        offered |= (u64)mmio_read(base + VIRTIO_MMIO_DEVICE_FEATURES) << (32 * half);
    }
    device->features = offered & wanted;
    for (u32 half = 0; half < 2; half++) {
        mmio_write(base + VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        mmio_write(base + VIRTIO_MMIO_DRIVER_FEATURES, (u32)(device->features >> (32 * half)));
    }
    mmio_write(base + VIRTIO_MMIO_STATUS, status | VIRTIO_STATUS_FEATURES_OK);
    return virtio_has(device, VIRTIO_F_VERSION_1_BIT) &&
           (mmio_read(base + VIRTIO_MMIO_STATUS) & VIRTIO_STATUS_FEATURES_OK) != 0;
}

void virtio_finish(const struct virtio_device *device)
{
    mmio_write(device->base + VIRTIO_MMIO_STATUS, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
                                                      VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
}

void virtio_fail(const struct virtio_device *device)
{
    mmio_write(device->base + VIRTIO_MMIO_STATUS, VIRTIO_STATUS_FAILED);
}

bool virtio_has(const struct virtio_device *device, u32 feature_bit)
{
    return (device->features >> feature_bit & 1) != 0;
}

bool virtio_needs_reset(const struct virtio_device *device)
{
    return (mmio_read(device->base + VIRTIO_MMIO_STATUS) & VIRTIO_STATUS_DEVICE_NEEDS_RESET) != 0;
}

void virtio_acknowledge_interrupt(const struct virtio_device *device)
{
    mmio_write(device->base + VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
}

u32 virtio_config(const struct virtio_device *device, u32 offset)
{
    return mmio_read(device->base + VIRTIO_MMIO_CONFIG + offset);
}

static void write_address(const struct virtio_device *device, u32 low, const volatile void *address)
{
    mmio_write(device->base + low, (u32)(u64)address);
    mmio_write(device->base + low + 4, (u32)((u64)address >> 32));
}

static volatile u16 *used_event(const struct virtqueue *q)
{
    return q->avail + RING_ENTRIES + q->size;
}

static volatile struct virtq_used_elem *used_ring(const struct virtqueue *q)
{
    return (volatile struct virtq_used_elem *)(q->used + RING_ENTRIES);
}

static u16 avail_event(const struct virtqueue *q)
{
    return *(volatile u16 *)(used_ring(q) + q->size);
}

// Has an index passed an event index on its way from old to new? (virtio 1.2, 2.7.10.1)
static bool passed(u16 event, u16 new, u16 old)
{
    return (u16)(new - event - 1) < (u16)(new - old);
}

bool virtqueue_setup(const struct virtio_device *device, struct virtqueue *q, u16 number, u16 max)
{
    mmio_write(device->base + VIRTIO_MMIO_QUEUE_SEL, number);
    u32 offered = mmio_read(device->base + VIRTIO_MMIO_QUEUE_NUM_MAX);
    u16 size = max;
    while (size > offered) {
        size /= 2;
    }
    if (q->desc == NULL) {
        // Both rings end in an event index.
        u64 avail_bytes = (RING_ENTRIES + max + 1) * sizeof(u16);
        u64 used_bytes = (RING_ENTRIES + 1) * sizeof(u16) + max * sizeof(struct virtq_used_elem);
        q->desc = memory_take(max * sizeof(struct virtq_desc), 16);
        // A cache line of its own: the device writes here while the driver writes there.
        q->avail = memory_take(avail_bytes, 64);
        q->used = memory_take(used_bytes, 64);
    }
    q->size = 0;
    if (size == 0 || q->desc == NULL || q->avail == NULL || q->used == NULL) {
        return false;
    }
    q->size = size;
    q->number = number;
    q->notify = device->base + VIRTIO_MMIO_QUEUE_NOTIFY;
    q->staged = q->published = q->seen = 0;
    q->event_idx = virtio_has(device, VIRTIO_F_EVENT_IDX_BIT);
    q->used[RING_FLAGS] = q->used[RING_IDX] = 0;
    q->avail[RING_IDX] = 0;
    *(volatile u16 *)(used_ring(q) + size) = 0;
    virtqueue_disarm(q);

    mmio_write(device->base + VIRTIO_MMIO_QUEUE_NUM, size);
    write_address(device, VIRTIO_MMIO_QUEUE_DESC_LOW, q->desc);
    write_address(device, VIRTIO_MMIO_QUEUE_DRIVER_LOW, q->avail);
    write_address(device, VIRTIO_MMIO_QUEUE_DEVICE_LOW, q->used);
    mmio_write(device->base + VIRTIO_MMIO_QUEUE_READY, 1);
    return true;
}

void virtqueue_add(struct virtqueue *q, u16 head)
{
    q->avail[RING_ENTRIES + (q->staged++ & (q->size - 1))] = head;
}

bool virtqueue_publish(struct virtqueue *q)
{
    u16 old = q->published;
    if (q->staged == old) {
        return false;
    }
    q->published = q->staged;
    // The descriptors before the index: pairs with the device's acquiring load of avail.idx.
    __atomic_store_n(&q->avail[RING_IDX], q->published, __ATOMIC_RELEASE);
    // The index before the question whether to notify: the device writes its wish, then looks at the index again.
    store_load_barrier();
    bool wanted = q->event_idx ? passed(avail_event(q), q->published, old)
                               : (q->used[RING_FLAGS] & VIRTQ_USED_F_NO_NOTIFY) == 0;
    if (wanted) {
        mmio_write(q->notify, q->number);
    }
    return wanted;
}

bool virtqueue_has_used(const struct virtqueue *q)
{
    return q->used[RING_IDX] != q->seen;
}

bool virtqueue_next_used(struct virtqueue *q, struct virtq_used_elem *element)
{
    // The element after the index: pairs with the device's releasing store of used.idx.
    if (__atomic_load_n(&q->used[RING_IDX], __ATOMIC_ACQUIRE) == q->seen) {
        return false;
    }
    volatile struct virtq_used_elem *from = &used_ring(q)[q->seen++ & (q->size - 1)];
    element->id = from->id;
    element->len = from->len;
    return true;
}

void virtqueue_arm(struct virtqueue *q)
{
    if (q->event_idx) {
        *used_event(q) = q->seen;
    } else {
        q->avail[RING_FLAGS] = 0;
    }
    // The wish before the last look: the device publishes used.idx, then looks at the wish.
    store_load_barrier();
}

void virtqueue_disarm(struct virtqueue *q)
{
    // With event indices: one that was just passed, so that the device comes by it only after 65536 more buffers.
    // Without: a flag, which also has to be 0 when event indices are in use (2.7.10).
    *used_event(q) = q->seen - 1;
    q->avail[RING_FLAGS] = q->event_idx ? 0 : VIRTQ_AVAIL_F_NO_INTERRUPT;
}
