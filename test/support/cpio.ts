// A cpio archive as Linux takes it for an initramfs: regular files only, in the "new ASCII" format.
//
// Specification: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.

/** A file with its mode, S_IFREG included. */
export interface CpioFile {
  readonly mode: number;
  readonly content: string | Uint8Array;
}

/** An archive of files by their path, which has no leading slash. Its size is a multiple of 4, so another may follow. */
export function buildCpio(files: Readonly<Record<string, string | CpioFile>>): Buffer {
  const entries = Object.entries(files).map(([path, file], index) => {
    const { mode, content } = typeof file === 'string' ? { mode: 0o100644, content: file } : file;
    return entry(index + 1, mode, path, content);
  });
  return Buffer.concat([...entries, entry(0, 0, 'TRAILER!!!', '')]);
}

/*
 * struct cpio_newc_header, every field after the magic eight hexadecimal digits:
 *   magic "070701", ino, mode, uid, gid, nlink, mtime, filesize, maj, min, rmaj, rmin, namesize, chksum;   // 110
 * then the name with its NUL and the content, each padded to a multiple of 4 from the start of the archive.
 */
function entry(inode: number, mode: number, name: string, content: string | Uint8Array): Buffer {
  const fields = [inode, mode, 0, 0, 1, 0, Buffer.from(content).length, 0, 0, 0, 0, Buffer.byteLength(name) + 1, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  return Buffer.concat([padded(`${header}${name}\0`), padded(content)]);
}

function padded(content: string | Uint8Array): Buffer {
  const bytes = Buffer.from(content);
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
