// Numbers of the qcow2 format (QEMU's docs/interop/qcow2.txt), versions 2 and 3. All fields are big-endian.

/** "QFI\xfb". */
export const QCOW2_MAGIC = 0x5146_49fb;

// Header: offsets and sizes in bytes.
export const MAGIC_OFFSET = 0; // u32
export const VERSION_OFFSET = 4; // u32
export const BACKING_FILE_OFFSET_OFFSET = 8; // u64
export const BACKING_FILE_SIZE_OFFSET = 16; // u32
export const CLUSTER_BITS_OFFSET = 20; // u32
export const SIZE_OFFSET = 24; // u64
export const CRYPT_METHOD_OFFSET = 32; // u32
export const L1_SIZE_OFFSET = 36; // u32
export const L1_TABLE_OFFSET_OFFSET = 40; // u64
export const REFCOUNT_TABLE_OFFSET_OFFSET = 48; // u64
export const REFCOUNT_TABLE_CLUSTERS_OFFSET = 56; // u32
export const NB_SNAPSHOTS_OFFSET = 60; // u32
export const SNAPSHOTS_OFFSET_OFFSET = 64; // u64
// Version 3 only.
export const INCOMPATIBLE_FEATURES_OFFSET = 72; // u64
export const AUTOCLEAR_FEATURES_OFFSET = 88; // u64
export const REFCOUNT_ORDER_OFFSET = 96; // u32
export const HEADER_LENGTH_OFFSET = 100; // u32
export const COMPRESSION_TYPE_OFFSET = 104; // u8

export const V2_HEADER_LENGTH = 72;
export const V3_MIN_HEADER_LENGTH = 104;
/** As much of the header as has fields that are read. */
export const KNOWN_HEADER_LENGTH = 112;

// Incompatible features, as bit indices.
export const DIRTY_BIT = 0;
export const CORRUPT_BIT = 1;
export const EXTERNAL_DATA_FILE_BIT = 2;
export const COMPRESSION_TYPE_BIT = 3;
export const EXTENDED_L2_BIT = 4;

// Header extensions: u32 type, u32 length, data padded to 8 bytes.
export const EXTENSION_END = 0;
export const EXTENSION_BACKING_FORMAT = 0xe279_2aca;
export const EXTENSION_FEATURE_NAMES = 0x6803_f857;
/** Feature name table: u8 type (0: incompatible), u8 bit, 46 bytes of name. */
export const FEATURE_NAME_ENTRY_SIZE = 48;

export const MIN_CLUSTER_BITS = 9;
/** 2 MiB: the limit of QEMU, which is where images come from. */
export const MAX_CLUSTER_BITS = 21;
export const MAX_REFCOUNT_ORDER = 6;
export const V2_REFCOUNT_ORDER = 4;
export const MAX_BACKING_NAME_LENGTH = 1023;

// QEMU's limits on what is held in memory: no image of its making is beyond them.
export const MAX_L1_BYTES = 32 * 1024 * 1024;
export const MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024;
export const MAX_SNAPSHOTS = 65_536;

// Entries of L1, L2 and refcount tables are u64. What follows is of their upper and lower 32 bits.
export const TABLE_ENTRY_SIZE = 8;
/** L1 and L2: the cluster's reference count is exactly one, so it may be written in place. Bit 63. */
export const COPIED_HIGH_MASK = 0x8000_0000;
/** L2: the rest is a compressed cluster descriptor. Bit 62. */
export const COMPRESSED_HIGH_MASK = 0x4000_0000;
/** L2, version 3: the cluster reads as zeroes. Bit 0. */
export const ZERO_LOW_MASK = 1;
/** L1 and L2: bits 9 to 55 are an offset. */
export const OFFSET_HIGH_MASK = 0x00ff_ffff;
export const OFFSET_LOW_MASK = 0xffff_fe00;
/** Compressed data is measured in these, whatever the cluster size. */
export const COMPRESSED_SECTOR_SIZE = 512;

// Snapshot table entry: offsets in bytes.
export const SNAPSHOT_L1_OFFSET_OFFSET = 0; // u64
export const SNAPSHOT_L1_SIZE_OFFSET = 8; // u32
export const SNAPSHOT_ID_LENGTH_OFFSET = 12; // u16
export const SNAPSHOT_NAME_LENGTH_OFFSET = 14; // u16
export const SNAPSHOT_EXTRA_LENGTH_OFFSET = 36; // u32
export const SNAPSHOT_FIXED_SIZE = 40;

/**
 * Host offsets are Numbers, exact below this. Bits 9 to 55 could say more, but no file system holds such a file, so a
 * larger offset is an error wherever it is met.
 */
export const MAX_HOST_OFFSET = 2 ** 53;
