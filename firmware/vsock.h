// SPDX-License-Identifier: Apache-2.0
// What goes over a vsock device (virtio 1.2, 5.10), and the device driver's interface.

#ifndef VSOCK_H
#define VSOCK_H

#include "boot.h"
#include "types.h"

#define VSOCK_CID_HOST 2

struct PACKED virtio_vsock_hdr {
    u64 src_cid;
    u64 dst_cid;
    u32 src_port;
    u32 dst_port;
    u32 len;
    u16 type;
    u16 op;
    u32 flags;
    u32 buf_alloc;
    u32 fwd_cnt;
};
_Static_assert(sizeof(struct virtio_vsock_hdr) == 44, "virtio 1.2, 5.10.6");

enum vsock_type {
    VIRTIO_VSOCK_TYPE_STREAM = 1,
    VIRTIO_VSOCK_TYPE_SEQPACKET = 2,
};

enum vsock_op {
    VIRTIO_VSOCK_OP_INVALID = 0,
    VIRTIO_VSOCK_OP_REQUEST = 1,
    VIRTIO_VSOCK_OP_RESPONSE = 2,
    VIRTIO_VSOCK_OP_RST = 3,
    VIRTIO_VSOCK_OP_SHUTDOWN = 4,
    VIRTIO_VSOCK_OP_RW = 5,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE = 6,
    VIRTIO_VSOCK_OP_CREDIT_REQUEST = 7,
};

// hdr.flags of OP_SHUTDOWN: what the sender will not do any more.
#define VIRTIO_VSOCK_SHUTDOWN_RCV 1
#define VIRTIO_VSOCK_SHUTDOWN_SEND 2
#define VIRTIO_VSOCK_SHUTDOWN_BOTH 3

// hdr.flags of OP_RW on a SEQPACKET connection.
#define VIRTIO_VSOCK_SEQ_EOM 1
#define VIRTIO_VSOCK_SEQ_EOR 2

// Largest payload of one packet that we send. Linux takes as much, and sends no more itself.
#define VSOCK_MAX_PAYLOAD 65536U
// Payloads up to here are copied into the packet, beside the header, instead of being sent from where they lie.
#define VSOCK_INLINE_MAX 212U

// Find and start the device among the windows. False: there is none that works.
bool vsock_start(const struct boot_info *boot);
u64 vsock_cid(void);
bool vsock_seqpacket(void);

// Hand received packets to connection_receive, as many as a batch allows, and return their buffers. Returns whether
// there were any.
bool vsock_receive(void);
// Take back what the device has sent. Returns whether there was any.
bool vsock_reap(void);
// Look at the event queue. Returns whether there was any.
bool vsock_events(void);

// How many packets can be sent now.
u32 vsock_room(void);
// Queue a packet; hdr.len says how much payload. The device sees it after vsock_flush. If ring_owner is not zero, the
// payload stays in place until connection_ring_sent is called for that connection, in the order of sending.
void vsock_send(const struct virtio_vsock_hdr *hdr, const void *payload, u16 ring_owner);
void vsock_flush(void);

// Has anything come in that nobody has looked at?
bool vsock_has_work(void);
// Before sleeping. tx_wanted: wake when the device has sent something, too. False: there is something to do already.
bool vsock_arm(bool tx_wanted);
// After sleeping.
void vsock_disarm(void);
// The device has interrupted.
void vsock_interrupted(void);
// After an interrupt that brought nothing: has the device given up? Restarts it if so. False: it does not work any
// more.
bool vsock_check(void);

#endif
