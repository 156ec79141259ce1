// Formats of disk images by their first bytes. No thread of its own.

/** How much of a file is looked at. */
export const HEADER_BYTES = 512;

interface Format {
  readonly name: string;
  readonly magic: string;
}

/** Those that a monitor or a tool might take a file for. A VHD of fixed size has its mark at the end, and is not here. */
const FORMATS: readonly Format[] = [
  { name: 'qcow2', magic: 'QFI\xfb' },
  { name: 'VMDK', magic: 'KDMV' },
  { name: 'VMDK', magic: 'COWD' },
  { name: 'VMDK', magic: '# Disk DescriptorFile' },
  { name: 'VHDX', magic: 'vhdxfile' },
  { name: 'VHD', magic: 'conectix' },
  { name: 'VDI', magic: '<<< ' },
  { name: 'QED', magic: 'QED\0' },
  { name: 'LUKS', magic: 'LUKS\xba\xbe' },
];

function startsWith(bytes: Uint8Array, magic: string): boolean {
  for (let index = 0; index < magic.length; index++) if (bytes[index] !== magic.charCodeAt(index)) return false;
  return true;
}

/** The format that the first bytes of a file are those of; `undefined`: none, so the file is a raw image. */
export function formatOf(bytes: Uint8Array): string | undefined {
  for (const { name, magic } of FORMATS) if (startsWith(bytes, magic)) return name;
  return undefined;
}
