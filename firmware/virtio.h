// SPDX-License-Identifier: Apache-2.0
// Virtio over MMIO (virtio 1.2, 4.2) with split virtqueues (2.7), driver side. Names are the specification's.

#ifndef VIRTIO_H
#define VIRTIO_H

#include "types.h"

#define VIRTIO_ID_VSOCK 19

#define VIRTIO_F_EVENT_IDX_BIT 29
#define VIRTIO_F_VERSION_1_BIT 32

struct PACKED virtq_desc {
    u64 addr;
    u32 len;
    u16 flags;
    u16 next;
};
_Static_assert(sizeof(struct virtq_desc) == 16, "virtio 1.2, 2.7.5");
#define VIRTQ_DESC_F_NEXT 1
#define VIRTQ_DESC_F_WRITE 2

struct PACKED virtq_used_elem {
    u32 id;
    u32 len;
};
_Static_assert(sizeof(struct virtq_used_elem) == 8, "virtio 1.2, 2.7.8");

// One queue. Indices run free and are masked on access.
struct virtqueue {
    struct virtq_desc *desc;
    volatile u16 *avail; // flags, idx, ring[size], used_event
    volatile u16 *used;  // flags, idx, then struct virtq_used_elem[size], avail_event
    u64 notify;          // address of QueueNotify
    u16 number;
    u16 size;            // a power of two, 0: not set up
    u16 staged;          // avail.idx to be, with what was added since the last publish
    u16 published;       // avail.idx as the device sees it
    u16 seen;            // used.idx up to which we have looked
    bool event_idx;
};

struct virtio_device {
    u64 base;
    u64 features; // negotiated
};

// Is there a virtio 1.x device of this type at the window?
bool virtio_probe(u64 base, u32 device_id);

// Reset the device and agree on those of the wanted features that it offers. False: it insists on something else.
bool virtio_begin(struct virtio_device *device, u64 base, u64 wanted);
// Tell the device that the driver is ready, once the queues are.
void virtio_finish(const struct virtio_device *device);
// Give the device up.
void virtio_fail(const struct virtio_device *device);
bool virtio_has(const struct virtio_device *device, u32 feature_bit);
bool virtio_needs_reset(const struct virtio_device *device);
void virtio_acknowledge_interrupt(const struct virtio_device *device);
u32 virtio_config(const struct virtio_device *device, u32 offset);

// Set a queue up with at most max entries (a power of two). Its memory is taken on the first call and kept over resets.
bool virtqueue_setup(const struct virtio_device *device, struct virtqueue *q, u16 number, u16 max);

// Offer the chain that starts at a descriptor; the device sees it after virtqueue_publish.
void virtqueue_add(struct virtqueue *q, u16 head);
// Publish what was added and notify the device if it asked for that. Returns whether it was notified.
bool virtqueue_publish(struct virtqueue *q);
// The next used element, if there is one.
bool virtqueue_next_used(struct virtqueue *q, struct virtq_used_elem *element);
bool virtqueue_has_used(const struct virtqueue *q);
// Ask for an interrupt at the next used buffer. One that is there already may bring none: look again afterwards.
void virtqueue_arm(struct virtqueue *q);
void virtqueue_disarm(struct virtqueue *q);

#endif
