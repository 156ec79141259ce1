// SPDX-License-Identifier: Apache-2.0
//
// The vsock device driver: buffers, queues and notifications. What packets mean is connection.c's business.
//
// rx is host to guest. A receive buffer is one descriptor, header and payload together; it goes back to the device as
// soon as its packet is processed. A packet to send is a slot of two descriptors: the header (and a small payload
// beside it), and a large payload wherever it lies.

#include "vsock.h"
#include "connection.h"
#include "machine.h"
#include "memory.h"
#include "stats.h"
#include "text.h"
#include "virtio.h"

#define VIRTIO_VSOCK_F_STREAM_BIT 0
#define VIRTIO_VSOCK_F_SEQPACKET_BIT 1

#define VIRTIO_VSOCK_CFG_GUEST_CID 0 // le64

#define QUEUE_RX 0
#define QUEUE_TX 1
#define QUEUE_EVENT 2

#define VIRTIO_VSOCK_EVENT_TRANSPORT_RESET 0

struct PACKED virtio_vsock_event {
    u32 id;
};
_Static_assert(sizeof(struct virtio_vsock_event) == 4, "virtio 1.2, 5.10.6.7");

#define MAX_QUEUE_SIZE 1024
#define EVENT_BUFFERS 8
// Small machines get fewer receive buffers: at most this part of memory.
#define RX_MEMORY_SHARE 8

#define RX_PAYLOAD 4096U
#define RX_BUFFER_SIZE (sizeof(struct virtio_vsock_hdr) + RX_PAYLOAD)
// Rounded up to cache lines, so that no two buffers share one.
#define RX_STRIDE 4160
_Static_assert(RX_STRIDE >= RX_BUFFER_SIZE && RX_STRIDE % 64 == 0, "stride");

// Packets per batch: enough that publishing and notifying cost nothing each, few enough that the other side starts
// early.
#define RX_BATCH 64
#define TX_BATCH 32

#define DESCRIPTORS_PER_SLOT 2

struct PACKED tx_packet {
    struct virtio_vsock_hdr hdr;
    u8 payload[VSOCK_INLINE_MAX];
};
_Static_assert(sizeof(struct tx_packet) == 256, "cache lines");

// What the driver remembers about a slot.
struct tx_slot {
    u16 next;  // free list, or the owner's next packet in flight
    u16 owner; // connection whose ring the payload lies in, or 0
    bool done; // used by the device, while an earlier one of the same owner is not
    u32 ring_bytes;
};

static struct virtio_device device;
static struct virtqueue rx, tx, event;
static u64 cid;
static bool unacknowledged;

static u8 *rx_buffers;
static struct virtio_vsock_event *event_buffers;

static struct tx_packet *tx_packets;
static struct tx_slot *tx_slots;
static u16 tx_free;
static u32 tx_free_count;

u64 vsock_cid(void)
{
    return cid;
}

bool vsock_seqpacket(void)
{
    return virtio_has(&device, VIRTIO_VSOCK_F_SEQPACKET_BIT);
}

u32 vsock_room(void)
{
    return tx_free_count;
}

static void publish(struct virtqueue *q)
{
    if (virtqueue_publish(q)) {
        stats.kicks++;
    }
}

static void read_cid(void)
{
    cid = virtio_config(&device, VIRTIO_VSOCK_CFG_GUEST_CID) |
          (u64)virtio_config(&device, VIRTIO_VSOCK_CFG_GUEST_CID + 4) << 32;
}

static u16 rx_queue_limit(void)
{
    u16 limit = MAX_QUEUE_SIZE;
    while (limit > 1 && (u64)limit * RX_STRIDE > memory_left() / RX_MEMORY_SHARE) {
        limit /= 2;
    }
    return limit;
}

// Memory is taken once, for the largest queues; a device that is restarted finds it again.
static bool take_memory(void)
{
    static u16 rx_limit;
    if (rx_buffers == NULL) {
        rx_limit = rx_queue_limit();
        rx_buffers = memory_take((u64)rx_limit * RX_STRIDE, 64);
        tx_packets = memory_take(MAX_QUEUE_SIZE / DESCRIPTORS_PER_SLOT * sizeof *tx_packets, 64);
        tx_slots = memory_take(MAX_QUEUE_SIZE / DESCRIPTORS_PER_SLOT * sizeof *tx_slots, 64);
        event_buffers = memory_take(EVENT_BUFFERS * sizeof *event_buffers, 64);
    }
    return rx_buffers != NULL && tx_packets != NULL && tx_slots != NULL && event_buffers != NULL &&
           virtqueue_setup(&device, &rx, QUEUE_RX, rx_limit) &&
           virtqueue_setup(&device, &tx, QUEUE_TX, MAX_QUEUE_SIZE) &&
           virtqueue_setup(&device, &event, QUEUE_EVENT, EVENT_BUFFERS) && tx.size >= DESCRIPTORS_PER_SLOT;
}

static void fill_queues(void)
{
    for (u16 i = 0; i < rx.size; i++) {
        rx.desc[i] = (struct virtq_desc){(u64)rx_buffers + (u64)i * RX_STRIDE, RX_BUFFER_SIZE, VIRTQ_DESC_F_WRITE, 0};
        virtqueue_add(&rx, i);
    }
    for (u16 i = 0; i < event.size; i++) {
        event.desc[i] = (struct virtq_desc){(u64)&event_buffers[i], sizeof *event_buffers, VIRTQ_DESC_F_WRITE, 0};
        virtqueue_add(&event, i);
    }
    // Slots are numbered from 1, so that 0 can end a list.
    tx_free_count = tx.size / DESCRIPTORS_PER_SLOT;
    tx_free = 1;
    for (u16 i = 0; i < tx_free_count; i++) {
        tx_slots[i].next = i + 1U < tx_free_count ? i + 2 : 0;
    }
}

static bool start_device(u64 base)
{
    u64 wanted = 1UL << VIRTIO_F_VERSION_1_BIT | 1UL << VIRTIO_F_EVENT_IDX_BIT | 1UL << VIRTIO_VSOCK_F_STREAM_BIT |
                 1UL << VIRTIO_VSOCK_F_SEQPACKET_BIT;
    if (!virtio_begin(&device, base, wanted) || !take_memory()) {
        virtio_fail(&device);
        return false;
    }
    read_cid();
    fill_queues();
    virtio_finish(&device);
    publish(&rx);
    publish(&event);
    return true;
}

bool vsock_start(const struct boot_info *boot)
{
    for (u32 i = 0; i < boot->device_count; i++) {
        const struct virtio_window *window = &boot->devices[i];
        if (virtio_probe(window->base, VIRTIO_ID_VSOCK)) {
            return interrupts_route(window->gsi, VECTOR_VSOCK) && start_device(window->base);
        }
    }
    return false;
}

static void receive_one(const struct virtq_used_elem *used)
{
    const u8 *buffer = rx_buffers + (u64)used->id * RX_STRIDE;
    struct virtio_vsock_hdr hdr;
    if (used->len < sizeof hdr || used->len > RX_BUFFER_SIZE) {
        stats.rx_malformed++;
        return;
    }
    memcpy(&hdr, buffer, sizeof hdr);
    if (hdr.len > used->len - sizeof hdr || hdr.dst_cid != cid) {
        stats.rx_malformed++;
        return;
    }
    stats.rx_packets++;
    stats.rx_bytes += hdr.len;
    connection_receive(&hdr, buffer + sizeof hdr);
}

bool vsock_receive(void)
{
    u32 count = 0;
    struct virtq_used_elem used;
    // A packet may call for a reset in reply; where there is no room for that it waits in its buffer.
    while (count < RX_BATCH && connection_can_receive() && virtqueue_next_used(&rx, &used)) {
        count++;
        if (used.id < rx.size) {
            receive_one(&used);
            virtqueue_add(&rx, (u16)used.id);
        }
    }
    publish(&rx);
    return count != 0;
}

static void free_slot(u16 number)
{
    tx_slots[number - 1].next = tx_free;
    tx_free = number;
    tx_free_count++;
}

// The device may finish packets in any order, but a ring frees its bytes in the order they were sent.
static void finish_ring_packet(u16 number)
{
    tx_slots[number - 1].done = true;
    u16 owner = tx_slots[number - 1].owner;
    struct flight *flight = connection_flight(owner);
    while (flight->first != 0 && tx_slots[flight->first - 1].done) {
        u16 first = flight->first;
        flight->first = tx_slots[first - 1].next;
        u32 bytes = tx_slots[first - 1].ring_bytes;
        free_slot(first);
        connection_ring_sent(owner, bytes);
    }
}

bool vsock_reap(void)
{
    bool any = false;
    struct virtq_used_elem used;
    while (virtqueue_next_used(&tx, &used)) {
        any = true;
        u32 slot = used.id / DESCRIPTORS_PER_SLOT;
        if (used.id % DESCRIPTORS_PER_SLOT != 0 || slot >= tx.size / DESCRIPTORS_PER_SLOT) {
            continue;
        }
        if (tx_slots[slot].owner != 0) {
            finish_ring_packet((u16)(slot + 1));
        } else {
            free_slot((u16)(slot + 1));
        }
    }
    return any;
}

void vsock_send(const struct virtio_vsock_hdr *hdr, const void *payload, u16 ring_owner)
{
    u16 number = tx_free;
    struct tx_slot *slot = &tx_slots[number - 1];
    struct tx_packet *packet = &tx_packets[number - 1];
    u16 head = (u16)((number - 1) * DESCRIPTORS_PER_SLOT);
    tx_free = slot->next;
    tx_free_count--;

    packet->hdr = *hdr;
    tx.desc[head] = (struct virtq_desc){(u64)packet, sizeof packet->hdr, 0, 0};
    slot->owner = 0;
    if (ring_owner == 0 && hdr->len <= VSOCK_INLINE_MAX) {
        memcpy(packet->payload, payload, hdr->len);
        tx.desc[head].len += hdr->len;
    } else {
        tx.desc[head].flags = VIRTQ_DESC_F_NEXT;
        tx.desc[head].next = head + 1;
        tx.desc[head + 1] = (struct virtq_desc){(u64)payload, hdr->len, 0, 0};
    }
    if (ring_owner != 0) {
        struct flight *flight = connection_flight(ring_owner);
        *slot = (struct tx_slot){0, ring_owner, false, hdr->len};
        if (flight->first == 0) {
            flight->first = number;
        } else {
            tx_slots[flight->last - 1].next = number;
        }
        flight->last = number;
    }
    virtqueue_add(&tx, head);
    stats.tx_packets++;
    stats.tx_bytes += hdr->len;
    if ((u16)(tx.staged - tx.published) >= TX_BATCH) {
        publish(&tx);
    }
}

void vsock_flush(void)
{
    publish(&tx);
}

bool vsock_events(void)
{
    bool any = false;
    struct virtq_used_elem used;
    while (virtqueue_next_used(&event, &used)) {
        any = true;
        if (used.id >= event.size) {
            continue;
        }
        if (used.len >= sizeof *event_buffers && event_buffers[used.id].id == VIRTIO_VSOCK_EVENT_TRANSPORT_RESET) {
            stats.transport_resets++;
            connections_drop_all();
            read_cid();
        }
        virtqueue_add(&event, (u16)used.id);
    }
    publish(&event);
    return any;
}

// Packets that cannot be received now are no work: they wait for room to send, which tx brings.
bool vsock_has_work(void)
{
    return (virtqueue_has_used(&rx) && connection_can_receive()) || virtqueue_has_used(&tx) ||
           virtqueue_has_used(&event);
}

bool vsock_arm(bool tx_wanted)
{
    // Acknowledging comes before looking, so that what the device does after our look raises a new interrupt.
    if (unacknowledged) {
        unacknowledged = false;
        virtio_acknowledge_interrupt(&device);
    }
    if (connection_can_receive()) {
        virtqueue_arm(&rx);
    }
    virtqueue_arm(&event);
    if (tx_wanted) {
        virtqueue_arm(&tx);
    }
    return !vsock_has_work();
}

void vsock_disarm(void)
{
    virtqueue_disarm(&rx);
    virtqueue_disarm(&tx);
    virtqueue_disarm(&event);
}

void vsock_interrupted(void)
{
    unacknowledged = true;
}

bool vsock_check(void)
{
    if (!virtio_needs_reset(&device)) {
        return true;
    }
    connections_restart();
    return start_device(device.base);
}
