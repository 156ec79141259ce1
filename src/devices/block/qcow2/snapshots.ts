// Where the tables of internal snapshots are: they are not for us to change, only to keep guest data away from. Runs in
// the I/O worker, when an image is opened for writing.

import { NativeBuffer } from '../../../platform/native-buffer.js';
import { TWO_POW_32 } from '../../../platform/units.js';
import { checkMend, QcowError } from './errors.js';
import * as format from './format.js';
import { tableError, type QcowHeader } from './header.js';
import type { ImageFile } from './image-file.js';

/** QEMU's limit on what an entry may carry for future versions. */
const MAX_EXTRA_LENGTH = 1024;
const READ_SIZE = 64 * 1024;

/**
 * Tells `visit` where the snapshot table is and where each snapshot's L1 table is. Throws QcowError. The snapshots' L2
 * tables are not visited: there may be very many, and they are counted like all that is in use.
 */
export function forEachSnapshotTable(
  file: ImageFile,
  header: QcowHeader,
  visit: (offset: number, length: number, what: string) => void,
): void {
  const { path } = file.settings;
  const buffer = new NativeBuffer(READ_SIZE);
  let position = header.snapshotsOffset;
  let [windowStart, windowEnd] = [0, 0];
  for (let index = 0; index < header.snapshotCount; index++) {
    if (position + format.SNAPSHOT_FIXED_SIZE > file.end) {
      throw new QcowError('corrupt', path, 'the snapshot table passes the end of the file', checkMend(path));
    }
    if (position + format.SNAPSHOT_FIXED_SIZE > windowEnd) {
      const result = file.read(buffer.address, READ_SIZE, position);
      if (result < 0) throw tableError(path, 'the snapshot table', result);
      [windowStart, windowEnd] = [position, position + READ_SIZE];
    }
    const at = position - windowStart;
    const { view } = buffer;
    const high = view.getUint32(at + format.SNAPSHOT_L1_OFFSET_OFFSET);
    const l1Offset = high * TWO_POW_32 + view.getUint32(at + format.SNAPSHOT_L1_OFFSET_OFFSET + 4);
    const l1Bytes = view.getUint32(at + format.SNAPSHOT_L1_SIZE_OFFSET) * format.TABLE_ENTRY_SIZE;
    const extraLength = view.getUint32(at + format.SNAPSHOT_EXTRA_LENGTH_OFFSET);
    if (extraLength > MAX_EXTRA_LENGTH || l1Bytes > format.MAX_L1_BYTES) {
      throw new QcowError('corrupt', path, `snapshot ${index} has sizes that none can have`, checkMend(path));
    }
    if (l1Bytes > 0) visit(l1Offset, l1Bytes, `the L1 table of snapshot ${index}`);
    const idLength = view.getUint16(at + format.SNAPSHOT_ID_LENGTH_OFFSET);
    const nameLength = view.getUint16(at + format.SNAPSHOT_NAME_LENGTH_OFFSET);
    const length = format.SNAPSHOT_FIXED_SIZE + extraLength + idLength + nameLength;
    position += Math.ceil(length / 8) * 8;
  }
  if (header.snapshotCount > 0) visit(header.snapshotsOffset, position - header.snapshotsOffset, 'the snapshot table');
}
