// Names what a file is that is no kernel, by its magic numbers, and says what to do about it. Main thread.
//
// Sources: Documentation/arch/x86/boot.rst, Documentation/arch/arm64/booting.rst,
// Documentation/arch/riscv/boot-image-header.rst, and each format's own description; the same numbers as file(1) uses.

/** A recognised format. */
export interface FileFormat {
  /** With its article: `a gzip file`. */
  readonly name: string;
  readonly mend: string;
}

/** How much of a file `recogniseFormat` wants to see: up to the magic of an ISO image. */
export const FORMAT_PROBE_SIZE = 0x8006;

const KERNEL_NEEDED = 'an uncompressed ELF kernel (vmlinux) or a bzImage is needed';
const DISK_MEND = `a disk image holds a kernel but is none: ${KERNEL_NEEDED}`;
const OTHER_MACHINE_MEND = 'a kernel built for x86-64 is needed';

interface Signature extends FileFormat {
  readonly magics: readonly { readonly offset: number; readonly bytes: readonly number[] }[];
}

function ascii(text: string): number[] {
  return [...Buffer.from(text, 'latin1')];
}

function decompress(command: string): string {
  return `decompress it first: ${command} > vmlinux; if it is the initramfs, name it as such`;
}

// The order matters where one format wraps another: an ARM64 Image may begin with a PE header. A bzImage, which may begin
// with one too and has the boot sector magic of a disk, has been recognised before it gets here.
const SIGNATURES: readonly Signature[] = [
  { name: 'an ARM64 Image', mend: OTHER_MACHINE_MEND, magics: [{ offset: 56, bytes: ascii('ARM\x64') }] },
  { name: 'a RISC-V Image', mend: OTHER_MACHINE_MEND, magics: [{ offset: 56, bytes: ascii('RSC\x05') }] },
  { name: 'a PE (EFI or Windows) program', mend: KERNEL_NEEDED, magics: [{ offset: 0, bytes: ascii('MZ') }] },
  { name: 'a gzip file', mend: decompress('zcat vmlinux.gz'), magics: [{ offset: 0, bytes: [0x1f, 0x8b] }] },
  {
    name: 'an xz file',
    mend: decompress('xzcat vmlinux.xz'),
    magics: [{ offset: 0, bytes: [0xfd, ...ascii('7zXZ\0')] }],
  },
  {
    name: 'a zstd file',
    mend: decompress('zstdcat vmlinux.zst'),
    magics: [{ offset: 0, bytes: [0x28, 0xb5, 0x2f, 0xfd] }],
  },
  {
    name: 'an lz4 file',
    mend: decompress('lz4cat vmlinux.lz4'),
    magics: [{ offset: 0, bytes: [0x04, 0x22, 0x4d, 0x18] }],
  },
  {
    name: 'an lz4 file',
    mend: decompress('lz4cat vmlinux.lz4'),
    magics: [{ offset: 0, bytes: [0x02, 0x21, 0x4c, 0x18] }],
  },
  { name: 'a bzip2 file', mend: decompress('bzcat vmlinux.bz2'), magics: [{ offset: 0, bytes: ascii('BZh') }] },
  { name: 'an lzma file', mend: decompress('lzcat vmlinux.lzma'), magics: [{ offset: 0, bytes: [0x5d, 0, 0] }] },
  {
    name: 'an lzop file',
    mend: decompress('lzop -dc vmlinux.lzo'),
    magics: [{ offset: 0, bytes: [0x89, ...ascii('LZO')] }],
  },
  { name: 'a zip file', mend: 'unpack it first', magics: [{ offset: 0, bytes: ascii('PK\x03\x04') }] },
  { name: 'a script', mend: KERNEL_NEEDED, magics: [{ offset: 0, bytes: ascii('#!') }] },
  {
    name: 'a cpio archive',
    mend: `an initramfs is not a kernel: name it as the initramfs, and a vmlinux or bzImage as the kernel`,
    magics: [{ offset: 0, bytes: ascii('07070') }],
  },
  { name: 'a tar archive', mend: 'unpack it first', magics: [{ offset: 257, bytes: ascii('ustar') }] },
  { name: 'a U-Boot image', mend: KERNEL_NEEDED, magics: [{ offset: 0, bytes: [0x27, 0x05, 0x19, 0x56] }] },
  { name: 'an Android boot image', mend: KERNEL_NEEDED, magics: [{ offset: 0, bytes: ascii('ANDROID!') }] },
  { name: 'a device tree', mend: KERNEL_NEEDED, magics: [{ offset: 0, bytes: [0xd0, 0x0d, 0xfe, 0xed] }] },
  { name: 'a Mach-O program', mend: KERNEL_NEEDED, magics: [{ offset: 0, bytes: [0xcf, 0xfa, 0xed, 0xfe] }] },
  { name: 'a qcow2 disk image', mend: DISK_MEND, magics: [{ offset: 0, bytes: ascii('QFI\xfb') }] },
  { name: 'a VMDK disk image', mend: DISK_MEND, magics: [{ offset: 0, bytes: ascii('KDMV') }] },
  { name: 'a VHDX disk image', mend: DISK_MEND, magics: [{ offset: 0, bytes: ascii('vhdxfile') }] },
  { name: 'a VDI disk image', mend: DISK_MEND, magics: [{ offset: 0x40, bytes: [0x7f, 0x10, 0xda, 0xbe] }] },
  { name: 'a squashfs image', mend: DISK_MEND, magics: [{ offset: 0, bytes: ascii('hsqs') }] },
  { name: 'an ext2/3/4 file system image', mend: DISK_MEND, magics: [{ offset: 0x438, bytes: [0x53, 0xef] }] },
  { name: 'an ISO image', mend: DISK_MEND, magics: [{ offset: 0x8001, bytes: ascii('CD001') }] },
  { name: 'a raw disk image', mend: DISK_MEND, magics: [{ offset: 512, bytes: ascii('EFI PART') }] },
  { name: 'a raw disk image', mend: DISK_MEND, magics: [{ offset: 0x1fe, bytes: [0x55, 0xaa] }] },
];

/** What a file that begins with `head` (FORMAT_PROBE_SIZE bytes, or the whole file) is; for a file that is not ELF. */
export function recogniseFormat(head: Uint8Array): FileFormat {
  const match = SIGNATURES.find(({ magics }) =>
    magics.every(({ offset, bytes }) => bytes.every((byte, index) => head[offset + index] === byte)),
  );
  if (match !== undefined) return match;
  const name = isText(head) ? 'a text file' : 'of no known format';
  return { name, mend: KERNEL_NEEDED };
}

function isText(head: Uint8Array): boolean {
  return head.subarray(0, 512).every((byte) => (byte >= 0x20 && byte < 0x7f) || (byte >= 0x09 && byte <= 0x0d));
}
